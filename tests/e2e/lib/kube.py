"""kubectl, and waiting."""

import json
import subprocess
import time

import yaml


class Failed(Exception):
    """A command ended with an error: its output is the message."""


def command(*args, stdin=None, check=True, timeout=120, env=None):
    done = subprocess.run(args, input=stdin, capture_output=True, text=True, timeout=timeout, env=env)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(args)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout if check else done


def kubectl(*args, **options):
    return command("kubectl", *args, **options)


def get(kind, name=None, ns=None, selector=None):
    """The object, or the list's items. None if a named object is not there."""
    args = ["get", kind, *([name] if name else []), "-o", "json", "--ignore-not-found"]
    args += ["-n", ns] if ns else []
    args += ["-l", selector] if selector else []
    out = kubectl(*args)
    if not out.strip():
        return None if name else []
    found = json.loads(out)
    return found if name else found["items"]


def apply(*documents):
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(documents))


def patch(kind, name, ns, change, *args):
    kubectl("patch", kind, name, "-n", ns, "--type=merge", "-p", json.dumps(change), *args)


def wait(what, seconds, probe, every=0.25):
    """Waits until `probe` answers something true and returns that. What it raises counts as not yet, and is shown if it never does."""
    end = time.monotonic() + seconds
    last = None
    while True:
        try:
            answer = probe()
            if answer:
                return answer
            last = answer
        except Exception as e:  # noqa: BLE001: whatever is wrong now may be right later; it is shown at the end
            last = e
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s in vain: {what}; last: {last!r}")
        time.sleep(every)


def condition(obj, kind):
    for c in (obj.get("status") or {}).get("conditions") or []:
        if c["type"] == kind:
            return c
    return None


def namespace(name):
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"cache-e2e": "true"}}})


def delete_namespaces(*names, seconds=120):
    for name in names:
        kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")
    wait(f"namespaces {', '.join(names)} are gone", seconds, lambda: not any(get("namespace", n) for n in names))


def pod_uids(ns, selector=None):
    """Name → (uid, restarts of its containers): changes when a pod or a process was replaced."""
    pods = get("pods", ns=ns, selector=selector)
    return {
        p["metadata"]["name"]: (
            p["metadata"]["uid"],
            sum(c["restartCount"] for c in p["status"].get("containerStatuses", [])),
        )
        for p in pods
    }
