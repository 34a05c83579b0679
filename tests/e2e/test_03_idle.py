"""Idle, with three Caches Ready, the operator costs the API server nothing but its Lease."""

import json
import time

import pytest

from lib import kube, settings
from lib.cache import Cache
from lib.kube import kubectl

WATCHED_S = 60


def requests(log):
    for line in log:
        event = json.loads(line)
        if event["stage"] in ("ResponseComplete", "Panic"):
            yield event


def permitted(event):
    resource = (event.get("objectRef") or {}).get("resource")
    if resource == "leases":
        return event["verb"] in ("get", "update", "patch")
    # A watch ends and is taken up again now and then; that is no list.
    return event["verb"] == "watch"


@pytest.mark.own_cluster(reason="it reads the API server's audit log")
def test_idle_means_lease_renewals_only(caches):
    third = Cache("team-b", "third", shards=1, replicas=1, memory="128Mi")
    try:
        third.create().wait_ready(120)
        uids = [c.pod_uids() for c in (*caches, third)]
        # Whatever the last change set off has settled once nothing but Lease renewals was seen for ten seconds.
        assert watch_until_quiet(10, deadline_s=90) is None
        since = (settings.RUN / "audit.log").stat().st_size
        seen = watch_until_quiet(WATCHED_S, deadline_s=WATCHED_S)
        assert seen is None, f"while idle: {json.dumps(seen)}"
        # The log does tell: the leader renewed its Lease all the while.
        assert 10 <= renewals(since), renewals(since)
        assert [c.pod_uids() for c in (*caches, third)] == uids
        leases = kube.get("leases", ns=settings.SYSTEM)
        assert leases and leases[0]["spec"]["holderIdentity"]
    finally:
        kubectl("delete", "cache", "third", "-n", "team-b", timeout=90)


def renewals(since):
    with open(settings.RUN / "audit.log") as log:
        log.seek(since)
        whole = (line for line in log if line.endswith("\n"))
        return sum(1 for e in requests(whole) if e["verb"] in ("update", "patch") and e["objectRef"]["resource"] == "leases")


def watch_until_quiet(quiet_s, deadline_s):
    """None once nothing forbidden was asked for `quiet_s`; else the last such request, when `deadline_s` are over."""
    with open(settings.RUN / "audit.log") as log:
        log.seek(0, 2)
        quiet_since, end, last = time.monotonic(), time.monotonic() + deadline_s, None
        while time.monotonic() - quiet_since < quiet_s:
            # A partial last line is read again with the rest of it.
            at, line = log.tell(), log.readline()
            if not line.endswith("\n"):
                log.seek(at)
                if time.monotonic() > end + 1:
                    return last
                time.sleep(0.2)
                continue
            for event in requests([line]):
                if not permitted(event):
                    quiet_since, last = time.monotonic(), {k: event.get(k) for k in ("verb", "requestURI", "userAgent", "user")}
                    if quiet_s >= deadline_s:
                        return last
        return None
