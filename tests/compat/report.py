"""What came of a run: passes here beside redis-server's, as a table."""

import collections

Row = collections.namedtuple("Row", "file here redis lost")


def rows(results):
    """A pass counts where redis-server passes too: by the test's name, as often as both pass it."""
    found = []
    for file, servers in results.items():
        here, redis = (servers.get(name, {}).get("passed", collections.Counter()) for name in ("cache-node", "redis"))
        found.append(Row(file, sum((here & redis).values()), sum(redis.values()), redis - here))
    return found


def percent(rows):
    redis = sum(row.redis for row in rows)
    return 100.0 * sum(row.here for row in rows) / redis if redis else 100.0


def text(rows, results):
    lines = []
    for row in rows:
        if row.redis:
            lines.append(f"{row.file:24} {row.here:4} of {row.redis:4}")
        lines += [f"    lost: {name}" for name in sorted(row.lost.elements())]
    lines += [f"    {file}: redis-server: {what}" for file, servers in results.items() for what in servers.get("redis", {}).get("failed", [])]
    lines.append(f"{'all':24} {sum(row.here for row in rows):4} of {sum(row.redis for row in rows):4}: {percent(rows):.1f} %")
    return "\n".join(lines)


def write(path, rows, results, skipped):
    asked = [row for row in rows if row.redis]
    lines = ["# Compatibility", "",
             "Redis 7.0.15's own test suite (Tcl, external mode, one database), asked of `cache-node` and of `redis-server` 7.0 in one run, a fresh server for each file: `make compat`",
             "fetches it, runs it and writes this page. A test counts as passed here only where redis-server passes it in the same run.", "",
             "| file | passed here | passed by redis-server | % |", "|---|--:|--:|--:|"]
    lines += [f"| `{row.file}` | {row.here} | {row.redis} | {percent([row]):.0f} |" for row in asked]
    lines.append(f"| **all** | **{sum(row.here for row in rows)}** | **{sum(row.redis for row in rows)}** | **{percent(rows):.1f}** |")
    lost = [(row.file, name) for row in asked for name in sorted(row.lost.elements())]
    if lost:
        lines += ["", "## What redis-server passes and cache-node does not", ""]
        lines += [f"- `{file}`: {name}" for file, name in lost]
    failed = [(file, what) for file, servers in results.items() for what in servers["redis"]["failed"]]
    if failed:
        lines += ["", "## What redis-server itself fails in this mode", ""]
        lines += [f"- `{file}`: {what}" for file, what in failed]
    unasked = [f"`{row.file}`" for row in rows if not row.redis]
    if unasked:
        lines += ["", "## Files of which nothing can be asked from outside", "", "They start servers of their own with other settings (tagged `external:skip`): " + ", ".join(unasked) + "."]
    lines += ["", "## What is left out", "", "| file | test | reason |", "|---|---|---|"]
    lines += [f"| {skip.file} | {skip.what.replace('|', chr(92) + '|')} | {skip.reason} |" for skip in skipped]
    path.write_text("\n".join(lines) + "\n")
