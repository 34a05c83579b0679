"""A drained node, a partitioned node: the Cache says so within 10 s, and heals."""

import pytest

import conftest
from conftest import leader
from lib import faults, kube, settings
from lib.cache import check, fill
from lib.kube import kubectl, wait
from lib.load import Load, unharmed

KEYS = 10_000


def worker(caches):
    """A node, other than the control plane's, with members of both Caches. If the operator's leader is on it, it is made to leave."""
    on = [{p["spec"]["nodeName"] for p in c.pods()} for c in caches]
    node = sorted(set.intersection(*on) - {"node-1"})[0]
    was = leader()
    if kube.get("pod", was, settings.SYSTEM)["spec"]["nodeName"] == node:
        kubectl("cordon", node)
        try:
            # Another one, elsewhere, takes over; what replaces this one starts elsewhere too.
            kubectl("delete", "pod", was, "-n", settings.SYSTEM)
            wait("another operator leads", 45, lambda: leader() not in (was, None, ""))
            conftest.scale_operator(2)
        finally:
            kubectl("uncordon", node)
        assert kube.get("pod", leader(), settings.SYSTEM)["spec"]["nodeName"] != node, "both operators were on one node"
    return node


def prepare(caches):
    for cache in caches:
        with cache.client() as client:
            fill(client, "kept:", KEYS)


def healed(caches):
    for cache in caches:
        cache.wait_ready(180)
        cache.check_slots()
        with cache.client() as client:
            check(client, "kept:", KEYS)


def test_a_drained_node(caches):
    prepare(caches)
    node = worker(caches)
    try:
        with Load(caches[0], rate=400) as load, faults.Beside(faults.unwell(caches[0])) as a, faults.Beside(faults.unwell(caches[1])) as b:
            kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=150s", timeout=160)
            healed(caches)
            told = a.finish(), b.finish()
            report = load.stop()
        # Pods are evicted at once, each as soon as its budget allows: the first within the first seconds.
        for seen in told:
            assert seen and seen[0][0] < 10, seen
        unharmed(report)
        assert not [p for c in caches for p in c.pods() if p["spec"]["nodeName"] == node]
    finally:
        kubectl("uncordon", node)


@pytest.mark.own_cluster(reason="it cuts a node's network")
def test_a_partitioned_node(caches):
    prepare(caches)
    node = worker(caches)
    with Load(caches[0], rate=400) as load:
        with faults.partitioned(node):
            with faults.Beside(faults.unwell(caches[0])) as a, faults.Beside(faults.unwell(caches[1])) as b:
                for cache, beside in ((caches[0], a), (caches[1], b)):
                    kube.wait(f"{cache} says that it is not well", 10, lambda: beside.seen)
                    assert beside.seen[0][0] < 10, beside.seen

            def serves(cache):
                with cache.client() as client:
                    return check(client, "kept:", KEYS)

            for cache in caches:
                kube.wait(f"{cache} serves every key without {node}", 60, lambda: serves(cache))
        healed(caches)
        report = load.stop()
    assert report["maxGapMs"] < 30_000, report
    # Asynchronous: what was acknowledged and had not left the node; and, as it serves on while cut off, what clients on its side wrote.
    assert report["lostAcknowledgedWrites"] <= 400, report
