"""Processor time a request, under redis-benchmark: the servers in turns, the median of the rounds."""

import re
import subprocess

import servers

KEYS = 1_000_000
VALUE = 64
CLIENTS = 50
ROUNDS = 3

# Name, pipeline, command of redis-benchmark, requests of a full and of a quick run.
LOADS = [
    ("P1 GET", 1, "get", 300_000, 100_000),
    ("P1 SET", 1, "set", 300_000, 100_000),
    ("P16 GET", 16, "get", 3_000_000, 1_000_000),
    ("P16 SET", 16, "set", 3_000_000, 1_000_000),
    ("P64 GET", 64, "get", 4_000_000, 1_500_000),
    ("P64 SET", 64, "set", 4_000_000, 1_500_000),
]
# Further rows of the full run.
MORE = [
    ("P16 SET EX", 16, ["SET", "key:__rand_int__", "x" * VALUE, "EX", "86400"], 2_000_000, 0),
    ("P16 INCR", 16, ["INCR", "n:__rand_int__"], 2_000_000, 0),
    ("P16 GET, one hot key", 16, ["GET", "key:000000000007"], 2_000_000, 0),
]


def measure(programs, quick):
    rounds = ROUNDS
    loads = LOADS if quick else LOADS + MORE
    names = programs.names()
    running = {}
    try:
        for name in names:
            running[name] = programs.start(name)
            fill(running[name])
        samples = {load[0]: {name: [] for name in names} for load in loads}
        for turn in range(rounds):
            for load in loads:
                # Another one begins each time.
                for name in names[turn % len(names):] + names[:turn % len(names)]:
                    samples[load[0]][name].append(run(running[name], load, quick))
            servers.say(f"round {turn + 1} of {rounds} is done")
    finally:
        for server in running.values():
            server.stop()
    return {"rows": {load: {name: median(runs) for name, runs in row.items()} for load, row in samples.items()}, "rounds": rounds}


def fill(server):
    """All keys that redis-benchmark may ask for, so that each GET is a hit."""
    client = server.client()
    value = b"x" * VALUE
    step = 5_000
    client.write_all(
        (b"".join(b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$%d\r\n%s\r\n" % (i, VALUE, value) for i in range(at, at + step)), step)
        for at in range(0, KEYS, step))
    client.close()


def run(server, load, quick):
    """Seconds of a million requests: user, system; and the load generator's requests a second."""
    _, pipeline, command, full, short = load
    requests = short if quick else full
    arguments = ["-t", command] if isinstance(command, str) else command
    tool = ["redis-benchmark", "-p", server.port, "-c", CLIENTS, "-n", requests, "-P", pipeline, "-r", KEYS, "-d", VALUE, "-q", *arguments]
    user, system = server.cpu_seconds()
    done = subprocess.run(list(map(str, tool)), capture_output=True, text=True, check=True)
    user_after, system_after = server.cpu_seconds()
    rate = re.findall(r"([\d.]+) requests per second", done.stdout)
    if not rate:
        raise RuntimeError(f"redis-benchmark said: {done.stdout} {done.stderr}")
    scale = 1e6 / requests
    return {"user": (user_after - user) * scale, "system": (system_after - system) * scale, "rate": float(rate[-1])}


def median(runs):
    """The run in the middle, by user and system time together."""
    ordered = sorted(runs, key=lambda r: r["user"] + r["system"])
    return ordered[(len(ordered) - 1) // 2]
