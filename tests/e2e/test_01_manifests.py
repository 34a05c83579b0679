"""Wrong manifests are refused by the API server, and the message says the mend; one that cannot be decoded stops no other."""

import copy

import pytest
import yaml

from lib import kube, settings
from lib.cache import Cache
from lib.kube import Failed, kubectl

CACHE = yaml.safe_load("""
apiVersion: cache.clusterdb.io/v1alpha1
kind: Cache
metadata: {name: fine, namespace: team-a}
spec:
  shards: 3
  replicasPerShard: 1
  resources: {limits: {memory: 64Mi}}
  maintenance: {schedule: "0 3 * * *", timeZone: Europe/Berlin, tasks: [{rebalance: {thresholdPercent: 20}}]}
""")
BACKUP = yaml.safe_load("""
apiVersion: cache.clusterdb.io/v1alpha1
kind: CacheBackup
metadata: {name: fine, namespace: team-a}
spec:
  cacheRef: {name: main}
  schedule: "0 0 * * *"
  storage: {s3: {bucket: snapshots, prefix: daily/, region: us-west-2, credentialsSecret: {name: s3}}}
""")

REGION = yaml.safe_load("""
apiVersion: cache.clusterdb.io/v1alpha1
kind: CacheRegion
metadata: {name: fine, namespace: team-a}
spec:
  cacheRef: {name: main}
  keyPrefix: "fine:"
  size: 50Mi
  ttl: {default: 1h30m, jitterPercent: 10}
  eviction: {type: FIFO, maxItems: 50000}
""")

# What is wrong, the path to it, the value that is put there (None: removed), and what the message must say.
WRONG = [
    ("no shards", CACHE, "spec.shards", 0, ["spec.shards", "greater than or equal to 1"]),
    ("too many shards", CACHE, "spec.shards", 129, ["spec.shards", "less than or equal to 128"]),
    ("half a shard", CACHE, "spec.shards", 2.5, ["spec.shards", "integer"]),
    ("negative replicas", CACHE, "spec.replicasPerShard", -1, ["spec.replicasPerShard", "greater than or equal to 0"]),
    ("too many replicas", CACHE, "spec.replicasPerShard", 6, ["spec.replicasPerShard", "less than or equal to 5"]),
    ("no bound of memory", CACHE, "spec.resources", None, ["set spec.resources.limits.memory", "1Gi"]),
    ("GB is no unit", CACHE, "spec.resources.limits.memory", "10GB", ["spec.resources.limits.memory", "10GB", "512Mi"]),
    ("no memory", CACHE, "spec.resources.limits.memory", "0", ["spec.resources.limits.memory", "more than 0"]),
    ("words for CPU", CACHE, "spec.resources.limits.cpu", "two", ["spec.resources.limits.cpu", "two", "500m"]),
    ("a bound without a unit", CACHE, "spec.policy.maxMemoryPerShard", "lots", ["spec.policy.maxMemoryPerShard", "lots", "512Mi"]),
    ("an image in two words", CACHE, "spec.image", "cache node", ["spec.image", "without spaces"]),
    ("a long name", CACHE, "metadata.name", "x" * 47, ["46 characters", "shorter name"]),
    ("a name with a dot", CACHE, "metadata.name", "main.v2", ["metadata.name", "without dots"]),
    ("four fields of cron", CACHE, "spec.maintenance.schedule", "0 3 * *", ["spec.maintenance.schedule", "five fields"]),
    ("a time zone with a blank", CACHE, "spec.maintenance.timeZone", "Europe Berlin", ["timeZone", "Europe/Berlin"]),
    ("no tasks", CACHE, "spec.maintenance.tasks", [], ["spec.maintenance.tasks", "at least 1"]),
    ("an empty task", CACHE, "spec.maintenance.tasks", [{}], ["names what to do", "rebalance"]),
    ("a threshold of nothing", CACHE, "spec.maintenance.tasks", [{"rebalance": {"thresholdPercent": 0}}], ["thresholdPercent", "greater than or equal to 1"]),
    ("the operator's labels", CACHE, "spec.pod.labels", {"cache.clusterdb.io/role": "x"}, ["spec.pod.labels", "choose another prefix"]),
    ("a Secret without a name", CACHE, "spec.auth", {"secret": {"name": ""}}, ["spec.auth.secret.name", "at least 1"]),
    ("a misspelt field", CACHE, "spec.shard", 3, ["unknown field", "spec.shard"]),
    ("a feature of later", CACHE, "spec.tls", {"enabled": True}, ["unknown field", "spec.tls"]),
    ("a backup of nothing", BACKUP, "spec.cacheRef", None, ["spec.cacheRef", "Required"]),
    ("a backup to nowhere", BACKUP, "spec.storage", {}, ["storage names where to", "bucket"]),
    ("a bucket's URL", BACKUP, "spec.storage.s3.bucket", "s3://snapshots", ["bucket is a bucket's name, not a URL"]),
    ("a rooted prefix", BACKUP, "spec.storage.s3.prefix", "/daily", ["does not begin with '/'"]),
    ("an endpoint without a scheme", BACKUP, "spec.storage.s3.endpoint", "s3.example:7070", ["endpoint is a URL"]),
    ("a time zone without a schedule", BACKUP, "spec", {**BACKUP["spec"], "schedule": None, "timeZone": "UTC"}, ["timeZone needs a schedule"]),
    ("suspended once", BACKUP, "spec", {**BACKUP["spec"], "schedule": None, "suspend": True}, ["suspend needs a schedule"]),
    ("an eviction nobody knows", CACHE, "spec.policy.eviction", {"type": "Best"}, ["spec.policy.eviction.type", "Best", "S3FIFO"]),
    ("no keys at all", CACHE, "spec.policy.eviction", {"maxItemsPerShard": 0}, ["maxItemsPerShard", "greater than or equal to 1"]),
    ("a time of ISO", CACHE, "spec.policy.ttl", {"default": "PT1H"}, ["spec.policy.ttl.default", "PT1H", "1h30m"]),
    ("a region of nothing", REGION, "spec.cacheRef", None, ["spec.cacheRef", "Required"]),
    ("a region without a prefix", REGION, "spec.keyPrefix", "", ["spec.keyPrefix", "at least 1"]),
    ("a region's size in MB", REGION, "spec.size", "50MB", ["spec.size", "50MB", "512Mi"]),
    ("a region's time without a unit", REGION, "spec.ttl.default", "30", ["spec.ttl.default", "30m"]),
    ("no time at all", REGION, "spec.ttl.default", "0s", ["spec.ttl.default", "at least 1s"]),
    ("much jitter", REGION, "spec.ttl.jitterPercent", 101, ["jitterPercent", "less than or equal to 100"]),
    ("TTL without expiries", REGION, "spec", {"cacheRef": {"name": "main"}, "eviction": {"type": "TTL"}}, ["set ttl.default"]),
    ("a region's name with a dot", REGION, "metadata.name", "a.b", ["metadata.name", "without dots"]),
    ("a backup's long name", BACKUP, "metadata.name", "x" * 41, ["40 characters", "shorter name"]),
]  # fmt: skip


def changed(manifest, path, value):
    manifest = copy.deepcopy(manifest)
    *parents, last = path.split(".")
    at = manifest
    for part in parents:
        at = at.setdefault(part, {})
    if isinstance(value, dict):
        value = {k: v for k, v in value.items() if v is not None}
    if value is None:
        del at[last]
    else:
        at[last] = value
    return manifest


def dry_run(manifest):
    kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump(manifest))


@pytest.mark.parametrize("manifest", [CACHE, BACKUP, REGION], ids=["Cache", "CacheBackup", "CacheRegion"])
def test_the_fine_ones_are_accepted(teams, manifest):
    dry_run(manifest)


@pytest.mark.parametrize("manifest,path,value,says", [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_wrong_manifests_are_refused_with_the_mend(teams, manifest, path, value, says):
    with pytest.raises(Failed) as refusal:
        dry_run(changed(manifest, path, value))
    for fragment in says:
        assert fragment in str(refusal.value)


def documents(folder):
    """Each document of each file, with the file's first lines."""
    found = []
    for file in sorted((settings.ROOT / folder).glob("*.yaml")):
        text = file.read_text()
        found += [pytest.param(text, d, id=f"{file.stem}-{n}") for n, d in enumerate(yaml.safe_load_all(text))]
    return found


@pytest.mark.parametrize("text,document", documents("examples"))
def test_the_examples_are_accepted(teams, text, document):
    dry_run({**document, "metadata": {**document["metadata"], "namespace": "team-a"}})


@pytest.mark.parametrize("text,document", documents("tests/plan/invalid"))
def test_what_the_rules_are_tested_with_is_refused_by_the_api_server_too(teams, text, document):
    """The plan's tests judge these files by our own reading of the schema: the API server reads them the same."""
    by, message = (line.split(": ", 1)[1] for line in text.splitlines()[:2])
    with pytest.raises(Failed) as refusal:
        dry_run({**document, "metadata": {**document["metadata"], "namespace": "team-a"}})
    # The schema's refusals are in the API server's own words; the rules' messages are ours.
    assert by != "rule" or message in str(refusal.value)


def test_what_cannot_change_says_so(teams):
    backup = {**BACKUP, "metadata": {"name": "fixed", "namespace": "team-a"}}
    kube.apply(changed(backup, "spec.suspend", True))
    for change, says in [
        ({"cacheRef": {"name": "other"}}, "cacheRef cannot be changed"),
        ({"schedule": None, "suspend": False}, "whether a CacheBackup has a schedule cannot be changed"),
    ]:
        with pytest.raises(Failed, match=says):
            kube.patch("cachebackup", "fixed", "team-a", {"spec": change})
    kubectl("delete", "cachebackup", "fixed", "-n", "team-a")


def test_what_only_the_operator_can_judge_is_told_in_the_condition(teams):
    """The schema cannot compare quantities: the Cache says what is wrong and what to do, and goes on once it is mended."""
    small = Cache("team-b", "small", shards=1, replicas=0, memory="64Mi").create()
    try:

        def told():
            ready = small.condition("Ready")
            assert small.status()["phase"] == "Invalid" and ready["status"] == "False", ready
            for fragment in ("spec.resources.limits.memory", "64Mi", "128Mi"):
                assert fragment in ready["message"], ready
            return True

        kube.wait("it says that 64Mi is too little", 30, told)
        assert not small.pods()
        small.patch(resources={"limits": {"memory": "128Mi"}})
        small.wait_ready(90)
    finally:
        kubectl("delete", "cache", "small", "-n", "team-b", timeout=90)


def test_one_that_cannot_be_decoded_stops_no_other(teams):
    """An object from before a rule: the schema is loosened, a spec that Rust cannot read is stored, the schema restored."""
    crd = kube.get("crd", "caches.cache.clusterdb.io")
    strict = {k: v for k, v in crd.items() if k != "status"}
    strict["metadata"] = {k: crd["metadata"][k] for k in ("name", "labels", "annotations")}
    loose = copy.deepcopy(strict)
    schema = loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema.pop("x-kubernetes-validations", None)
    schema["properties"]["spec"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    odd = changed({**CACHE, "metadata": {"name": "odd", "namespace": "team-a"}}, "spec.replicasPerShard", "many")
    other = Cache("team-b", "beside", shards=1, replicas=0, memory="128Mi")
    try:
        kubectl("replace", "-f", "-", stdin=yaml.safe_dump(loose))
        try:
            kube.wait("the loose schema is served", 30, lambda: kube.apply(odd) or True)
        finally:
            kubectl("replace", "-f", "-", stdin=yaml.safe_dump(strict))
        other.create().wait_ready(90)
        other.patch(replicasPerShard=1)
        other.wait_ready(90)
        with other.client() as client:
            assert client.set("a", "b") and client.get("a") == b"b"
    finally:
        kubectl("delete", "cache", "odd", "-n", "team-a", "--ignore-not-found", "--wait=false")
        kubectl("delete", "cache", "beside", "-n", "team-b", "--ignore-not-found")
