# Programs and caches outside the checkout live in CACHE_HOME; CARGO_TARGET_DIR is honoured where it is set.
SHELL := /bin/bash
.DEFAULT_GOAL := help
CACHE_HOME ?= $(HOME)/.cache/cache-operator
TARGET := $(or $(CARGO_TARGET_DIR),target)
export CACHE_HOME
STAGE := tests/stage

.PHONY: help demo test here lint bench compat crds images cluster cluster-down e2e clean

help: ## This list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F'\t' '{printf "  make %-14s %s\n", $$1, $$2}'

demo: ## Build, then show a cache on this machine, without Kubernetes (ONCE=1: run through and exit)
	cargo build --locked -p cache-node -p cachectl
	$(TARGET)/debug/cachectl demo examples/quickstart.yaml $(if $(ONCE),--once)

test: ## Everything: format, lints, licences, tests, the chart, and end-to-end tests on a real cluster
	@$(STAGE) --begin
	@$(STAGE) tools tests/tools
	@$(STAGE) programs tests/cluster/build
	@$(STAGE) format cargo fmt --all --check
	@$(STAGE) clippy cargo clippy --locked --workspace --all-targets -- -D warnings
	@$(STAGE) deny tests/deny
	@$(STAGE) build cargo build --locked --workspace --all-targets
	@$(STAGE) images images/build --for-tests
	@CACHE_OPERATOR_BIN=$(TARGET)/debug/cache-operator $(STAGE) chart tests/chart/check
	@$(STAGE) --beside e2e tests/e2e/run -- nice $(MAKE) --no-print-directory here
	@$(STAGE) --summary

# What of the tests needs no cluster.
here:
	@$(STAGE) tests cargo test --locked --workspace
	@$(STAGE) asan tests/sanitize
	@$(STAGE) fuzz tests/fuzz 60

lint: ## Format, clippy and licences only
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	tests/tools && tests/deny

bench: ## cache-node beside Redis and Valkey: writes docs/benchmarks.md (QUICK=1: a few minutes)
	tests/bench/run $(if $(QUICK),--quick)

compat: ## Redis's own test suite beside redis-server: writes docs/compatibility.md (ARGS="--only unit/expire": one file)
	tests/compat/run $(ARGS)

crds: ## Write the CRDs in crds/ and the chart from src/api
	tests/chart/crds

images: ## Build both images (PROFILE=release: optimized), and load them into the test cluster where it runs
	images/build
	@. tests/cluster/env; if [ -e "$$RUN/complete" ] && alive "$$RUN/containerd-1.pid"; then tests/cluster/load-images $(TARGET)/images/cache-node.tar $(TARGET)/images/cache-operator.tar; fi

cluster: ## Start a real three-node Kubernetes on this machine (root, Linux; the first time builds it in 10 to 15 minutes)
	@tests/cluster/up 3

cluster-down: ## Remove every trace of it
	@tests/cluster/down

e2e: ## The end-to-end tests alone (ARGS="-k scale" chooses; with KUBECONFIG set, on your cluster)
	tests/tools
	cargo build --locked -p cache-load -p cachectl
	images/build --for-tests
	tests/e2e/run $(ARGS)

clean: ## Remove what was built here; programs in CACHE_HOME stay
	cargo clean
	find tests -name __pycache__ -type d -prune -exec rm -r {} +
