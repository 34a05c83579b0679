"""A roll goes one member at a time, stops at the first that does not get well, and recovers by itself."""

from lib import faults, kube, settings
from lib.cache import check, fill
from lib.kube import kubectl, wait
from lib.load import Load, unharmed

KEYS = 10_000
BROKEN = f"{settings.REGISTRY}/cache-node:not-there"


def images(cache):
    sets = kube.get("statefulsets", ns=cache.ns, selector=f"cache.clusterdb.io/cache={cache.name}")
    return sorted(s["spec"]["template"]["spec"]["containers"][0]["image"] for s in sets)


def away(cache):
    """A look for Beside: how many members of each shard are not ready, where that is any."""

    def look():
        down = {}
        for pod in cache.pods():
            if (kube.condition(pod, "Ready") or {}).get("status") != "True":
                shard = pod["metadata"]["labels"]["cache.clusterdb.io/shard"]
                down[shard] = down.get(shard, 0) + 1
        return down or None

    return look


def test_a_broken_image_stops_at_one_member_and_the_mended_spec_recovers(caches):
    a, b = caches
    untouched = a.pod_uids()
    with b.client() as client:
        fill(client, "kept:", KEYS)
    with Load(b, rate=600) as load, faults.Beside(away(b)) as beside:
        b.patch(image=BROKEN)

        def stuck():
            assert images(b).count(BROKEN) == 1
            degraded, ready = b.condition("Degraded"), b.condition("Ready")
            told = f"{degraded} {ready} {b.status().get('pendingActions')}"
            assert (degraded or {}).get("status") == "True" or ready["status"] == "False", told
            assert "not-there" in told or "ImagePull" in told, told
            return True

        wait("it says that one member cannot start, and why", 90, stuck)
        roles = {m["name"]: m["role"] for s in b.topology()["shards"] for m in s["members"]}
        broken = next(s for s in kube.get("statefulsets", ns=b.ns) if s["spec"]["template"]["spec"]["containers"][0]["image"] == BROKEN)
        assert roles[broken["metadata"]["name"]] != "Primary"
        with b.client() as client:
            check(client, "kept:", KEYS)
        # The mended spec, with an image that is there: it goes on by itself.
        b.patch(image=settings.NEXT_IMAGE)
        b.wait_ready(240)
        assert images(b) == [settings.NEXT_IMAGE] * 4
        together = [down for _, down in beside.finish() if sum(down.values()) > 1]
        report = load.stop()
    unharmed(report)
    # The broken one aside, members went one at a time: never two of a shard.
    assert not [d for d in together if max(d.values()) > 1], together
    with b.client() as client:
        check(client, "kept:", KEYS)
    assert b.count() == KEYS + report["keys"]
    assert a.pod_uids() == untouched


def test_a_restart_by_annotation_rolls_all_of_one_cache(caches):
    a, b = caches
    untouched, before = a.pod_uids(), b.pod_uids()
    with b.client() as client:
        fill(client, "kept:", KEYS)
    b.annotate("restart", "once-more")
    wait("every pod is another", 180, lambda: all(before[n] != u for n, u in b.pod_uids().items()) and len(b.pod_uids()) == len(before))
    b.wait_ready(90)
    with b.client() as client:
        check(client, "kept:", KEYS)
    assert a.pod_uids() == untouched


def test_paused_changes_nothing_until_it_goes_on(caches):
    _, b = caches
    b.patch(paused=True)
    wait("it says Paused", 30, lambda: b.status().get("phase") == "Paused")
    b.scale(1)
    kubectl("wait", f"cache/{b.name}", "-n", b.ns, "--for=jsonpath={.status.observedGeneration}=" + str(b.get()["metadata"]["generation"]), "--timeout=30s")
    assert len(b.members("Primary")) == 2
    with b.client() as client:
        assert client.set("while", "paused")
    b.patch(paused=False)
    b.wait_ready(120)
    assert len(b.members("Primary")) == 1
