"""A backup to a real S3 server is listed and downloaded by the AWS CLI, and a real redis-server loads each file with all its keys."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
import redis

from lib import kube, settings
from lib.cache import fill, read, value
from lib.kube import kubectl, wait

KEYS = 20_000
ACCESS, SECRET, BUCKET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "snapshots"
S3_NS = "s3-store"
ENDPOINT = f"http://s3.{S3_NS}.svc:7070"


def aws(*args, check=True):
    env = {**os.environ, "AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "10"}
    return kube.command(sys.executable, "-m", "awscli", "--endpoint-url", ENDPOINT, *args, check=check, env=env)


def secret(ns, name, access, key):
    kube.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": ns}, "stringData": {"accessKeyID": access, "secretAccessKey": key}})


@pytest.fixture(scope="module")
def s3(operator):
    kube.namespace(S3_NS)
    labels = {"app": "s3"}
    kube.apply(
        {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "s3", "namespace": S3_NS},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "containers": [{
                            "name": "s3", "image": settings.S3_IMAGE, "args": ["--port", ":7070", "posix", "/data"],
                            "env": [{"name": "ROOT_ACCESS_KEY", "value": ACCESS}, {"name": "ROOT_SECRET_KEY", "value": SECRET}],
                            "readinessProbe": {"tcpSocket": {"port": 7070}, "periodSeconds": 1},
                            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                        }],
                        "volumes": [{"name": "data", "emptyDir": {}}],
                    },
                },
            },
        },
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s3", "namespace": S3_NS}, "spec": {"selector": labels, "ports": [{"port": 7070}]}},
    )  # fmt: skip
    kubectl("rollout", "status", "deploy/s3", "-n", S3_NS, "--timeout=90s")
    wait("the bucket is made", 30, lambda: aws("s3", "mb", f"s3://{BUCKET}"))
    for ns in ("team-a", "team-b"):
        secret(ns, "s3", ACCESS, SECRET)
    return ENDPOINT


def backup(cache, name, **changes):
    s3 = {"bucket": BUCKET, "prefix": f"{name}/", "endpoint": ENDPOINT, "forcePathStyle": True, "credentialsSecret": {"name": "s3"}}
    spec = {"cacheRef": {"name": cache.name}, "storage": {"s3": {**s3, **changes.pop("s3", {})}}, **changes}
    return {"apiVersion": "cache.clusterdb.io/v1alpha1", "kind": "CacheBackup", "metadata": {"name": name, "namespace": cache.ns}, "spec": spec}


def status(cache, name):
    return kube.get("cachebackup", name, cache.ns).get("status") or {}


def wait_complete(cache, name, seconds=120):
    return wait(f"{cache.ns}/{name} has a snapshot", seconds, lambda: (s := status(cache, name)).get("snapshots") and s)


def test_a_snapshot_is_listed_downloaded_and_loaded_by_redis(caches, s3, tmp_path):
    for cache in caches:
        with cache.client() as client:
            fill(client, f"{cache.name}:", KEYS)
            client.set("lasting:0", "x" * 5000, ex=86400)
            client.rpush("queue:0", *range(2000))
        kube.apply(backup(cache, "once"))
    for number, cache in enumerate(caches):
        snapshot = wait_complete(cache, "once")["snapshots"][0]
        assert snapshot["keys"] == KEYS + 2 and snapshot["shards"] == cache.shards
        folder = tmp_path / cache.ns
        aws("s3", "cp", "--recursive", snapshot["location"], str(folder))
        listed = aws("s3", "ls", "--recursive", f"s3://{BUCKET}/once/")
        assert cache.get()["metadata"]["uid"] in listed
        manifests = list(folder.rglob("*.json"))
        assert len(manifests) == 1, listed
        manifest = json.loads(manifests[0].read_text())
        files = sorted(folder.rglob("*.rdb"))
        assert len(files) == cache.shards == len(manifest["shards"])
        sums = {hashlib.sha256(f.read_bytes()).hexdigest(): f.stat().st_size for f in files}
        for shard in manifest["shards"]:
            assert sums[shard["sha256"]] == shard["bytes"]
        found = {}
        for f in files:
            assert "RDB looks OK" in kube.command("redis-check-rdb", str(f))
            found.update(loaded(f, 7600 + number))
        expected = {f"{cache.name}:{i}".encode(): value(f"{cache.name}:", i) for i in range(KEYS)}
        queue, _ = found.pop(b"queue:0")
        assert queue == [b"%d" % n for n in range(2000)]
        text, ttl = found.pop(b"lasting:0")
        assert {k: v for k, (v, _) in found.items()} == expected
        assert text == b"x" * 5000 and 86000 < ttl <= 86400
        row = kubectl("get", "cachebackup", "once", "-n", cache.ns)
        assert "Complete" in row


def loaded(rdb, port):
    """Every key of a file as a real redis-server sees it after loading: value and TTL."""
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(rdb.parent), "--dbfilename", rdb.name, "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with redis.Redis(port=port) as client:
            wait("redis-server has loaded", 30, lambda: client.info("persistence")["loading"] == 0)
            keys = list(client.scan_iter(count=5000))
            assert len(keys) == client.dbsize()
            answer = {}
            for start in range(0, len(keys), 5000):
                part = keys[start : start + 5000]
                with client.pipeline(transaction=False) as batch:
                    for key in part:
                        if key == b"queue:0":
                            batch.lrange(key, 0, -1)
                        else:
                            read(batch, key, int(key.rpartition(b":")[2]))
                        batch.ttl(key)
                    out = batch.execute()
                answer.update(zip(part, zip(out[::2], out[1::2])))
            return answer
    finally:
        server.terminate()
        server.wait(20)


LATER = "s3-later"


def service(selector):
    kube.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": LATER, "namespace": S3_NS}, "spec": {"selector": {"app": selector}, "ports": [{"port": 7070}]}})


@pytest.mark.parametrize(
    "name,change,reason,says",
    [
        ("wrong-credentials", {"credentialsSecret": {"name": "wrong"}}, "WrongCredentials", "credentials"),
        ("no-endpoint", {"endpoint": f"http://{LATER}.{S3_NS}:7070"}, "EndpointUnreachable", LATER),
        ("no-bucket", {"bucket": "nobody-made-this"}, "BucketNotFound", "nobody-made-this"),
        ("no-secret", {"credentialsSecret": {"name": "not-there"}}, "SecretMissing", "not-there"),
    ],
)
def test_what_cannot_work_says_so_and_is_retried(caches, s3, name, change, reason, says):
    a, b = caches
    secret(b.ns, "wrong", "AKIAWRONG", "wrong")
    service("nobody")
    kube.apply(backup(b, name, s3=change))
    try:

        def told():
            s = status(b, name)
            ready = next((c for c in s.get("conditions", []) if c["type"] == "Ready"), None)
            assert (ready["status"], ready["reason"]) == ("False", reason) and says in ready["message"], s
            return s

        wait(f"the condition says {reason}", 150, told)
        # Mended, it goes on by itself.
        match name:
            case "no-endpoint":
                service("s3")
            case "no-bucket":
                aws("s3", "mb", "s3://nobody-made-this")
            case _:
                secret(b.ns, change["credentialsSecret"]["name"], ACCESS, SECRET)
        wait_complete(b, name, 240)
        others = kube.get("cachebackup", "once", a.ns)
        assert not others or others["status"]["phase"] == "Complete"
    finally:
        kubectl("delete", "cachebackup", name, "-n", b.ns, "--wait=false")


def test_a_schedule_takes_snapshots_again_and_again(caches, s3):
    _, b = caches
    kube.apply(backup(b, "minutely", schedule="* * * * *", timeZone="Asia/Kolkata"))
    try:
        first = wait_complete(b, "minutely", 150)
        assert first["nextScheduleTime"] and first["phase"] in ("Scheduled", "Running")
        wait("there is a second snapshot", 150, lambda: len(status(b, "minutely")["snapshots"]) >= 2)
        kube.patch("cachebackup", "minutely", b.ns, {"spec": {"suspend": True}})
        wait("it is suspended", 30, lambda: status(b, "minutely").get("phase") == "Suspended")
    finally:
        kubectl("delete", "cachebackup", "minutely", "-n", b.ns, timeout=60)
    # What is in the bucket stays.
    assert ".rdb" in aws("s3", "ls", "--recursive", f"s3://{BUCKET}/minutely/")
