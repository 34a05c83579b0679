"""A primary goes: its pod deleted, its process killed. A replica serves within seconds; what is lost is counted."""

import pytest

from lib import faults, kube
from lib.cache import Cache, check, fill, kind
from lib.kube import kubectl, wait
from lib.load import Load, unharmed

KEYS = 10_000
# Requests a second of the load; two of three are writes.
RATE = 900


def other_primary(cache, shard, was):
    return wait(f"{cache}: shard {shard} has another primary than {was}", 30, lambda: (p := cache.primary(shard)) != was and p, every=0.05)


def test_deleted_primaries_hand_over_and_lose_nothing(caches):
    for cache in caches:
        with cache.client() as client:
            fill(client, "kept:", KEYS)
    with Load(caches[0], rate=RATE) as load_a, Load(caches[1], rate=RATE) as load_b:
        for cache in caches:
            was = cache.primary("0")
            kubectl("delete", "pod", f"{was}-0", "-n", cache.ns, "--wait=false")
            other_primary(cache, "0", was)
        for cache in caches:
            cache.wait_ready(120)
        reports = load_a.stop(), load_b.stop()
    for cache, report in zip(caches, reports):
        unharmed(report)
        assert report["maxGapMs"] < 5_000, report
        with cache.client() as client:
            check(client, "kept:", KEYS)
        assert cache.count() == KEYS + report["keys"]


@pytest.mark.own_cluster(reason="it kills processes in their containers")
def test_a_killed_process_comes_back_empty_and_never_serves_as_primary(caches):
    for cache in caches:
        with cache.client() as client:
            fill(client, "kept:", KEYS)
            # A key of shard 0, asked of the killed member over and over.
            slots = set(cache.owned_slots()[cache.primary("0")])
            key = next(f"kept:{i}" for i in range(KEYS) if kind(i) == "string" and client.keyslot(f"kept:{i}") in slots)
            value = client.get(key).decode()
        was = cache.primary("0")
        data_id, pods = cache.hello(was)["dataID"], cache.pod_uids()
        with Load(cache, rate=RATE) as load, faults.Beside(faults.answers_of(cache, was, key), every=0.02) as beside:
            faults.kill_process(cache.ns, f"{was}-0")
            now = other_primary(cache, "0", was)
            cache.wait_ready(120)
            answers = beside.finish()
            report = load.stop()
        assert now != was
        state = cache.hello(was)
        assert state["dataID"] != data_id and state["role"] == "Replica"
        uid, restarts = cache.pod_uids()[f"{was}-0"]
        assert uid == pods[f"{was}-0"][0] and restarts == pods[f"{was}-0"][1] + 1
        # Served as primary with an empty memory it would have answered that there is no such key.
        assert ("value", None) not in [a for _, a in answers], answers
        assert any(a[0] != "value" for _, a in answers), "the member was never seen away"
        assert all(a[1] == value for _, a in answers if a[0] == "value")
        # Asynchronous: what was acknowledged and on its way. That is less than a second's writes of one shard.
        assert report["lostAcknowledgedWrites"] <= RATE * 2 / 3 / cache.shards, report
        assert report["maxGapMs"] < 15_000, report
        with cache.client() as client:
            check(client, "kept:", KEYS)


@pytest.mark.own_cluster(reason="it kills processes in their containers")
def test_all_copies_of_a_shard_lost_is_said_and_served_again(caches):
    """Nothing can bring the keys back: the shard starts empty, with a Warning; the others keep theirs."""
    _, b = caches
    with b.client() as client:
        fill(client, "kept:", KEYS)
    owned = b.owned_slots()[b.primary("1")]
    members = [m["name"] for s in b.topology()["shards"] if s["name"] == "0" for m in s["members"]]
    for member in members:
        faults.kill_process(b.ns, f"{member}-0")
    wait("the loss is told", 60, lambda: [e for e in kube.get("events", ns=b.ns) if e["reason"] == "DataLost" and e["type"] == "Warning"])
    b.wait_ready(120)
    with b.client() as client:
        left = [i for i in range(KEYS) if client.keyslot(f"kept:{i}") in set(owned)]
        assert b.count() == len(left)
        assert client.set("again", 1)


@pytest.mark.own_cluster(reason="it kills processes in their containers")
def test_an_invalid_spec_does_not_hinder_a_failover(caches):
    """What the API server cannot see: 64Mi leaves nothing to the store."""
    _, b = caches
    with b.client() as client:
        fill(client, "kept:", KEYS)
    before = b.pod_uids()
    b.patch(resources={"limits": {"memory": "64Mi"}}, shards=b.shards + 1)
    ready = wait(f"{b} is Invalid", 30, lambda: b.status().get("phase") == "Invalid" and b.condition("Ready"))
    assert "spec.resources.limits.memory" in ready["message"]
    was = b.primary("0")
    faults.kill_process(b.ns, f"{was}-0")
    other_primary(b, "0", was)
    assert b.status()["phase"] == "Invalid" and len(b.topology()["shards"]) == b.shards
    b.patch(resources={"limits": {"memory": b.memory}}, shards=b.shards)
    b.wait_ready(120)
    assert {pod: uid for pod, (uid, _) in b.pod_uids().items()} == {pod: uid for pod, (uid, _) in before.items()}
    with b.client() as client:
        check(client, "kept:", KEYS)


def test_somebody_elses_object_is_told_and_does_not_hinder_the_rest(caches):
    """A Service of the name that a new Cache needs is not the operator's to take."""
    a, _ = caches
    foreign = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "taken", "namespace": a.ns}, "spec": {"selector": {"app": "other"}, "ports": [{"port": 80}]}}
    kube.apply(foreign)
    taken = Cache(a.ns, "taken", shards=1, replicas=1, memory="128Mi").create()
    try:
        told = wait("the Cache says whose object is in the way", 60, lambda: (c := taken.condition("Degraded")) and c["status"] == "True" and c)
        assert "taken" in told["message"] and "Service" in told["message"], told
        wait("its members serve nevertheless", 60, lambda: taken.primary("0"))
        kubectl("delete", "service", "taken", "-n", a.ns)
        taken.wait_ready(120)
    finally:
        kubectl("delete", "cache", "taken", "-n", a.ns, "--wait=true")
        kubectl("delete", "service", "taken", "-n", a.ns, "--ignore-not-found")
