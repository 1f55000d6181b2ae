# Every target can be interrupted and started again: what is done is kept, what was half done is begun anew.
SHELL := /bin/bash

.PHONY: help run setup build test test-setup kubelet-test cluster cluster-down cluster-test test-all critest lint fmt bundle-update clean

help: ## this list
	@echo "PodVM: a Kubernetes CRI server whose pod sandboxes are virtual machines"
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## set up all that is missing, then start the server (root, Debian family)
	@setup/run.sh

setup: ## the same without starting the server
	@setup/setup.sh

build: ## packages, generated code, TypeScript and Rust only; touches nothing outside this folder
	@setup/setup.sh build

test: ## set up, then lint, unit, contract and end-to-end tests, and critest
	@test/setup/test.sh

test-setup: ## what only the tests need: crictl, registry, busybox
	@test/setup/setup.sh

kubelet-test: ## a real kubelet v1.36 runs static pods on PodVM (its first build takes 5 to 17 minutes)
	@test/setup/test.sh kubelet

cluster: ## Kubernetes v1.36 on this node, with PodVM as its runtime, for use by hand (PODVM_CLUSTER, MIRROR)
	@test/cluster/up.sh

cluster-down: ## end that cluster and remove every trace of it
	@node dist/test/cluster/main.js down

cluster-test: ## the same cluster, tested with kubectl
	@test/setup/test.sh cluster

test-all: ## make test, critest, kubelet-test and cluster-test in one
	@test/setup/test.sh lint rust unit contract e2e critest kubelet cluster

critest: ## critest v1.36 against a server of its own: every spec, serially, in parallel, over WebSocket
	@critest-config/run.sh

lint: ## biome, cargo fmt, clippy
	@setup/setup.sh build && node test/run.mjs lint

fmt: ## format everything
	@npx biome check --write . && cargo fmt --all

bundle-update: ## move the pinned versions of hypervisor, guest kernel and tools to the newest
	@bundle/update.sh

clean: ## remove what was built in this folder (assets under /var/lib/podvm stay)
	@rm -rf dist dist.new dist.old build/stamps build/log build/test src/gen target
