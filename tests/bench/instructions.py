"""Instructions a request, counted by callgrind: the same from run to run, whatever else the machine does."""

import re
import subprocess

import servers

KEYS = 20_000
VALUE = b"x" * 64
# Pipeline, batches.
SHAPES = [(1, 2_000), (16, 500), (64, 125)]


def measure(programs, quick):
    shapes = SHAPES[1:2] if quick else SHAPES
    rows = {}
    for name in programs.names():
        server = programs.start(name, wrapper=("valgrind", "--tool=callgrind", "--callgrind-out-file=callgrind.out"), wait_s=120)
        try:
            client = server.client()
            client.write_all((b"".join(frame("SET", i) for i in range(at, at + 500)), 500) for at in range(0, KEYS, 500))
            rows[name] = {f"P{pipeline} {verb}": count(server, client, verb, pipeline, batches) for pipeline, batches in shapes for verb in ("GET", "SET")}
            client.close()
        finally:
            server.stop()
    return {"rows": rows}


def frame(verb, i):
    key = b"key:%012d" % (i * 7919 % KEYS)
    if verb == "GET":
        return b"*2\r\n$3\r\nGET\r\n$16\r\n%s\r\n" % key
    return b"*3\r\n$3\r\nSET\r\n$16\r\n%s\r\n$64\r\n%s\r\n" % (key, VALUE)


def count(server, client, verb, pipeline, batches):
    answer = {"GET": len(b"$64\r\n\r\n") + 64, "SET": len(b"+OK\r\n")}[verb] * pipeline
    control(server, "--zero")
    for batch in range(batches):
        client.socket.sendall(b"".join(frame(verb, batch * pipeline + i) for i in range(pipeline)))
        if len(client.file.read(answer)) != answer:
            raise RuntimeError("the server has closed the connection")
    return dumped(server, verb) / (batches * pipeline)


def dumped(server, what):
    """Instructions since the counts were made zero."""
    control(server, f"--dump={what}")
    newest = max(server.path().glob("callgrind.out.*"), key=lambda f: int(f.name.rpartition(".")[2]))
    totals = re.search(r"^(?:totals|summary): (\d+)", newest.read_text(), re.MULTILINE)
    return int(totals[1])


def control(server, what):
    subprocess.run(["callgrind_control", what, str(server.pid)], check=True, capture_output=True, cwd=server.files)
