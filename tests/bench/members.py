"""Collections: resident bytes a member, processor time and instructions of commands on big ones."""

import re
import subprocess

import instructions
import servers

# Members of a collection; all collections of a row hold so many together.
SIZES = [8, 100, 10_000, 1_000_000]
TOTAL = 1_000_000
BIG = 1_000_000
PIECE = 500
CLIENTS, PIPELINE = 50, 16
MEMBER = "m:__rand_int__"

# Kind, the command that fills, the words of a member's number.
KINDS = {
    "hash": ("HSET", lambda i: (member(i), b"%08d" % i)),
    "set": ("SADD", lambda i: (member(i),)),
    "zset": ("ZADD", lambda i: (b"%d" % (i * 7919 % BIG), member(i))),
    "list": ("RPUSH", lambda i: (member(i),)),
}
# Bytes of a member without anything around; a score is a number of eight.
PAYLOAD = {"hash": 14 + 8, "set": 14, "zset": 14 + 8, "list": 14}

# Commands on a collection of a million members: what redis-benchmark asks, and the same for callgrind by a number.
COMMANDS = [
    ("HGET", ("HGET", "hash", MEMBER), lambda i: (b"HGET", b"hash", member(i))),
    ("HSET, its field there", ("HSET", "hash", MEMBER, "12345678"), lambda i: (b"HSET", b"hash", member(i), b"12345678")),
    ("SISMEMBER", ("SISMEMBER", "set", MEMBER), lambda i: (b"SISMEMBER", b"set", member(i))),
    ("SADD, new", ("SADD", "set", "n:__rand_int__"), lambda i: (b"SADD", b"set", b"n:%012d" % i)),
    ("ZSCORE", ("ZSCORE", "zset", MEMBER), lambda i: (b"ZSCORE", b"zset", member(i))),
    ("ZADD, another score", ("ZADD", "zset", "__rand_int__", MEMBER), lambda i: (b"ZADD", b"zset", b"%d" % (i * 31 % BIG), member(i))),
    ("ZRANGEBYSCORE, 10 of them", ("ZRANGEBYSCORE", "zset", "__rand_int__", "+inf", "LIMIT", "0", "10"),
     lambda i: (b"ZRANGEBYSCORE", b"zset", b"%d" % i, b"+inf", b"LIMIT", b"0", b"10")),
    ("ZRANK", ("ZRANK", "zset", MEMBER), lambda i: (b"ZRANK", b"zset", member(i))),
    ("LPUSH", ("LPUSH", "list", MEMBER), lambda i: (b"LPUSH", b"list", member(i))),
    ("RPOP", ("RPOP", "list"), lambda i: (b"RPOP", b"list")),
    ("LINDEX, the middle", ("LINDEX", "list", "499999"), lambda i: (b"LINDEX", b"list", b"499999")),
]


def member(i):
    return b"m:%012d" % i


def measure(programs, quick):
    return {"bytes": sizes(programs), "seconds": seconds(programs, 200_000 if quick else 1_000_000), "instructions": counts(programs, 100 if quick else 500)}


def frame(words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


def fill(client, kind, key, members):
    """Adds members in an order that is not theirs, a piece a command, and checks that all are there."""
    verb, words = KINDS[kind]
    added = 0
    for at in range(0, members, PIECE):
        some = [words(i * 7919 % members) for i in range(at, min(at + PIECE, members))]
        reply = client.ask(verb, key, *(word for one in some for word in one))
        added = reply if kind == "list" else added + reply
    if added != members:
        raise RuntimeError(f"{verb} has added {added} of {members} members")


def sizes(programs):
    """Resident bytes a member above those of the empty server, a fresh one for each row."""
    rows = []
    for kind in KINDS:
        for members in SIZES:
            row = {"kind": kind, "members": members}
            for name in programs.names():
                server = programs.start(name)
                try:
                    client = server.client()
                    before = server.rss()
                    for n in range(TOTAL // members):
                        fill(client, kind, f"{kind}:{n:08}", members)
                    row[name] = (server.rss() - before) / TOTAL
                    client.close()
                finally:
                    server.stop()
            servers.say(f"{kind} of {members}: " + ", ".join(f"{n} {row[n]:.1f}" for n in programs.names()))
            rows.append(row)
    return rows


def seconds(programs, requests):
    """Processor seconds of a million requests, the servers in turns."""
    running = {}
    rows = []
    try:
        for name in programs.names():
            running[name] = programs.start(name)
            client = running[name].client()
            for kind in KINDS:
                fill(client, kind, kind, BIG)
            client.close()
        for what, command, _ in COMMANDS:
            runs = {name: run(server, command, requests) for name, server in running.items()}
            rows.append({"what": what, **runs})
            servers.say(f"{what}: " + ", ".join(f"{n} {r['user'] + r['system']:.2f}" for n, r in runs.items()))
    finally:
        for server in running.values():
            server.stop()
    return rows


def run(server, command, requests):
    tool = ["redis-benchmark", "-p", server.port, "-c", CLIENTS, "-n", requests, "-P", PIPELINE, "-r", BIG, "-q", *command]
    user, system = server.cpu_seconds()
    done = subprocess.run(list(map(str, tool)), capture_output=True, text=True, check=True)
    user_after, system_after = server.cpu_seconds()
    if not re.search(r"requests per second", done.stdout) or "rror" in done.stdout + done.stderr:
        raise RuntimeError(f"redis-benchmark said: {done.stdout} {done.stderr}")
    scale = 1e6 / requests
    return {"user": (user_after - user) * scale, "system": (system_after - system) * scale}


def counts(programs, batches):
    """Instructions a command in user space, in a pipeline, by callgrind."""
    rows = [{"what": what} for what, _, _ in COMMANDS]
    for name in programs.names():
        wrapper = ("valgrind", "--tool=callgrind", "--callgrind-out-file=callgrind.out", "--instr-atstart=no")
        server = programs.start(name, wrapper=wrapper, wait_s=120)
        try:
            client = server.client()
            for kind in KINDS:
                fill(client, kind, kind, BIG)
            instructions.control(server, "--instr=on")
            for row, (what, _, words) in zip(rows, COMMANDS):
                row[name] = count(server, client, what, words, batches)
            servers.say(f"instructions of {name} are counted")
            client.close()
        finally:
            server.stop()
    return rows


def count(server, client, what, words, batches):
    instructions.control(server, "--zero")
    for batch in range(batches):
        numbers = ((batch * PIPELINE + i) * 104_729 % BIG for i in range(PIPELINE))
        client.socket.sendall(b"".join(frame(words(i)) for i in numbers))
        for _ in range(PIPELINE):
            client.reply()
    return instructions.dumped(server, what) / (batches * PIPELINE)
