"""The store without sockets: processor time of an operation on one thread and on each of two."""

import re
import subprocess

import servers

LINE = re.compile(r"^(GET|SET|logged SET): (\d+) ns an operation on one thread, (\d+) on each of two: ([\d.]+)x; (\d+) of (\d+) locks", re.MULTILINE)


def measure(programs, quick):
    command = ["cargo", "run", "--release", "--locked", "-p", "cache-node", "--example", "executor"]
    done = subprocess.run(command, cwd=servers.ROOT, check=True, stdout=subprocess.PIPE, text=True)
    rows = [{"what": m[1], "one": int(m[2]), "two": int(m[3]), "ratio": float(m[4]), "contended": int(m[5]), "locks": int(m[6])} for m in LINE.finditer(done.stdout)]
    if len(rows) != 3:
        raise RuntimeError(f"the executor said: {done.stdout}")
    return {"rows": rows}
