# What one can do here; `make` lists it. Everything built goes to the user's cache, so that a second clone builds nothing again.
SHELL := /bin/bash -o pipefail
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/mcpscale
export CARGO_TARGET_DIR ?= $(CACHE)/target
$(shell hack/claim-target $(CARGO_TARGET_DIR))
# Where end-to-end tests run: `node` starts a one-node cluster on this machine, `current` uses the one kubectl points at.
export CLUSTER ?= node
BIN := $(CARGO_TARGET_DIR)/debug
# One selection of packages for every build, so that cargo compiles each dependency with one set of features, once.
BUILD := cargo build --locked --quiet --workspace

help:
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: packages ## Show the whole loop on a cluster of its own: apply, load, scale up, scale down (KEEP=1 keeps the cluster)
	@$(BUILD) --bins && CLUSTER=node $(BIN)/mcpscale-demo

test: packages ## Run every check and test, then sum them up
	@hack/run-tests test-unit$(if $(filter node,$(CLUSTER)),+images) test-api test-e2e+lint

test-unit: ## Run the tests that need no cluster
	@hack/test-unit

test-api: ## Run the tests against a real API server (started by them; no root needed)
	@cargo test --locked --workspace --no-fail-fast --test harness --test api -- --test-threads=3

test-e2e: ## Run the end-to-end tests (CLUSTER=current: on the cluster kubectl points at)
	@hack/test-e2e

cluster-up: packages ## Start a one-node cluster to work with, with the images in it
	@$(BUILD) --bins && $(BIN)/mcpscale-cluster up --images

cluster-down: ## Stop it and remove all it left
	@$(BUILD) --bins && $(BIN)/mcpscale-cluster down

images: packages ## Build the images of operator and server
	@$(BUILD) --bins && $(BIN)/mcpscale-cluster images

crds: ## Write the CRD from the Rust types, here and into its chart
	@$(BUILD) --bins && $(BIN)/mcpscale crd > crds/$(CRD) && cp crds/$(CRD) charts/mcpscale-crds/files/$(CRD)
CRD := mcpservers.mcpscale.dev.yaml

lint: ## Check formatting, lints, documentation, dependencies, scripts, charts and manifests
	@hack/lint

bench: ## Load one MCP server on loopback in rising steps: rate, latency, what is shed
	@hack/bench

bench-server: packages ## Measure the MCP server side by side with others (BENCH="--rounds 1 --seconds 2" for a short run)
	@hack/bench-server $(BENCH)

bench-parts: ## Measure scoring, cache and token check by themselves, beside RapidFuzz, moka and jsonwebtoken
	@hack/bench-parts $(BENCH)

bench-replicas: packages ## Measure on a cluster what two replicas of 250m do more than one
	@cargo test --locked --workspace --test e2e -- --nocapture bench::

doc: ## Build the API documentation of every crate
	@cargo doc --locked --workspace --no-deps && echo "$(CARGO_TARGET_DIR)/doc/mcpscale/index.html"

packages: ## Install what building and testing need from Debian (as root)
	@tests/cluster/install-packages

.PHONY: help demo test test-unit test-api test-e2e cluster-up cluster-down images crds lint bench bench-server bench-replicas bench-parts doc packages
