"""Install by Helm, apply, Ready; clients write 100,000 keys, and each is verified by value."""

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


def test_redis_cli_follows_the_cluster(caches):
    for cache in caches:
        for i in range(20):
            for command, answer in ((["set", f"cli:{i}", str(i)], "OK"), (["get", f"cli:{i}"], str(i))):
                done = subprocess.run(
                    ["redis-cli", "-c", "-h", cache.host, "--no-auth-warning", "-a", cache.password(), *command],
                    capture_output=True, text=True, timeout=20,
                )  # fmt: skip
                assert done.stdout.strip() == answer, done


def test_a_pod_reaches_it_by_name(caches):
    a, _ = caches
    auth, hello = a.password(), "*1\\r\\n$4\\r\\nPING\\r\\n"
    script = f"printf '*2\\r\\n$4\\r\\nAUTH\\r\\n${len(auth)}\\r\\n{auth}\\r\\n{hello}*1\\r\\n$4\\r\\nQUIT\\r\\n' | nc -w 5 {a.name}.{a.ns} 6379"
    kube.apply({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app", "namespace": "team-b"},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "app", "image": settings.SHELL_IMAGE, "command": ["/bin/sh", "-c", script]}]},
    })  # fmt: skip
    try:
        done = wait("the pod ends", 60, lambda: (p := kube.get("pod", "app", "team-b")) and p["status"]["phase"] in ("Succeeded", "Failed") and p)
        assert done["status"]["phase"] == "Succeeded"
        assert kubectl("logs", "app", "-n", "team-b").split() == ["+OK", "+PONG", "+OK"]
    finally:
        kubectl("delete", "pod", "app", "-n", "team-b", "--wait=false")


def test_wrong_and_missing_passwords_are_refused(caches):
    for cache in caches:
        member = cache.members()[0]
        for password, says in (("wrong", "WRONGPASS"), (None, "NOAUTH")):
            args = ["redis-cli", "-h", cache.member_host(member), "--no-auth-warning", *(["-a", password] if password else []), "get", "x"]
            done = subprocess.run(args, capture_output=True, text=True, timeout=20)
            assert says in done.stdout + done.stderr


def test_describe_reads_like_a_story(caches):
    for cache in caches:
        told = kubectl("describe", "cache", cache.name, "-n", cache.ns)
        events = told[told.index("Events:") :]
        assert len(re.findall(r"^\s+Normal\s", events, re.M)) >= 3, told
        assert "Ready" in told and "Topology" in told


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
