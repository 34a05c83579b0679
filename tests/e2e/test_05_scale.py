"""Scaling under load: each key verified by value and count, each slot owned once, no error that clients do not absorb."""

import json
import threading

import pytest

from conftest import leader, scale_operator
from lib import faults, kube, settings
from lib.cache import check, fill
from lib.kube import kubectl, wait
from lib.load import Load, unharmed

KEYS = 50_000


class Reader(threading.Thread):
    """redis-py reads and writes beside redis-rs: an error that its cluster client raises fails the test."""

    def __init__(self, cache, prefix):
        super().__init__(daemon=True)
        self.cache, self.prefix, self.done, self.error, self.reads = cache, prefix, threading.Event(), None, 0

    def run(self):
        try:
            with self.cache.client() as client:
                while not self.done.is_set():
                    check(client, self.prefix, 2000)
                    # Written again with the same values: MOVED and pauses meet writes too.
                    fill(client, self.prefix, 2000)
                    self.reads += 2000
        except Exception as e:  # noqa: BLE001: raised by `finish`
            self.error = e

    def finish(self):
        self.done.set()
        self.join(60)
        if self.error:
            raise self.error
        assert self.reads > 0


def verify(cache, prefix, report):
    unharmed(report)
    nothing_lost_or_doubled(cache, prefix, report)


def nothing_lost_or_doubled(cache, prefix, report):
    assert report["lostAcknowledgedWrites"] == 0, report
    cache.check_slots()
    with cache.client() as client:
        check(client, prefix, KEYS)
    assert cache.count() == KEYS + report["keys"]


def test_out_and_in_under_load(caches):
    a, b = caches
    for cache, prefix in ((a, "a:"), (b, "b:")):
        with cache.client() as client:
            fill(client, prefix, KEYS)
    with Load(a) as load_a, Load(b, rate=600) as load_b:
        readers = [Reader(a, "a:"), Reader(b, "b:")]
        for reader in readers:
            reader.start()
        for shards_a, shards_b in ((5, 3), (2, 1)):
            a.scale(shards_a), b.scale(shards_b)
            for cache in caches:
                cache.wait_ready(240)
                cache.check_slots()
        for reader in readers:
            reader.finish()
        reports = load_a.stop(), load_b.stop()
    verify(a, "a:", reports[0])
    verify(b, "b:", reports[1])
    for cache, shards in ((a, 2), (b, 1)):
        assert len(cache.pods()) == shards * 2
        assert cache.status()["shards"] == shards


def test_too_little_room_is_refused_with_bytes(caches):
    """Two shards' keys do not fit into one: scaling in says how much is missing, and changes nothing."""
    _, b = caches
    with b.client() as client:
        limit = b.hello(b.primary("0"))["maxBytes"]
        size = 16_000
        count = int(2 * limit * 0.7 / (size + 100))
        fill(client, "big:", count, size)
        before = b.check_slots()
        b.scale(1)

        def refused():
            cache = b.get()
            waits = [(c["type"], c["status"], c["reason"], c["message"]) for c in cache["status"]["conditions"]]
            told = json.dumps(waits) + json.dumps(cache["status"].get("pendingActions"))
            assert "room" in told.lower() and any(unit in told for unit in ("bytes", "MiB", "Mi")), told
            return True

        wait("it says that there is no room", 60, refused)
        assert b.check_slots() == before
        check(client, "big:", count, size)
        client.flushall(target_nodes=client.PRIMARIES)
    b.wait_ready(180)
    assert len(b.members("Primary")) == 1


def crashing_operator(cache):
    """The operator that crashes once at every step boundary, as a Deployment's patch."""
    env = {
        "CACHE_OPERATOR_CRASH_CACHE": str(cache),
        "CACHE_OPERATOR_CRASH_FILE": "/crashes/done",
        "CACHE_OPERATOR_CRASH_AT": "each",
        "CACHE_OPERATOR_CRASH_HOW": "exec",
    }
    container = {
        "name": "operator",
        "image": f"{settings.REGISTRY}/cache-operator:{settings.VERSION}-failpoints",
        "env": [{"name": k, "value": v} for k, v in env.items()],
        "volumeMounts": [{"name": "crashes", "mountPath": "/crashes"}],
    }
    return {"spec": {"template": {"spec": {"containers": [container], "volumes": [{"name": "crashes", "emptyDir": {}}]}}}}


def operator_pods():
    return kube.get("pods", ns=settings.SYSTEM, selector=f"app.kubernetes.io/instance={settings.RELEASE}")


def crashes():
    """The boundaries at which the operator crashed, from its log: it replaces itself, so the container lives on."""
    lines = kubectl("logs", "-n", settings.SYSTEM, operator_pods()[0]["metadata"]["name"]).splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{") and "crashing as told" in line]
    return [(e.get("fields") or e)["boundary"] for e in events]


def test_the_operator_crashes_at_every_step_boundary_of_a_scale(caches):
    a, b = caches
    with a.client() as client:
        fill(client, "a:", KEYS)
    others = b.pod_uids()
    try:
        scale_operator(1)
        kubectl("patch", f"deployment/{settings.RELEASE}", "-n", settings.SYSTEM, "--type=strategic", "-p", json.dumps(crashing_operator(a)))
        kubectl("rollout", "status", f"deployment/{settings.RELEASE}", "-n", settings.SYSTEM, "--timeout=90s")
        wait("the crashing operator leads", 60, lambda: [p["metadata"]["name"] for p in operator_pods()] == [leader()])
        with Load(a, rate=600) as load:
            for shards in (4, 3):
                a.scale(shards)
                a.wait_ready(300)
                a.check_slots()
            report = load.stop()
        met = crashes()
        (settings.EVIDENCE / "crash-boundaries.txt").write_text("\n".join(met) + "\n")
    finally:
        kubectl("rollout", "undo", f"deployment/{settings.RELEASE}", "-n", settings.SYSTEM)
        kubectl("rollout", "status", f"deployment/{settings.RELEASE}", "-n", settings.SYSTEM, "--timeout=90s")
        scale_operator(2)
    assert len(met) == len(set(met)), "a boundary was crashed at twice"
    places = {m.split(": ", 1)[1].split(" ")[0] for m in met}
    assert places == {"before", "stored", "after"} and len(met) >= 12, met
    # While nobody finishes what was begun a client may be sent to and fro longer than it likes; it goes on, and nothing is lost.
    assert report["maxGapMs"] < 15_000 and set(report["errors"]["byKind"]) <= {"MOVED", "Io"}, report
    nothing_lost_or_doubled(a, "a:", report)
    assert b.pod_uids() == others


@pytest.mark.own_cluster(reason="it kills processes in their containers")
@pytest.mark.parametrize("side", ["from", "to"])
def test_a_node_dies_in_the_middle_of_a_move(caches, side):
    a, _ = caches
    with a.client() as client:
        fill(client, "a:", KEYS, 400)
    a.scale(4)

    def moving():
        moves = a.topology().get("moves")
        return moves and a.primary(moves[0][side])

    victim = wait("slots are moving", 90, moving, every=0.05)
    faults.kill_process(a.ns, f"{victim}-0")
    a.wait_ready(240)
    a.check_slots()
    with a.client() as client:
        check(client, "a:", KEYS, 400)
    assert a.count() == KEYS
