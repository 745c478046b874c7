# Everything a developer or CI does goes through here; `make` alone lists it.
# What the targets need beyond Rust is checked, and where possible installed, by e2e/preflight.sh.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

# Tools that were built or unpacked for the tests live outside the work tree, so that
# a fresh clone finds them again. `make clean-cache` removes them.
export SEAWALL_CACHE := $(or $(SEAWALL_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/seawall)
# Debian keeps nft and ip out of an ordinary user's PATH.
export PATH := $(PATH):/usr/sbin:/sbin:$(SEAWALL_CACHE)/bin

# One build profile for the demo, the tests and the linter's tests: nothing is compiled twice.
E2E := cargo test --locked --test e2e --
# Benchmarks measure what users run: the optimized build, which takes some minutes more, once.
BENCH := cargo test --locked --release --test e2e --

.PHONY: help demo up down test soak bench lint preflight clean-cache

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: preflight ## An agent isolates a real device, from end to end; ends with a table and target/demo/report.json
	$(E2E) demo

up: preflight ## The demo's world, left running; prints addresses, a key and client configurations
	$(E2E) up

down: ## Stop what `make up` left running
	$(E2E) down

# TESTS='name' runs the tests whose name contains it.
test: preflight ## All tests: unit, golden, and real parts (TESTS=name for some)
	cargo test --locked --lib --bins --test e2e -- $(if $(TESTS),'$(TESTS)')

soak: preflight ## Load and restarts for as long as SOAK_MINUTES says
	$(E2E) soak

# PART='name' measures one part; an unknown one lists them.
bench: preflight ## Compile, pods, a large fleet, and an isolation's way to the last packet (optimized build; PART=name for one)
	$(BENCH) bench $(PART)

lint: preflight ## Formatting, clippy, licences and sources of dependencies (ADVISORIES=1: known advisories too)
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	@# Duplicate versions are warnings: 'e2e/cargo-deny.sh check bans' shows them.
	e2e/cargo-deny.sh --log-level error check licenses bans sources
ifdef ADVISORIES
	e2e/cargo-deny.sh check advisories
endif

preflight:
	@e2e/preflight.sh

clean-cache: ## Remove the tools that were built or unpacked for the tests
	@# By name: the folder may be one that a person uses for other things too.
	rm -rf -- "$(SEAWALL_CACHE)"/{tools,bin,nftables}
