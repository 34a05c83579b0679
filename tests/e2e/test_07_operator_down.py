"""The data plane outlives the operator; a restarted one restarts nothing; a stale one is refused."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
import yaml

from conftest import chart_values, helm, leader, scale_operator
from lib import kube, settings
from lib.cache import SLOTS, check, fill, span
from lib.kube import kubectl, wait
from lib.load import Load

KEYS = 10_000


def restart_in_turn(cache):
    for member in cache.members():
        pod = f"{member}-0"
        uid = kube.get("pod", pod, cache.ns)["metadata"]["uid"]
        kubectl("delete", "pod", pod, "-n", cache.ns)

        def back():
            found = kube.get("pod", pod, cache.ns)
            return found and found["metadata"]["uid"] != uid and kube.condition(found, "Ready")["status"] == "True"

        wait(f"{cache}: {pod} is back and in sync", 90, back)


def every_slot_is_owned_once(cache):
    """As all members say by themselves: the status is from before, as nobody writes it."""
    owned = []
    for member in cache.members():
        state = cache.hello(member)
        assert state["serving"] or state["role"] == "Replica", state
        with cache.node(member) as node:
            node.set_response_callback("CLUSTER NODES", lambda text, **_: text)
            me = next(f for f in map(str.split, node.execute_command("CLUSTER NODES").splitlines()) if "myself" in f[2])
            owned += [slot for f in me[8:] if not f.startswith("[") for slot in span(f)]
    assert sorted(owned) == list(range(SLOTS)), f"{cache}: {len(owned)} slots are owned"


def test_without_an_operator_every_pod_restarts_in_turn(caches):
    for cache in caches:
        with cache.client() as client:
            fill(client, "kept:", KEYS)
    before = {str(c): c.topology() for c in caches}
    scale_operator(0)
    with Load(caches[0], rate=400) as load_a, Load(caches[1], rate=400) as load_b:
        with ThreadPoolExecutor() as pool:
            list(pool.map(restart_in_turn, caches))
        reports = load_a.stop(), load_b.stop()
    for cache, report in zip(caches, reports):
        assert report["lostAcknowledgedWrites"] == 0, report
        # Each primary went in its turn: clients waited for an heir, and went on.
        assert report["maxGapMs"] < 15_000, report
        every_slot_is_owned_once(cache)
        with cache.client() as client:
            check(client, "kept:", KEYS)
    scale_operator(2)
    for cache, report in zip(caches, reports):
        cache.wait_ready(120)
        topology = cache.topology()
        assert topology["clusterID"] == before[str(cache)]["clusterID"]
        assert topology["epoch"] > before[str(cache)]["epoch"]
        cache.check_slots()
        with cache.client() as client:
            check(client, "kept:", KEYS)
        assert cache.count() == KEYS + report["keys"]


def test_a_cleared_status_is_adopted_again(caches):
    uids = {}
    for cache in caches:
        uids[cache] = cache.pod_uids()
        with cache.client() as client:
            fill(client, "kept:", KEYS)
    before = {c: c.topology() for c in caches}
    for cache in caches:
        kubectl("patch", "cache", cache.name, "-n", cache.ns, "--subresource=status", "--type=json", "-p", '[{"op": "remove", "path": "/status"}]')
    for cache in caches:
        cache.wait_ready(90)
        after = cache.topology()
        assert after["clusterID"] == before[cache]["clusterID"] and after["epoch"] > before[cache]["epoch"]
        slots = {s["name"]: s["slots"] for s in after["shards"]}
        assert slots == {s["name"]: s["slots"] for s in before[cache]["shards"]}
        with cache.client() as client:
            check(client, "kept:", KEYS)
        assert cache.count() == KEYS
        assert cache.pod_uids() == uids[cache]


def test_a_stale_leaders_push_is_refused(caches):
    for cache in caches:
        member = cache.primary("0")
        with cache.control(member) as control:
            held = json.loads(control.execute_command("CACHE.NODE", "TOPOLOGY", "GET"))

            def push(**changes):
                return control.execute_command("CACHE.NODE", "TOPOLOGY", "SET", json.dumps({**held, **changes}))

            assert push() in ("OK", True)  # the same again
            for changes, says in (
                ({"epoch": held["epoch"] - 1}, "STALEEPOCH"),
                ({"moves": [], "shards": held["shards"][:1]}, "STALEEPOCH"),
                ({"epoch": held["epoch"] + 1, "clusterID": "11111111-2222-4333-8444-555555555555"}, "FOREIGNDATA"),
                ({"epoch": held["epoch"] + 1, "shards": "all"}, "BADTOPOLOGY"),
            ):
                with pytest.raises(redis.ResponseError, match=says):
                    push(**changes)
            assert json.loads(control.execute_command("CACHE.NODE", "TOPOLOGY", "GET")) == held


def test_a_restarted_or_upgraded_operator_restarts_no_pod(caches):
    a, b = caches
    before = [c.pod_uids() for c in caches]
    was = leader()
    # Killed without warning, the other takes over when the Lease runs out.
    kubectl("delete", "pod", was, "-n", settings.SYSTEM, "--grace-period=0", "--force")
    wait("another operator leads", 45, lambda: leader() not in (was, None, ""))
    kubectl("rollout", "restart", f"deployment/{settings.RELEASE}", "-n", settings.SYSTEM)
    kubectl("rollout", "status", f"deployment/{settings.RELEASE}", "-n", settings.SYSTEM, "--timeout=120s", timeout=130)
    # As an earlier release's chart left it: Helm alone would not upgrade what lies in a chart's crds/.
    older = kube.get("crd", "caches.cache.clusterdb.io")
    older = {**older, "metadata": {k: older["metadata"][k] for k in ("name", "labels", "annotations")}}
    older.pop("status")
    del older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["maintenance"]
    kubectl("replace", "-f", "-", stdin=yaml.safe_dump(older))
    # An upgrade comes with a newer server: the Caches keep theirs, and say so.
    try:
        helm("upgrade", settings.RELEASE, str(settings.CHART), "-n", settings.SYSTEM, "--wait", *chart_values(), "--set-string", f"cacheImage.tag={settings.VERSION}-next")
        for cache in caches:
            wait(f"{cache} says UpdateAvailable", 60, lambda: (cache.condition("UpdateAvailable") or {}).get("status") == "True")
            cache.wait_ready(60)
            assert cache.status()["image"] == settings.NODE_IMAGE
        assert [c.pod_uids() for c in caches] == before
        with b.client() as client:
            fill(client, "kept:", KEYS)
        b.annotate("update", "once")
        wait("the update is taken, and the permission taken back", 240, lambda: b.status()["image"] == settings.NEXT_IMAGE and "cache.clusterdb.io/update" not in (b.get()["metadata"].get("annotations") or {}))
        b.wait_ready(240)
        assert {c["image"] for pod in b.pods() for c in pod["spec"]["containers"]} == {settings.NEXT_IMAGE}
        with b.client() as client:
            check(client, "kept:", KEYS)
        assert a.pod_uids() == before[0] and a.status()["image"] == settings.NODE_IMAGE
        crd = kube.get("crd", "caches.cache.clusterdb.io")
        assert "maintenance" in crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    finally:
        helm("upgrade", settings.RELEASE, str(settings.CHART), "-n", settings.SYSTEM, "--wait", *chart_values())
    for cache in caches:
        cache.wait_ready(60)
    assert a.pod_uids() == before[0]
    # An older operator takes no image back: the Cache says that another is this one's default, and keeps what it has.
    assert b.status()["image"] == settings.NEXT_IMAGE
    b.annotate("update", "once")
    wait("the default image again", 240, lambda: b.status()["image"] == settings.NODE_IMAGE)
    b.wait_ready(240)
