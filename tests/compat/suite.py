"""Redis's own test suite: where it comes from, which of it is asked, and what a run of one file printed."""

import collections
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
CACHE_HOME = pathlib.Path(os.environ.get("CACHE_HOME") or pathlib.Path.home() / ".cache/cache-operator")
VERSION = "7.0.15"
ARCHIVE = f"redis_{VERSION}.orig.tar.gz"
# As in the .dsc of Debian's source package.
SHA256 = "4b1dc4ee6d622a09fff9c6777191209750fb5e5a725ef78ea012d6eef4c22982"
POOL = "debian/pool/main/r/redis"
FALLBACK = "http://deb.debian.org"

Skip = collections.namedtuple("Skip", "file what reason")


def say(text):
    print(f"compat: {text}", file=sys.stderr, flush=True)


def mirrors():
    """Those that apt asks for Debian's archive, then Debian's own."""
    hosts = []
    if shutil.which("apt-get"):
        uris = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True).stdout
        hosts = [uri.rstrip("/").removesuffix("/debian") for uri in uris.split() if uri.rstrip("/").endswith("/debian")]
    return list(dict.fromkeys([*hosts, FALLBACK]))


def fetch():
    """The archive in CACHE_HOME, with its checksum proven."""
    kept = CACHE_HOME / "compat" / ARCHIVE
    if kept.exists() and hashlib.sha256(kept.read_bytes()).hexdigest() == SHA256:
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for mirror in mirrors():
        url = f"{mirror}/{POOL}/{ARCHIVE}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                body = answer.read()
        except OSError as error:
            failures.append(f"{url}: {error}")
            continue
        found = hashlib.sha256(body).hexdigest()
        if found != SHA256:
            failures.append(f"{url}: SHA-256 is {found}, not {SHA256}")
            continue
        kept.write_bytes(body)
        return kept
    sys.exit(f"compat: cannot fetch {ARCHIVE}; put it into {kept.parent} by hand. Tried:\n  " + "\n  ".join(failures))


# What a server without Redis's own structures and commands may refuse before it is asked what a test is about: functions are dropped at the
# beginning of each block, and nodes of lists are set to other sizes. Nothing that is checked is changed.
MAY_FAIL = {
    "tests/support/server.tcl": r"r function flush",
    "tests/unit/type/list.tcl": r"r debug quicklist-packed-threshold \w+|r config set list-compress-depth \d",
    "tests/unit/type/list-3.tcl": r"config_set list-compress-depth [\w$]+",
}


# What is asked in two ways, of which one comes later: scripts are asked of EVAL, not of functions too.
ONE_WAY = {"tests/unit/scripting.tcl": ("foreach is_eval {0 1} {", "foreach is_eval {1} {")}


def unpack(folder):
    """The suite in `folder`, with [`MAY_FAIL`] and [`ONE_WAY`]."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tarfile.open(fetch()) as archive:
        wanted = [m for m in archive.getmembers() if re.match(rf"redis-{VERSION}/(runtest|tests/)", m.name)]
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder, members=wanted)
    root = folder / f"redis-{VERSION}"
    for name, commands in MAY_FAIL.items():
        path = root / name
        text, count = re.subn(rf"^(\s*)({commands})$", r"\1catch {\2}; set _ OK", path.read_text(encoding="latin-1"), flags=re.M)
        if not count:
            sys.exit(f"compat: {path} has no {commands!r}: is it another version?")
        path.write_text(text, encoding="latin-1")
    for name, (both, one) in ONE_WAY.items():
        path = root / name
        text = path.read_text(encoding="latin-1")
        if both not in text:
            sys.exit(f"compat: {path} has no {both!r}: is it another version?")
        path.write_text(text.replace(both, one), encoding="latin-1")
    return root


def skips():
    """The lines of `skip`: file or `*` | test's name, /pattern, `*` or `tag <tag>` | reason."""
    found = []
    for number, line in enumerate((HERE / "skip").read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = [field.strip() for field in line.split(" | ")]
        if len(fields) != 3 or not all(fields):
            sys.exit(f"compat: skip:{number}: want `file | test | reason`")
        found.append(Skip(*fields))
    return found


def files(root):
    """Every file of units, in the order of their names."""
    units = [*(root / "tests/unit").glob("*.tcl"), *(root / "tests/unit/type").glob("*.tcl")]
    # What other files include.
    return sorted(str(u.relative_to(root / "tests"))[:-4] for u in units if u.name not in ("list-common.tcl", "printver.tcl"))


def skip_flags(skipped, file):
    flags, denied = [], []
    for skip in skipped:
        if skip.file not in ("*", file):
            continue
        if skip.what.startswith("tag "):
            denied.append("-" + skip.what.removeprefix("tag "))
        else:
            flags += ["--skiptest", skip.what]
    return flags + (["--tags", " ".join(denied)] if denied else [])


def run_file(root, file, port, log, flags, seconds, own_ports):
    """Asks the server at `port` all of one file, with the suite's own ports around `own_ports`. Answers names → how often passed, failures, and whether it came to its end."""
    command = ["timeout", "--kill-after=5", str(seconds), "./runtest", "--host", "127.0.0.1", "--port", str(port), "--single", file, "--singledb", "--durable",
               "--clients", "1", "--baseport", str(own_ports), "--timeout", str(seconds - 10), *flags]
    with open(log, "wb") as out:
        subprocess.run(command, cwd=root, stdout=out, stderr=subprocess.STDOUT, env=os.environ | {"TERM": "dumb"})
    return parse(log.read_text(encoding="latin-1"))


def parse(text):
    passed, failed = collections.Counter(), []
    for line in text.splitlines():
        if found := re.match(r"\[ok\]: (.*) \(\d+ ms\)$", line):
            passed[found[1]] += 1
        elif found := re.match(r"\[(?:err|exception|TIMEOUT)\]:? (.*)", line):
            failed.append(found[1])
    return passed, failed, "Test Summary" in text or "The End" in text
