"""The load program, cache-load, beside a test."""

import json
import os
import subprocess
import tempfile

from . import kube, settings


def environment(cache):
    """The password is no argument: those are for all to see."""
    return {**os.environ, "CACHE_LOAD_PASSWORD": cache.password()}


def run(cache, *args, timeout=180):
    """Runs one of its commands to the end and answers its report, good or bad."""
    done = kube.command(str(settings.LOAD), "--seed", f"{cache.host}:6379", *args, check=False, timeout=timeout, env=environment(cache))
    lines = done.stdout.strip().splitlines()
    assert lines, f"cache-load {args[0]} ended with {done.returncode}: {done.stderr}"
    return json.loads(lines[-1])


class Load:
    """Writers and readers that run until `stop`; `with` waits until each writer has had its first success."""

    def __init__(self, cache, prefix="load:", rate=1200):
        self.cache, self.prefix, self.rate = cache, prefix, rate
        self.report = None

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.stop_file = f"{self.folder.name}/stop"
        self.process = subprocess.Popen(
            [
                str(settings.LOAD), "--seed", f"{self.cache.host}:6379",
                "run", "--until-file", self.stop_file, "--prefix", self.prefix, "--rate", str(self.rate),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(self.cache),
        )  # fmt: skip
        line = self.process.stdout.readline()
        assert json.loads(line or "{}").get("event") == "started", f"the load on {self.cache} did not start: {line!r}"
        return self

    def stop(self):
        """Ends the load; its report counts each acknowledged write that is not there."""
        open(self.stop_file, "w").close()
        out, _ = self.process.communicate(timeout=120)
        self.report = json.loads(out.strip().splitlines()[-1])
        with open(settings.EVIDENCE / "load-reports.jsonl", "a") as f:
            f.write(json.dumps({"cache": str(self.cache), **self.report}) + "\n")
        return self.report

    def __exit__(self, *_):
        if self.report is None:
            self.process.kill()
            self.process.communicate()
        self.folder.cleanup()


def unharmed(report):
    """No acknowledged write lost, no error that the client did not absorb."""
    assert report["lostAcknowledgedWrites"] == 0, report
    assert report["errors"]["total"] == 0, report
    return report
