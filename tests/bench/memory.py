"""Bytes a key by what the kernel counts as resident, beyond key and value: the worst over a sweep of numbers of keys.

cache-node keeps its eviction queues, as with a limit and S3-FIFO.
"""

import binascii

import servers

KEY, VALUE = 16, 8
STEP = 1.19
BATCH = 5_000
# Slots of the node under test: a cluster's only shard, and one of three.
SHARES = [servers.SLOTS, 5_461]


def measure(programs, quick):
    first, last = (1_000_000, 2_000_000) if quick else (1_000_000, 20_000_000)
    sweep = [round(first * STEP**i) for i in range(100) if first * STEP**i < last * 1.01]
    # Theirs do not depend on the slots; their worst is found in fewer keys.
    theirs = [n for n in sweep if n <= 5_000_000]
    rows = []
    for name in programs.names():
        ours = name == "cache-node"
        for slots in SHARES[: 1 if quick else 2] if ours else SHARES[:1]:
            for ttl in (False, True):
                points = run(programs, name, slots, ttl, sweep if ours else theirs)
                worst = max(points, key=lambda p: p[1])
                rows.append({"server": name, "slots": slots, "ttl": ttl, "points": points, "worst": worst[1], "at": worst[0]})
                servers.say(f"{name}, {slots} slots, {'TTL' if ttl else 'no TTL'}: {worst[1]:.1f} bytes a key at {worst[0]} keys")
    return {"rows": rows}


def run(programs, name, slots, ttl, sweep):
    server = programs.start(name, slots=slots, flags=("--max-memory-policy", "s3-fifo"))
    try:
        before = server.rss()
        client = server.client()
        numbers = keys(slots)
        points, done = [], 0
        for count in sweep:
            client.write_all(batches(numbers, count - done, ttl))
            done = count
            points.append((count, (server.rss() - before) / count - KEY - VALUE))
        if client.ask("DBSIZE") != done:
            raise RuntimeError(f"{name} does not hold the {done} keys that it acknowledged")
        client.close()
        return points
    finally:
        server.stop()


def keys(slots):
    """Keys in the first so many slots."""
    crc = binascii.crc_hqx  # CRC-16/XMODEM, that of the slots
    i = 0
    while True:
        key = b"key:%012d" % i
        if slots == servers.SLOTS or crc(key, 0) % servers.SLOTS < slots:
            yield key
        i += 1


def batches(numbers, count, ttl):
    head = b"*5\r\n$3\r\nSET\r\n$16\r\n%s\r\n$8\r\n12345678\r\n$2\r\nEX\r\n$6\r\n864000\r\n" if ttl else b"*3\r\n$3\r\nSET\r\n$16\r\n%s\r\n$8\r\n12345678\r\n"
    while count > 0:
        size = min(BATCH, count)
        yield b"".join(head % next(numbers) for _ in range(size)), size
        count -= size
