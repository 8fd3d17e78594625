# Everything that is done with this project. `make` lists it.
MAKEFLAGS += --no-print-directory
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run build image dist test lint unit blackbox image-test reproducible soak bench reference

# The interpreter to embed: `make build PYTHON=/usr/bin/python3`.
PYTHON ?= python3
# For pytest and the benchmark: `make blackbox ARGS="-k reload"`.
ARGS ?=
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
BINARY := $(TARGET)/release/atrio
VENV := $(TARGET)/test-venv
PEERS := $(TARGET)/bench-venv
LOCKED := $(if $(CI),--locked)
STYLE := --config line-length=120
# Runs a command with compiler and interpreter, installed if need be.
WITH := PYTHON='$(PYTHON)' .ci/with
export CARGO_TARGET_DIR := $(TARGET)
export RUFF_CACHE_DIR := $(TARGET)/ruff
export CARGO_BUILD_JOBS ?= 2

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build ## serve sites/ on port 8080
	@exec $(BINARY) --sites sites

build: ## target/release/atrio
	@$(WITH) cargo build --release $(LOCKED)

image: ## target/image for x86_64 and aarch64, and atrio:latest in Docker; FRESH=yes takes Debian's packages anew
	@$(WITH) --image image/build $(TARGET)

dist: image ## target/dist: archives for hosts without Docker

# Pytest comes last and measures itself: its summary ends the output.
test: ## everything: lint, unit tests, black-box tests of the binary and of the image
	@for stage in lint unit build blackbox image image-test; do \
		printf '\n=== %s\n' $$stage; began=$$SECONDS; \
		$(MAKE) $$stage; \
		[ $$stage = image-test ] || printf '=== %s took %s s\n' $$stage $$((SECONDS - began)); \
	done

lint: $(VENV)/complete ## formats and lints of Rust and Python, warnings denied
	@$(VENV)/bin/ruff check --quiet $(STYLE) image sites tests
	@$(VENV)/bin/ruff format --quiet $(STYLE) --check image sites tests
	@$(WITH) --lint cargo fmt --check
	@$(WITH) --lint cargo clippy --all-targets $(LOCKED) -- -D warnings

unit: ## unit tests
	@$(WITH) cargo test $(LOCKED)

blackbox: build $(VENV)/complete ## tests of the real binary
	@$(WITH) --tests bash -c 'ATRIO_TEST_PYTHON=$$PYO3_PYTHON exec "$$@"' - \
		env ATRIO_BINARY=$(BINARY) $(VENV)/bin/pytest -c tests/pytest.ini -n 2 tests $(ARGS)

image-test: $(VENV)/complete ## tests of the image that `make image` has made, arm64 emulated, and all black-box tests against it
	@docker info >/dev/null 2>&1 || { echo 'make image-test: no Docker engine runs here' >&2; exit 1; }
	@trap 'docker ps --all --quiet --filter label=atrio-test=$(CURDIR) | xargs --no-run-if-empty docker rm --force >/dev/null' EXIT; \
	$(WITH) --image --tests tests/image/with-arm64 $(TARGET) env ATRIO_TEST_IMAGE=atrio ATRIO_BINARY=$(CURDIR)/tests/image/atrio \
		ATRIO_TEST_PYTHON=$(CURDIR)/tests/image/python3 $(VENV)/bin/pytest -c tests/pytest.ini -n 2 tests $(ARGS)

reproducible: image ## builds the image a second time, from nothing, and compares
	@$(WITH) --image image/compare $(TARGET)

soak: build $(VENV)/complete ## mixed load for MINUTES (10); fails if anything grows
	@$(WITH) env ATRIO_BINARY=$(BINARY) $(VENV)/bin/python tests/soak.py $(MINUTES)

bench: build $(PEERS)/complete ## beside other WSGI servers, some 12 minutes; ARGS="--help" tells what else it measures
	@$(WITH) cargo build --release --example floor $(LOCKED)
	@$(WITH) --bench env ATRIO_BINARY=$(BINARY) PYTHONPATH=tests $(PEERS)/bin/python -m bench $(ARGS)

reference: ## config/atrio.env and the README's table, anew from the settings
	@UPDATE_REFERENCE=1 $(WITH) cargo test reference

$(VENV)/complete: tests/requirements.txt
$(PEERS)/complete: tests/bench/requirements.txt
$(VENV)/complete $(PEERS)/complete: %/complete:
	@$(WITH) bash -c '"$$PYO3_PYTHON" -m venv --clear $*'
	@$(WITH) $*/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@
