"""Breaking things: a process, a node's network. Only the cluster of tests/cluster lets one."""

import contextlib
import subprocess
import threading
import time

import redis

from . import kube, settings


def kill_process(ns, pod):
    """SIGKILL to the pod's process: the same pod restarts its container with an empty memory."""
    found = kube.get("pod", pod, ns)
    container = found["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    socket = settings.RUN / found["spec"]["nodeName"] / "containerd.sock"
    kube.command("ctr", "-a", str(socket), "-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", container)


@contextlib.contextmanager
def partitioned(node):
    """The node's link is down, and up again whatever happens."""
    link = f"{settings.LINK}{node.removeprefix('node-')}"
    subprocess.run(["ip", "link", "set", link, "down"], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "link", "set", link, "up"], check=True)
        kube.wait(f"{node} is Ready", 60, lambda: kube.condition(kube.get("node", node), "Ready")["status"] == "True")


class Beside(threading.Thread):
    """Calls `look` again and again beside a test, and keeps what it answers: (seconds since the start, answer)."""

    def __init__(self, look, every=0.1):
        super().__init__(daemon=True)
        self.look, self.every, self.seen, self.done, self.error = look, every, [], threading.Event(), None

    def run(self):
        start = time.monotonic()
        while not self.done.is_set():
            try:
                answer = self.look()
            except Exception as e:  # noqa: BLE001: raised by `finish`, in the test's own thread
                self.error = e
                return
            if answer is not None and (not self.seen or self.seen[-1][1] != answer):
                self.seen.append((time.monotonic() - start, answer))
            self.done.wait(self.every)

    def finish(self):
        self.done.set()
        self.join(30)
        if self.error:
            raise self.error
        return self.seen

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()


def unwell(cache):
    """A look for Beside: the reason for which the Cache says that it is not well, or None."""

    def look():
        found = cache.get()
        ready, degraded = kube.condition(found, "Ready"), kube.condition(found, "Degraded")
        if ready and ready["status"] == "False":
            return f"Ready False: {ready['reason']}"
        if degraded and degraded["status"] == "True":
            return f"Degraded: {degraded['reason']}"
        return None

    return look


def answers_of(cache, member, key):
    """A look for Beside: what a member itself answers for a key; a connection that fails is an answer too."""

    def look():
        try:
            with cache.node(member) as node:
                return ("value", node.get(key))
        except redis.RedisError as e:
            return (type(e).__name__, str(e).split(" ")[0])

    return look
