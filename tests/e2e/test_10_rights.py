"""The operator runs with only the chart's rights; an application can run no control command."""

import contextlib
import datetime
import json

import pytest
import redis

from conftest import chart_values, helm, scale_operator
from lib import kube, settings
from lib.cache import Cache
from lib.kube import kubectl


def test_an_application_runs_no_control_command(caches):
    for cache in caches:
        for member in cache.members():
            with cache.node(member) as node:
                for words in (["HELLO"], ["TOPOLOGY", "GET"], ["SHUTDOWN"], ["HANDOVER", member, "1000"]):
                    with pytest.raises(redis.ResponseError, match="unknown command"):
                        node.execute_command("CACHE.NODE", *words)
            with cache.node(member, 7379) as control, pytest.raises(redis.AuthenticationError):
                control.execute_command("CACHE.NODE", "HELLO")
            with cache.node(member, 7379, "x") as control:
                control.connection_pool.connection_kwargs["password"] = None
                with pytest.raises((redis.AuthenticationError, redis.ResponseError), match="NOAUTH|Authentication required"):
                    control.execute_command("CACHE.NODE", "HELLO")


# When Helm exchanged Roles for a ClusterRole or back: for a moment there are neither, and the outgoing operator has too few.
EXCHANGES = []


@contextlib.contextmanager
def exchange():
    begun = datetime.datetime.now(datetime.timezone.utc)
    try:
        yield
        # Those that are on their way out have gone.
        scale_operator(2)
    finally:
        EXCHANGES.append((begun, datetime.datetime.now(datetime.timezone.utc)))


def test_rights_in_namespaces_suffice(caches):
    """With watchNamespaces there are Roles only; a Cache is made, changed and deleted under them."""
    small = Cache("team-b", "small", shards=1, replicas=1, memory="128Mi")
    try:
        with exchange():
            helm("upgrade", settings.RELEASE, str(settings.CHART), "-n", settings.SYSTEM, "--wait", *chart_values(), "--set", "watchNamespaces={team-a,team-b}")
        rules = kube.get("clusterrole", f"{settings.SYSTEM}-{settings.RELEASE}")["rules"]
        assert [r["resources"] for r in rules] == [["nodes"]]
        small.create().wait_ready(120)
        small.scale(2)
        small.wait_ready(120)
        kubectl("delete", "cache", "small", "-n", "team-b", timeout=90)
    finally:
        kubectl("delete", "cache", "small", "-n", "team-b", "--ignore-not-found", "--wait=false")
        with exchange():
            helm("upgrade", settings.RELEASE, str(settings.CHART), "-n", settings.SYSTEM, "--wait", *chart_values())
    for cache in caches:
        cache.wait_ready(60)


@pytest.mark.own_cluster(reason="it reads the API server's audit log")
def test_nothing_was_forbidden_all_along(caches):
    """Over the whole run until here, in all that these tests made it do."""
    user = f"system:serviceaccount:{settings.SYSTEM}:{settings.RELEASE}"
    forbidden, requests = {}, 0
    with open(settings.RUN / "audit.log") as log:
        log.seek(settings.AUDIT_START)
        for line in log:
            event = json.loads(line) if line.endswith("\n") else {}
            if event.get("user", {}).get("username") != user:
                continue
            requests += 1
            at = datetime.datetime.fromisoformat(event["stageTimestamp"].replace("Z", "+00:00"))
            exchanged = any(begun <= at <= ended for begun, ended in EXCHANGES)
            if (event.get("responseStatus") or {}).get("code") == 403 and not exchanged:
                ref = event.get("objectRef") or {}
                what = (event["verb"], ref.get("apiGroup", ""), ref.get("resource"), ref.get("subresource", ""))
                forbidden[what] = forbidden.get(what, 0) + 1
    assert requests > 0
    assert not forbidden, forbidden
