# The commands for people. scripts/setup knows versions and downloads.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.deps/node/bin:$(PATH):$(HOME)/.cargo/bin

# Threads that wait for each other sleep instead of spinning. On cores shared with other work (tests, a build), training
# is up to ten times as fast.
export OMP_WAIT_POLICY ?= passive

.PHONY: help setup build wheel demo serve test soak fuzz screenshots bench bench-pipeline bench-exported bench-gpu networks fmt lint lint-dashboard clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what cargo does not, below .deps/ and node_modules/ (quick if nothing is missing)
	@scripts/setup

build: setup ## build the programs in target/release
	@cargo build --release --locked

# With the plugin for GPUs, which the machine that installs it may have.
wheel: setup ## build dist/distillery-*.whl: the programs and the Python client, for pip
	@scripts/setup cuda_headers wheel
	@cargo build --release --locked
	@rm -f dist/distillery-*.whl
	@.deps/wheel/run build -t wheel -d dist

# With it, the server times students and checks exports.
demo serve screenshots: export DISTILLERY_ONNXRUNTIME ?= $(CURDIR)/.deps/onnxruntime/libonnxruntime.so

demo: build ## distil on real handwritten digits and leave the dashboard running (STOP=1: stop at the end; PORT=8080; SEEDS=6)
	@scripts/setup onnxruntime
	@python3 scripts/demo.py

serve: build ## run the server on this machine's devices, with its data in data/ and data sets from datasets/
	@scripts/setup onnxruntime
	@mkdir -p datasets
	@exec target/release/distillery serve

# Most tests wait for something else than a processor.
test: export RUST_TEST_THREADS ?= $(shell echo $$((2 * $$(nproc))))
test: setup ## run all tests: Rust, then the evidence, the dashboard in a browser and the Python client
	@scripts/setup schemathesis onnxruntime
	@cargo test --locked
	@python3 -m unittest discover --start-directory tests/evidence
	@CHROMIUM=$$(scripts/browser) node --test --test-concurrency=$$(($$(nproc) + 1)) tests/browser/*.test.mjs
	@scripts/test-python
	@echo "All tests passed: Rust, the evidence, the dashboard in a browser, and the Python client."

soak: export DISTILLERY_SOAK_MINUTES ?= $(or $(MINUTES),30)
soak: export DISTILLERY_SOAK_KILLS ?= $(or $(KILLS),100)
soak: export DISTILLERY_CRASH_SEED ?= $(SEED)
soak: setup ## kill processes at random for MINUTES=30, then KILLS=100 times under sweeps (SEED=…), and check every job's history
	@cargo test --locked --package distillery --test it -- --ignored --exact crash::soak --nocapture
	@cargo test --locked --package distillery --test it -- --ignored --exact crash::sweeps::soak_sweeps --nocapture

fuzz: ## look for files that break a reader, for MINUTES=10 in all (ONLY=exported: one of the targets in fuzz/)
	@scripts/fuzz $${MINUTES:-10} $(ONLY)

screenshots: build ## retake docs/screenshots/ from real jobs on the digits
	@scripts/setup onnxruntime
	@CHROMIUM=$$(scripts/browser) DISTILLERY_BIN=target/release/distillery node scripts/screenshots.mjs

bench: setup ## compare training steps with plain PyTorch (DATA=cifar100's parquet files: also whole jobs)
	@scripts/setup pytorch_bench
	@cargo build --release --locked --package distillery-trainer
	@python3 benches/compare.py $(if $(DATA),--data $(DATA))

bench-pipeline: setup ## compare the reading of streamed data sets with PyTorch's loader
	@scripts/setup pytorch_bench
	@python3 benches/pipeline.py

bench-exported: setup ## compare training steps of exported networks with eager PyTorch (SIDE=224: larger images)
	@scripts/setup networks
	@python3 benches/exported.py $(if $(SIDE),--side $(SIDE))

bench-gpu: setup ## on a GPU: run its tests, and compare steps, jobs and accuracy with plain PyTorch (DATA=cifar100's parquet files)
	@scripts/setup pytorch_bench cuda_headers
	@cargo build --release --locked --package distillery-trainer
	@python3 benches/gpu.py $(if $(DATA),--data $(DATA))

networks: setup ## load students into timm and torchvision, compare networks of theirs with PyTorch, and write the table in docs/networks.md (ONLY=resnet18,…; OPERATORS=1)
	@scripts/setup networks
	@cargo build --locked --package distillery-trainer --bins --examples
	@DISTILLERY_TEST_NETWORKS=1 cargo test --locked --package distillery-trainer --test it networks::students
	@.deps/networks/run scripts/networks.py $(if $(ONLY),--only $(ONLY)) $(if $(OPERATORS),--operators)

fmt: ## format the code
	@cargo fmt --all

lint: setup lint-dashboard ## check formatting and lints, as .ci/run does
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --locked -- -D warnings

lint-dashboard: setup ## check the types of the dashboard's modules, and lint them and its tests
	@node_modules/.bin/tsc
	@node_modules/.bin/oxlint

clean: ## remove builds, wheels, downloads, and data/ with its jobs and students
	@rm -rf target .deps node_modules data dist
