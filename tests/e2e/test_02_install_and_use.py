"""Install by Helm, apply, Ready; clients write 100,000 keys, and each is verified by value."""

import json
import os
import re
import subprocess

import yaml

from lib import kube, load, settings
from lib.cache import Cache, check, fill
from lib.kube import kubectl, wait

KEYS = 100_000


def test_both_caches_get_ready(created):
    for cache in created:
        kubectl("wait", "--for=condition=Ready", f"cache/{cache.name}", "-n", cache.ns, "--timeout=150s", timeout=170)
        cache.wait_ready(60)
        cache.check_slots()


def test_get_shows_what_one_wants_to_know(caches):
    for cache in caches:
        head, row = kubectl("get", "caches", "-n", cache.ns, cache.name).splitlines()
        assert head.split() == ["NAME", "SHARDS", "READY", "PHASE", "ENDPOINT", "AGE"]
        assert row.split()[:5] == [cache.name, str(cache.shards), f"{cache.shards}/{cache.shards}", "Ready", f"{cache.host}:6379"]


def test_each_member_is_a_guarded_stateful_set_of_its_own(caches):
    for cache in caches:
        sets = kube.get("statefulsets", ns=cache.ns, selector=f"cache.clusterdb.io/cache={cache.name}")
        expected = {f"{cache.name}-{s}-{i}" for s in range(cache.shards) for i in range(1 + cache.replicas)}
        assert {s["metadata"]["name"] for s in sets} == expected
        for s in sets:
            assert s["spec"]["replicas"] == 1
            pod = s["spec"]["template"]["spec"]
            both = {**(pod.get("securityContext") or {}), **pod["containers"][0]["securityContext"]}
            assert both["runAsNonRoot"] is True and both["readOnlyRootFilesystem"] is True
            assert both["allowPrivilegeEscalation"] is False and both["capabilities"]["drop"] == ["ALL"]
            assert both["seccompProfile"]["type"] == "RuntimeDefault"
        # Never two members of a shard on one node while there are others.
        nodes = {p["metadata"]["name"]: p["spec"]["nodeName"] for p in cache.pods()}
        for s in range(cache.shards):
            assert len({nodes[f"{cache.name}-{s}-{i}-0"] for i in range(1 + cache.replicas)}) == 1 + cache.replicas, nodes


def test_the_scale_selector_matches_one_pod_a_shard(caches):
    """What an HPA multiplies by."""
    for cache in caches:
        selector = cache.status()["selector"]
        pods = kube.get("pods", ns=cache.ns, selector=selector)
        assert len(pods) == cache.shards == len({p["metadata"]["labels"]["cache.clusterdb.io/shard"] for p in pods})


def test_two_cluster_clients_write_and_each_key_is_verified(caches):
    a, b = caches
    with a.client() as client:
        fill(client, "py:", KEYS)
        assert check(client, "py:", KEYS) == KEYS
    assert a.count() == KEYS
    for args in (["write"], ["verify", "--total", str(KEYS)]):
        report = load.run(b, *args, "--keys", str(KEYS), "--prefix", "rs:", "--value-bytes", "32")
        assert report["errors"]["total"] == 0, report
    assert b.count() == KEYS
    # Two Caches, not one: what is in the first is not in the second.
    with b.client() as client:
        assert client.get("py:1") is None


def redis_cli(host, *args, password=None):
    env = {**os.environ, **({"REDISCLI_AUTH": password} if password else {})}
    return subprocess.run(["redis-cli", "--no-auth-warning", "-h", host, *args], capture_output=True, text=True, timeout=20, env=env)


def test_redis_cli_follows_the_cluster(caches):
    for cache in caches:
        for i in range(20):
            for command, answer in ((["set", f"cli:{i}", str(i)], "OK"), (["get", f"cli:{i}"], str(i))):
                done = redis_cli(cache.host, "-c", *command, password=cache.password())
                assert done.stdout.strip() == answer, done


def test_a_pod_reaches_it_by_name(caches):
    a, _ = caches
    # What a cluster client does: a key, the MOVED with the owner's name, the key there.
    script = f"""
ask() {{ host=$1; shift; printf 'AUTH %s\\r\\n%s\\r\\nQUIT\\r\\n' "$PASSWORD" "$*" | nc -w 5 "$host" 6379 | sed -n 2p | tr -d '\\r'; }}
for i in 1 2 3 4 5 6 7 8; do
  answer=$(ask {a.name}.{a.ns} SET app:$i $i)
  case $answer in -MOVED*) to=${{answer##* }}; answer=$(ask ${{to%:*}} SET app:$i $i); echo moved ;; esac
  echo "$answer"
done"""
    kube.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "app", "namespace": "team-b"}, "stringData": {"password": a.password()}}, {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app", "namespace": "team-b"},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "app", "image": settings.SHELL_IMAGE, "command": ["/bin/sh", "-c", script], "env": [{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "app", "key": "password"}}}]}]},
    })  # fmt: skip
    try:
        done = wait("the pod ends", 60, lambda: (p := kube.get("pod", "app", "team-b")) and p["status"]["phase"] in ("Succeeded", "Failed") and p)
        assert done["status"]["phase"] == "Succeeded"
        told = kubectl("logs", "app", "-n", "team-b").split()
        assert told.count("+OK") == 8 and "moved" in told and set(told) == {"+OK", "moved"}, told
        with a.client() as client:
            assert [client.get(f"app:{i}") for i in range(1, 9)] == [b"%d" % i for i in range(1, 9)]
    finally:
        kubectl("delete", "pod/app", "secret/app", "-n", "team-b", "--wait=false")


def test_wrong_and_missing_passwords_are_refused(caches):
    for cache in caches:
        member = cache.members()[0]
        for password, says in (("wrong", "WRONGPASS"), (None, "NOAUTH")):
            done = redis_cli(cache.member_host(member), "get", "x", password=password)
            assert says in done.stdout + done.stderr


def test_describe_reads_like_a_story(caches):
    for cache in caches:
        told = kubectl("describe", "cache", cache.name, "-n", cache.ns)
        events = told[told.index("Events:") :]
        reasons = re.findall(r"^\s+Normal\s+(\w+)\s", events, re.M)
        # From nothing to a replica in sync, in this order.
        chapters = [reasons.index(r) for r in ("MemberCreated", "Bootstrapped", "BootstrapEnded", "ReplicaSynced")]
        assert chapters == sorted(chapters), told
        # What was done names what it was done to.
        assert any(m in events for m in cache.members()), told
        for condition in ("Ready", "Progressing", "Degraded"):
            assert re.search(rf"Type:\s+{condition}$", told, re.M), told


def test_cachectl_tells_status_and_why(caches):
    for cache in caches:
        told = json.loads(kube.command(str(settings.CACHECTL), "status", "-n", cache.ns, cache.name, "-o", "json"))
        assert cache.name in json.dumps(told) and cache.members()[0] in json.dumps(told)
        status = kube.command(str(settings.CACHECTL), "status", "-n", cache.ns, cache.name)
        for member in cache.members():
            assert member in status, status
        why = kube.command(str(settings.CACHECTL), "why", "-n", cache.ns, cache.name)
        assert cache.name in why and "Ready" in why, why


def test_your_own_secret_is_used_and_kept(teams):
    """Nothing is generated; deleting the Cache leaves what is yours and nothing else."""
    own = Cache("team-b", "mine", shards=1, replicas=0, memory="128Mi")
    kube.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine", "namespace": "team-b"}, "stringData": {"pw": "first-pw"}})
    try:
        own.create(auth={"secret": {"name": "mine", "key": "pw"}}).wait_ready(90)
        assert kube.get("secret", "mine-auth", "team-b") is None
        before = own.pod_uids()
        member = own.members()[0]
        with own.node(member, password="first-pw") as node:
            assert node.set("k", "v")
        # Rotated without a restart: the kubelet refreshes the mounted Secret in its own time.
        kube.patch("secret", "mine", "team-b", {"stringData": {"pw": "second-pw"}})

        def accepted():
            with own.node(member, password="second-pw") as node:
                return node.get("k") == "v"

        wait("the new password is accepted", 150, accepted)
        assert own.pod_uids() == before
    finally:
        kubectl("delete", "cache", "mine", "-n", "team-b", timeout=90)
    gone(own)
    assert kube.get("secret", "mine", "team-b")
    kubectl("delete", "secret", "mine", "-n", "team-b")


def gone(cache):
    selector = f"cache.clusterdb.io/cache={cache.name}"
    kinds = "statefulsets,pods,services,configmaps,secrets,pdb,serviceaccounts,jobs,pvc"

    def left():
        return kubectl("get", kinds, "-n", cache.ns, "-l", selector, "-o", "name").split()

    wait(f"nothing is left of {cache}: {left()}", 60, lambda: not left())


def test_a_deleted_cache_leaves_nothing(teams):
    passing = Cache("team-a", "passing", shards=2, replicas=0, memory="128Mi")
    passing.create().wait_ready(90)
    made = kubectl("get", "secret,service,pdb", "-n", "team-a", "-l", "cache.clusterdb.io/cache=passing", "-o", "name").split()
    assert "secret/passing-auth" in made and "service/passing" in made and "service/passing-nodes" in made
    kubectl("delete", "cache", "passing", "-n", "team-a", timeout=90)
    gone(passing)


def test_the_quickstart_applies():
    """The README's manifest, whole, judged by the API server."""
    for document in yaml.safe_load_all((settings.ROOT / "examples/quickstart.yaml").read_text()):
        kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump(document))
