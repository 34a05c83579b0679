"""Writes what was measured into docs/benchmarks.md, between its two marks, and draws docs/benchmarks.svg."""

import servers
from members import PAYLOAD

PAGE = servers.ROOT / "docs/benchmarks.md"
PICTURE = servers.ROOT / "docs/benchmarks.svg"
BEGIN, END = "<!-- measured: begin (make bench) -->", "<!-- measured: end -->"
TITLES = {"redis": "Redis", "valkey": "Valkey", "cache-node": "cache-node"}
# Goals as parts of Redis's figure in the same run (user time in the second place).
GOALS = {
    "P1 GET": (10.4 / 12.6, None), "P1 SET": (10.6 / 12.0, None), "P16 GET": (0.85 / 1.97, 0.40 / 1.40),
    "P16 SET": (1.0 / 2.26, None), "P64 GET": (0.50 / 1.46, None), "P64 SET": (0.60 / 1.70, None),
}
EXECUTOR_GOALS = {"GET": 1.10, "SET": 1.10, "logged SET": 1.25}
BYTES_GOAL = {False: 20, True: 24}


def write(results):
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"bench: {PAGE} has not the marks {BEGIN} and {END}")
    makers = {"cpu": cpu, "memory": memory, "instructions": instructions, "collections": collections, "executor": executor}
    # What was not measured this time stays as it is.
    parts = {name: text for name in makers if (text := part_of(rest, name))}
    parts |= {name: short(results[name]) + make(results[name]) for name, make in makers.items() if name in results}
    texts = [conditions(results)] + [mark_of(name) + "\n\n" + parts[name] for name in makers if name in parts]
    PAGE.write_text(before + BEGIN + "\n\n" + "\n".join(texts) + "\n" + END + after)
    if "cpu" in results:
        PICTURE.write_text(picture(results["cpu"]["rows"]))
    servers.say(f"wrote {PAGE.relative_to(servers.ROOT)}")


def mark_of(name):
    return f"<!-- part: {name} -->"


def part_of(text, name):
    """What the page says of a part; None where it does not."""
    _, mark, found = text.partition(mark_of(name))
    for end in ("<!-- part: ", END):
        found = found.partition(end)[0]
    return found.strip() + "\n" if mark else None


def short(part):
    return "Short run (`QUICK=1`).\n\n" if part.get("quick") else ""


def conditions(results):
    c = results["conditions"]
    versions = ", ".join(f"{TITLES[n]} {v}" if v else f"{TITLES[n]}: not to be had here" for n, v in c["versions"].items())
    return f"{versions}. {c['cores']} cores, Linux {c['kernel']}.\n"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def total(run):
    return run["user"] + run["system"]


def cpu(part):
    rows = []
    names = list(next(iter(part["rows"].values())))
    for load, runs in part["rows"].items():
        redis, ours = runs["redis"], runs["cache-node"]
        cells = [f"{total(runs[n]):.2f} ({runs[n]['user']:.2f})" for n in names]
        ratio, user_ratio = total(ours) / total(redis), ours["user"] / redis["user"]
        goal, user_goal = GOALS.get(load, (None, None))
        wanted = "" if goal is None else f"≤ {goal:.2f}" + (f" (≤ {user_goal:.2f})" if user_goal else "")
        met = goal is not None and ratio <= goal and (user_goal is None or user_ratio <= user_goal)
        rows.append([load, *cells, f"{ratio:.2f} ({user_ratio:.2f})", wanted, "" if goal is None else "met" if met else "missed"])
    head = ["", *(TITLES[n] for n in names), "ours / Redis", "goal", ""]
    return (f"### Processor seconds per million requests\n\nUser and system time, in brackets user time alone. Rounds: {part['rounds']}.\n\n"
            + table(head, rows) + "\n![Processor time beside Redis's](benchmarks.svg)\n")


def memory(part):
    rows = []
    for row in part["rows"]:
        ours = row["server"] == "cache-node"
        what = TITLES[row["server"]] + (f", {row['slots']:,} slots" if ours else "")
        goal = f"≤ {BYTES_GOAL[row['ttl']]}" if ours else ""
        met = "" if not ours else "met" if row["worst"] <= BYTES_GOAL[row["ttl"]] else "missed"
        low = min(p[1] for p in row["points"])
        rows.append([what, "TTL" if row["ttl"] else "no TTL", f"{row['worst']:.1f}", f"{row['at']:,}", f"{low:.1f}", goal, met])
    first, last = (f"{row['points'][i][0]:,}" for row in part["rows"][-1:] for i in (0, -1))
    return (f"### Bytes a key beyond key and value\n\nResident memory; keys of 16 bytes, values of 8; the worst over {first} to {last} keys in steps of 19 %; cache-node with the queues of S3-FIFO.\n\n"
            + table(["", "", "worst", "at keys", "best", "goal", ""], rows))


def instructions(part):
    loads = list(next(iter(part["rows"].values())))
    rows = [[TITLES[name], *(f"{row[load]:,.0f}" for load in loads)] for name, row in part["rows"].items()]
    return "### Instructions a request\n\nCounted by callgrind in user space, the whole process.\n\n" + table(["", *loads], rows)


def collections(part):
    names = [name for name in TITLES if name in part["bytes"][0]]
    head = [TITLES[name] for name in names] + ["ours / Redis"]

    def cells(row, value, form):
        return [form.format(value(row[name])) for name in names] + [f"{value(row['cache-node']) / value(row['redis']):.2f}"]

    held = table(["", "members", "payload", *head], [[row["kind"], f"{row['members']:,}", str(PAYLOAD[row["kind"]]), *cells(row, float, "{:.1f}")] for row in part["bytes"]])
    spent = table(["", *head], [[row["what"], *cells(row, total, "{:.2f}")] for row in part["seconds"]])
    counted = table(["", *head], [[row["what"], *cells(row, float, "{:,.0f}")] for row in part["instructions"]])
    return ("### Collections: bytes a member\n\nResident memory, all of it, divided by the members: a million of 14 bytes, alone or with a value or score of 8, in collections of so many each.\n\n" + held
            + "\n### Collections: processor seconds per million commands\n\nUser and system time of commands on collections of a million members, each for another member, P16.\n\n" + spent
            + "\n### Collections: instructions a command\n\nThe same in user space, counted by callgrind, P16 on one connection.\n\n" + counted)


def executor(part):
    rows = []
    for row in part["rows"]:
        limit = EXECUTOR_GOALS[row["what"]]
        contended = f"{row['contended'] / row['locks'] * 1e6:.0f}"
        rows.append([row["what"], f"{row['one']} ns", f"{row['two']} ns", f"{row['ratio']:.2f}", f"≤ {limit:.2f}", "met" if row["ratio"] <= limit else "missed", contended])
    return ("### The store without sockets, one thread and two\n\nProcessor time of an operation in batches of 32, a million keys; the middle of five.\n\n"
            + table(["", "one thread", "each of two", "ratio", "goal", "", "locks contended, in a million"], rows))


def picture(rows):
    """Bars of processor time as a part of Redis's, with each goal as a line."""
    loads = [load for load in rows if load in GOALS]
    names = [n for n in ("redis", "valkey", "cache-node") if n in rows[loads[0]]]
    colours = {"redis": "#b9b9b9", "valkey": "#7f9fc4", "cache-node": "#2f7d4f"}
    left, top, bar, gap, width = 90, 40, 14, 14, 460
    group = bar * len(names) + gap
    height = top + group * len(loads) + 30
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 90} {height}" font-family="sans-serif" font-size="12">',
           '<rect width="100%" height="100%" fill="#ffffff"/>',
           f'<text x="{left}" y="20">Processor time a request, as a part of Redis\'s (shorter is better; line: goal)</text>']
    for i, load in enumerate(loads):
        y = top + group * i
        out.append(f'<text x="{left - 8}" y="{y + bar * len(names) / 2 + 4}" text-anchor="end">{load}</text>')
        for j, name in enumerate(names):
            ratio = total(rows[load][name]) / total(rows[load]["redis"])
            at = y + bar * j
            length = min(ratio, 1.15) * width / 1.15
            out.append(f'<rect x="{left}" y="{at}" width="{length:.1f}" height="{bar - 2}" fill="{colours[name]}"/>')
            out.append(f'<text x="{left + length + 5:.1f}" y="{at + bar - 4}" font-size="10">{TITLES[name]} {ratio:.2f}</text>')
        goal = left + GOALS[load][0] * width / 1.15
        out.append(f'<line x1="{goal:.1f}" y1="{y - 3}" x2="{goal:.1f}" y2="{y + bar * len(names) + 1}" stroke="#c0392b" stroke-width="2"/>')
    return "\n".join([*out, "</svg>"]) + "\n"
