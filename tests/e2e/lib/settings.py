"""Where things are: set by the `run` script."""

import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[3]
TARGET = pathlib.Path(os.environ["E2E_TARGET"])
REGISTRY = os.environ["E2E_REGISTRY"]
VERSION = os.environ["E2E_VERSION"]
# The state of the cluster of tests/cluster; none on a user's own.
RUN = pathlib.Path(os.environ["E2E_RUN"]) if os.environ.get("E2E_RUN") else None
# What the link of a node is called, less its number.
LINK = os.environ.get("E2E_LINK")
# Where in the audit log this run begins: set once the operator is about to be installed.
AUDIT_START = 0
KEEP = bool(os.environ.get("E2E_KEEP"))

CHART = ROOT / "charts/cache-operator"
LOAD = TARGET / "debug/cache-load"
CACHECTL = TARGET / "debug/cachectl"
EVIDENCE = TARGET / "e2e"
NODE_IMAGE = f"{REGISTRY}/cache-node:{VERSION}"
NEXT_IMAGE = f"{REGISTRY}/cache-node:{VERSION}-next"
S3_IMAGE = f"{REGISTRY}/s3:1"
SHELL_IMAGE = f"{REGISTRY}/busybox:1"

SYSTEM = "cache-system"
RELEASE = "cache-operator"
