"""The operator installed once by Helm, and two Caches in two namespaces, which every test leaves Ready."""

import shutil

import pytest

from lib import evidence, kube, settings
from lib.cache import Cache
from lib.kube import command, kubectl, wait

TEAMS = ("team-a", "team-b")


def helm(*args, timeout=180):
    return command("helm", *args, timeout=timeout)


def chart_values():
    return [
        "--set", f"image.repository={settings.REGISTRY}/cache-operator",
        "--set", f"cacheImage.repository={settings.REGISTRY}/cache-node",
        "--set-string", f"image.tag={settings.VERSION}",
        "--set-string", f"cacheImage.tag={settings.VERSION}",
        "--set-string", "log.level=info\\,cache_operator=debug",
    ]  # fmt: skip


def remove_everything():
    """What an earlier run, or this one, left: Caches first, while the operator can still see them off."""
    ours = [n["metadata"]["name"] for n in kube.get("namespaces", selector="cache-e2e=true")]
    if kube.get("crd", "caches.cache.clusterdb.io"):
        for ns in ours:
            kubectl("delete", "cachebackups,cacheregions,caches", "--all", "-n", ns, "--wait=false", check=False)
    kube.delete_namespaces(*ours)
    helm("uninstall", settings.RELEASE, "-n", settings.SYSTEM, "--ignore-not-found", "--wait")
    kube.delete_namespaces(settings.SYSTEM)
    # The release keeps them.
    crds = [f"{kind}.cache.clusterdb.io" for kind in ("caches", "cachebackups", "cacheregions")]
    kubectl("delete", "crd", *crds, "--ignore-not-found", "--timeout=60s")


@pytest.fixture(scope="session", autouse=True)
def evidence_folder():
    shutil.rmtree(settings.EVIDENCE, ignore_errors=True)
    settings.EVIDENCE.mkdir(parents=True)


@pytest.fixture(scope="session")
def operator():
    """The Helm release; installed as the README says."""
    remove_everything()
    settings.AUDIT_START = (settings.RUN / "audit.log").stat().st_size if settings.RUN else 0
    helm(
        "install", settings.RELEASE, str(settings.CHART), "-n", settings.SYSTEM, "--create-namespace", "--wait", "--timeout", "150s", *chart_values(),
        timeout=200,
    )  # fmt: skip
    yield settings.RELEASE
    if not settings.KEEP:
        remove_everything()


@pytest.fixture(scope="session")
def teams(operator):
    for ns in TEAMS:
        kube.namespace(ns)
    return TEAMS


@pytest.fixture(scope="session")
def created(teams):
    """Unlike in all they can be, so that a swapped name or number shows."""
    a, b = Cache("team-a", "main", shards=3, replicas=1), Cache("team-b", "sessions", shards=2, replicas=1, memory="128Mi")
    a.create(), b.create()
    return a, b


@pytest.fixture
def caches(created):
    """Both Caches, Ready and as they were made, whatever the test before did to them."""
    restore(created)
    yield created


def restore(created):
    scale_operator(2)
    for cache in created:
        if cache.get() is None:
            cache.create()
            continue
        cache.patch(shards=cache.shards, replicasPerShard=cache.replicas, image=None, paused=None, resources={"limits": {"memory": cache.memory}})
    for cache in created:
        cache.wait_ready(240)
        with cache.client() as client:
            client.flushall(target_nodes=client.PRIMARIES)


def scale_operator(replicas):
    kubectl("scale", f"deployment/{settings.RELEASE}", "-n", settings.SYSTEM, f"--replicas={replicas}")

    def settled():
        pods = kube.get("pods", ns=settings.SYSTEM, selector=f"app.kubernetes.io/instance={settings.RELEASE}")
        ready = [p for p in pods if (kube.condition(p, "Ready") or {}).get("status") == "True"]
        return len(pods) == len(ready) == replicas

    wait(f"{replicas} operator pods are ready", 90, settled)


def leader():
    """The operator's pod that leads."""
    leases = kube.get("leases", ns=settings.SYSTEM)
    return leases[0]["spec"].get("holderIdentity") if leases else None


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    report = (yield).get_result()
    if report.failed and report.when in ("setup", "call"):
        try:
            spaces = [n["metadata"]["name"] for n in kube.get("namespaces", selector="cache-e2e=true")]
            folder = evidence.collect(item.name, [settings.SYSTEM, *spaces])
            report.sections.append(("evidence", f"objects, events and logs are in {folder}"))
        except Exception as e:  # noqa: BLE001: the test's own failure matters more
            report.sections.append(("evidence", f"could not be collected: {e}"))


def pytest_collection_modifyitems(items):
    if settings.RUN is None:
        for item in items:
            if item.get_closest_marker("own_cluster"):
                reason = "needs the cluster of `make cluster`: " + item.get_closest_marker("own_cluster").kwargs["reason"]
                item.add_marker(pytest.mark.skip(reason=reason))
