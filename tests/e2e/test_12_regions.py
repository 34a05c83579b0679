"""Regions of a Cache: their sizes and expiries are enforced without a restart, they are metered, and they live through a scale."""

import pytest

from lib import kube
from lib.kube import kubectl, wait

NAMES = ("session", "plain")


def region(cache, name, **spec):
    return {
        "apiVersion": "cache.clusterdb.io/v1alpha1", "kind": "CacheRegion", "metadata": {"name": name, "namespace": cache.ns},
        "spec": {"cacheRef": {"name": cache.name}, **spec},
    }  # fmt: skip


def status(cache, name):
    return kube.get("cacheregion", name, cache.ns).get("status") or {}


def ready(cache, name):
    """Enforced by every node, and about the spec as it is now."""
    found = kube.get("cacheregion", name, cache.ns)
    condition = kube.condition(found, "Ready") or {}
    assert (condition.get("status"), condition.get("reason")) == ("True", "Enforced"), condition
    assert condition["observedGeneration"] == found["metadata"]["generation"], condition
    assert sorted(found["status"]["nodes"]) == sorted(cache.members())
    return found["status"]


def wait_ready(cache, name, seconds=60):
    return wait(f"{cache.ns}/{name} is enforced", seconds, lambda: ready(cache, name))


def figures(cache, name, seconds=200):
    """The region as the operator adds it up, once that is what the nodes hold; written every half minute at most."""
    held = sum(1 for key in keys(cache) if key.startswith(f"{name}:"))

    def told():
        found = status(cache, name)
        assert found.get("keys") == held, (found, held)
        return found

    return wait(f"{cache.ns}/{name} tells {held} keys", seconds, told)


def keys(cache):
    with cache.client() as client:
        return [key.decode() for key in client.scan_iter(count=2000)]


@pytest.fixture
def cache(caches):
    cache = caches[0]
    yield cache
    kubectl("delete", "cacheregions", "--all", "-n", cache.ns, "--timeout=30s")
    kubectl("patch", "cache", cache.name, "-n", cache.ns, "--type=merge", "-p", '{"spec":{"policy":null}}')
    cache.wait_ready(60)


def test_regions_are_enforced_and_metered_without_a_restart(cache):
    uids = cache.pod_uids()
    with cache.client() as client:
        # The region comes after half of its keys.
        for i in range(500):
            client.set(f"session:{i}", "x" * 100)
        kube.apply(region(cache, "session", size="50Mi", ttl={"default": "30m", "jitterPercent": 10}), region(cache, "plain"))
        for name in NAMES:
            wait_ready(cache, name)
        for i in range(500, 1000):
            client.set(f"session:{i}", "x" * 100)
            client.set(f"plain:{i}", "x")
        ttl = client.ttl("session:999")
        assert 27 * 60 - 30 <= ttl <= 33 * 60, ttl
        assert client.ttl("plain:999") == -1 == client.ttl("session:0")
        assert client.get("session:1") and client.get("session:absent") is None
    found = figures(cache, "session")
    assert found["keys"] == 1000 and found["usedBytes"] > 100_000 and found["size"] == "50Mi"
    header, *rows = kubectl("get", "cacheregions", "-n", cache.ns).splitlines()
    assert header.split() == ["NAME", "CACHE", "KEYS", "SIZE", "USED", "HIT%", "READY"]
    row = next(row for row in rows if row.startswith("session")).split()
    assert row[1] == cache.name and row[-1] == "True"
    # Smaller, and with another policy: what is too much goes, and nothing else.
    kube.apply(region(cache, "session", size="60Ki", eviction={"type": "FIFO"}))
    wait_ready(cache, "session")

    def fits():
        held = [key for key in keys(cache) if key.startswith("session:")]
        assert 100 < len(held) < 600, len(held)
        return held

    wait("the region is within its size", 30, fits)
    assert sum(1 for key in keys(cache) if key.startswith("plain:")) == 500
    assert figures(cache, "session")["evictedKeys"] > 0
    # Deleted: its keys are as any others.
    left = len(keys(cache))
    kubectl("delete", "cacheregion", "session", "-n", cache.ns, "--timeout=30s")
    wait_ready(cache, "plain")
    assert len(keys(cache)) == left
    assert cache.pod_uids() == uids


def test_the_caches_own_policy_holds_without_a_restart(cache):
    uids = cache.pod_uids()
    cache.patch(policy={"ttl": {"default": "1h"}, "eviction": {"type": "S3FIFO", "maxItemsPerShard": 200}})
    cache.wait_ready(60)
    with cache.client() as client:

        def expires():
            client.set("probe", "x")
            assert 0 < client.ttl("probe") <= 3600
            return True

        wait("keys get the Cache's expiry", 30, expires)
        for i in range(3000):
            client.set(f"key:{i}", "x")

    def bounded():
        held = len(keys(cache))
        assert held <= 200 * cache.shards, held
        return held

    wait("each shard has as many keys as it may", 30, bounded)
    assert cache.pod_uids() == uids


def test_values_are_compressed_as_region_and_cache_say(cache):
    uids = cache.pod_uids()
    kube.apply(region(cache, "session", compression={"type": "Zstd", "level": 5, "minSize": "1Ki"}), region(cache, "plain"))
    for name in NAMES:
        wait_ready(cache, name)
    value = "a value that shrinks; " * 200
    with cache.client() as client:

        def write(key):
            client.set(key, value)
            assert client.get(key) == value.encode()
            return client.memory_usage(key)

        assert write("session:1") < len(value) / 4 and write("plain:1") > len(value)
        cache.patch(policy={"compression": {"type": "LZ4"}})
        wait("the Cache's own holds for regions that say nothing", 30, lambda: write("plain:1") < len(value) / 4)
        kubectl("patch", "cacheregion", "session", "-n", cache.ns, "--type=merge", "-p", '{"spec":{"compression":{"type":"None","level":null,"minSize":null}}}')
        wait("the region's own None wins", 30, lambda: write("session:1") > len(value))
    assert cache.pod_uids() == uids


def test_conflicts_and_a_missing_cache_are_said(cache):
    kube.apply(region(cache, "session", keyPrefix="same:"))
    wait_ready(cache, "session")
    kube.apply(region(cache, "younger", keyPrefix="same:"))
    lost = {**region(cache, "lost")}
    lost["spec"]["cacheRef"] = {"name": "nobody"}
    kube.apply(lost)
    for name, reason, says in (("younger", "Conflicting", "session"), ("lost", "CacheNotFound", "nobody")):

        def told():
            condition = kube.condition(kube.get("cacheregion", name, cache.ns), "Ready")
            assert (condition["status"], condition["reason"]) == ("False", reason) and says in condition["message"], condition
            return True

        wait(f"{name} says why", 30, told)
    # Once the older one is gone, the younger one has the prefix.
    kubectl("delete", "cacheregion", "session", "-n", cache.ns, "--timeout=30s")
    wait_ready(cache, "younger")


def test_regions_live_through_a_scale(cache):
    kube.apply(region(cache, "session", size="50Mi"))
    wait_ready(cache, "session")
    with cache.client() as client:
        for i in range(2000):
            client.set(f"session:{i}", "x" * 50)
            client.rpush(f"session:list:{i}", "a", "b")
    try:
        cache.scale(cache.shards + 1)
        cache.wait_ready(240)
        wait_ready(cache, "session")
        assert figures(cache, "session")["keys"] == 4000
    finally:
        cache.scale(cache.shards)
        cache.wait_ready(240)
    wait_ready(cache, "session")
    assert figures(cache, "session")["keys"] == 4000
