"""One Cache: its object, its nodes, its clients."""

import base64
import json

import redis
from redis.cluster import ClusterNode, RedisCluster

from . import kube

SLOTS = 16384


class Cache:
    def __init__(self, ns, name, shards=3, replicas=1, memory="160Mi"):
        self.ns, self.name = ns, name
        self.shards, self.replicas, self.memory = shards, replicas, memory

    def __str__(self):
        return f"{self.ns}/{self.name}"

    # ---- the object

    def manifest(self, **spec):
        return {
            "apiVersion": "cache.clusterdb.io/v1alpha1",
            "kind": "Cache",
            "metadata": {"name": self.name, "namespace": self.ns},
            "spec": {
                "shards": self.shards,
                "replicasPerShard": self.replicas,
                "resources": {"limits": {"memory": self.memory}},
                **spec,
            },
        }

    def create(self, **spec):
        kube.apply(self.manifest(**spec))
        return self

    def get(self):
        return kube.get("cache", self.name, self.ns)

    def status(self):
        return (self.get() or {}).get("status") or {}

    def patch(self, **spec):
        kube.patch("cache", self.name, self.ns, {"spec": spec})

    def annotate(self, key, value):
        kube.patch("cache", self.name, self.ns, {"metadata": {"annotations": {f"cache.clusterdb.io/{key}": value}}})

    def scale(self, shards):
        kube.kubectl("scale", f"cache/{self.name}", "-n", self.ns, f"--replicas={shards}")

    def condition(self, kind):
        return kube.condition(self.get() or {}, kind)

    def is_ready(self):
        """Ready, settled, and about the spec as it is now."""
        cache = self.get()
        status = cache.get("status") or {}
        for kind, wanted in (("Ready", "True"), ("Progressing", "False"), ("Degraded", "False")):
            found = kube.condition(cache, kind)
            if not found or found["status"] != wanted:
                raise AssertionError(f"{self}: {status.get('phase')}: {kind}: {found and found['message']}; {status.get('pendingActions')}")
        if status.get("observedGeneration") != cache["metadata"]["generation"]:
            raise AssertionError(f"{self}: the status is about generation {status.get('observedGeneration')}")
        topology = status["topology"]
        if len(topology["shards"]) != cache["spec"]["shards"] or topology.get("moves"):
            raise AssertionError(f"{self}: {len(topology['shards'])} shards, moves: {topology.get('moves')}")
        wanted = 1 + cache["spec"]["replicasPerShard"]
        for shard in topology["shards"]:
            roles = sorted(m["role"] for m in shard["members"])
            if roles != ["Primary"] + ["Replica"] * (wanted - 1):
                raise AssertionError(f"{self}: shard {shard['name']}: {roles}; {status.get('pendingActions')}")
        return status

    def wait_ready(self, seconds=180):
        return kube.wait(f"{self} is Ready", seconds, self.is_ready)

    def topology(self):
        return self.status()["topology"]

    def members(self, role=None):
        return [m["name"] for s in self.topology()["shards"] for m in s["members"] if role in (None, m["role"])]

    def primary(self, shard):
        return next(
            m["name"] for s in self.topology()["shards"] if s["name"] == shard for m in s["members"] if m["role"] == "Primary"
        )

    @property
    def selector(self):
        return f"cache.clusterdb.io/cache={self.name},app.kubernetes.io/component=node"

    def pods(self):
        return kube.get("pods", ns=self.ns, selector=self.selector)

    def pod_uids(self):
        return kube.pod_uids(self.ns, self.selector)

    # ---- clients

    @property
    def host(self):
        return f"{self.name}.{self.ns}.svc"

    def secret(self, name, key="password"):
        return base64.b64decode(kube.get("secret", name, self.ns)["data"][key]).decode()

    def password(self):
        return self.secret(f"{self.name}-auth")

    def client(self, **options):
        """redis-py's cluster client, as an application would make it."""
        return RedisCluster(
            startup_nodes=[ClusterNode(self.host, 6379)],
            password=self.password(),
            socket_timeout=5,
            socket_connect_timeout=2,
            **options,
        )

    def member_host(self, member):
        return f"{member}-0.{self.name}-nodes.{self.ns}.svc"

    def node(self, member, port=6379, password=None):
        """A connection to one member, by its own name."""
        return redis.Redis(
            host=self.member_host(member),
            port=port,
            password=password or self.password(),
            socket_timeout=5,
            socket_connect_timeout=2,
            decode_responses=True,
        )

    def control(self, member):
        return self.node(member, 7379, self.secret(f"{self.name}-control"))

    def hello(self, member):
        """The NodeState of docs/protocol.md."""
        with self.control(member) as c:
            return json.loads(c.execute_command("CACHE.NODE", "HELLO"))

    # ---- what the nodes themselves say

    def owned_slots(self):
        """Member → the slots it says it owns, asked of each primary by itself."""
        owned = {}
        for member in self.members("Primary"):
            with self.node(member) as node:
                node.set_response_callback("CLUSTER NODES", lambda text, **_: text)
                for line in node.execute_command("CLUSTER NODES").splitlines():
                    fields = line.split()
                    if "myself" in fields[2].split(","):
                        owned[member] = [slot for f in fields[8:] if not f.startswith("[") for slot in span(f)]
        return owned

    def check_slots(self):
        """Each slot is owned once."""
        owned = self.owned_slots()
        every = sorted(slot for slots in owned.values() for slot in slots)
        assert every == list(range(SLOTS)), f"{self}: not each slot once: { {m: len(s) for m, s in owned.items()} }"
        return owned

    def count(self):
        """Keys over all primaries, as each of them counts."""
        total = 0
        for member in self.members("Primary"):
            with self.node(member) as node:
                total += node.dbsize()
        return total


def span(text):
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


# From this size of a value on all are strings.
PLAIN_FROM = 4096


def kind(i, size=32):
    """Of ten keys one is a hash, one a set and one a sorted set; of a hundred hashes one is big."""
    return "string" if size >= PLAIN_FROM else {3: "hash", 5: "set", 7: "zset"}.get(i % 10, "string")


def value(prefix, i, size=32):
    """What a key holds, as redis-py reads it: it follows from the name."""
    text = f"{prefix}{i}/".encode().ljust(size, b"%x" % (i % 16))
    match kind(i, size):
        case "hash":
            return {b"text": text} | {b"f%d" % n: b"%d" % i for n in range(600 if i % 1000 == 3 else 2)}
        case "set":
            return {text, b"of", b"%d" % i}
        case "zset":
            return [(b"of", -1.5), (text, float(i))]
    return text


def write(batch, key, i, size, what):
    """May be done again: the key is the same."""
    match kind(i, size):
        case "hash":
            batch.hset(key, mapping=what)
        case "set":
            batch.sadd(key, *what)
        case "zset":
            batch.zadd(key, dict(what))
        case _:
            batch.set(key, what)


def read(batch, key, i, size=32):
    match kind(i, size):
        case "hash":
            batch.hgetall(key)
        case "set":
            batch.smembers(key)
        case "zset":
            batch.zrange(key, 0, -1, withscores=True)
        case _:
            batch.get(key)


def fill(client, prefix, count, size=32):
    """Writes keys whose values follow from their names, in batches."""
    for start in range(0, count, 2000):
        with client.pipeline() as batch:
            for i in range(start, min(start + 2000, count)):
                write(batch, f"{prefix}{i}", i, size, value(prefix, i, size))
            batch.execute()


def check(client, prefix, count, size=32):
    """Each key by its value. Answers how many were looked at."""
    wrong = []
    for start in range(0, count, 2000):
        numbers = range(start, min(start + 2000, count))
        with client.pipeline() as batch:
            for i in numbers:
                read(batch, f"{prefix}{i}", i, size)
            found = batch.execute()
        wrong += [(f"{prefix}{i}", str(v)[:200]) for i, v in zip(numbers, found) if v != value(prefix, i, size)]
    assert not wrong, f"{len(wrong)} of {count} keys are missing or wrong, such as {wrong[:5]}"
    return count
