"""A namespace that is deleted goes cleanly, and disturbs no other."""

from lib import kube, settings
from lib.cache import Cache
from lib.kube import kubectl
from test_04_backup import backup


def test_a_deleted_namespace_goes(caches):
    before = [c.pod_uids() for c in caches]
    kube.namespace("team-c")
    doomed = Cache("team-c", "doomed", shards=2, replicas=1, memory="128Mi")
    doomed.create().wait_ready(120)
    kube.apply(backup(doomed, "later", schedule="0 0 1 1 *"))
    # And one that is still being made.
    Cache("team-c", "unborn", shards=3, replicas=1, memory="128Mi").create()
    kube.delete_namespaces("team-c", seconds=90)
    for cache, uids in zip(caches, before):
        cache.wait_ready(30)
        assert cache.pod_uids() == uids
    pods = kube.get("pods", ns=settings.SYSTEM, selector=f"app.kubernetes.io/instance={settings.RELEASE}")
    for pod in pods:
        lines = kubectl("logs", "-n", settings.SYSTEM, pod["metadata"]["name"], "--tail=2000").splitlines()
        panics = [line for line in lines if "panicked at" in line]
        assert not panics, panics[:3]
