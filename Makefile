# `make` lists the verbs. Everything runs from .venv, which every verb makes and keeps current. The demos install only what
# they run; all other verbs install the tools too.

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
CC ?= cc
COVERAGE_FLOOR ?= 85  # per cent
TEST_WORKERS ?= 4     # processes that run the tests; many of those wait for something
FUZZ_SECONDS ?= 60    # per target
SOAK_SECONDS ?= 600
DEMO_ARGS ?=
BENCH_ARGS ?=
HOSTILE_ARGS ?=
CHAOS_ARGS ?=

VENV := .venv
RUN := $(VENV)/bin/python
# Newer than pyproject.toml, if .venv has what the demos run, and the tools too. tools/environment.py makes both.
RUNS := $(VENV)/.runs
INSTALLED := $(VENV)/.installed
ENVIRONMENT = @test -n "$(PYTHON)" || { echo "gatelink needs Python 3.11 or newer, with venv: \
	apt-get install python3 python3-venv (Debian 12 and later), or name one with make PYTHON=..." >&2; exit 1; }; \
	"$(PYTHON)" tools/environment.py

.PHONY: help install demo demo-chat test test-boot style types fuzz bench bench-once soak hostile chaos clean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv with gatelink (editable) and the tools in it

$(RUNS): pyproject.toml
	$(ENVIRONMENT) login

$(INSTALLED): pyproject.toml
	$(ENVIRONMENT) dev --cc '$(CC)'

demo: $(RUNS) ## run the arena example as a cluster of processes, with strict robots (DEMO_ARGS=...)
	@$(RUN) -m examples.arena.demo $(DEMO_ARGS)

demo-chat: $(RUNS) ## run the chat example in one process, with strict robots (DEMO_ARGS=...)
	@$(RUN) -m examples.chat.demo $(DEMO_ARGS)

test: export PYTHONDONTWRITEBYTECODE =  # or every worker, and every process of a test, compiles all of it again
test: style types ## style, types, and every test with its coverage
	$(RUN) -m pytest -n $(TEST_WORKERS) --dist worksteal --cov --cov-report=term --cov-fail-under=$(COVERAGE_FLOOR)

test-boot: $(INSTALLED) ## the unit tests where the machine seems to have booted 20 s ago (Linux; root or user namespaces)
	@set -e; offset=$$(awk '{ print 20 - int($$1) }' /proc/uptime); \
	[ "$$(id -u)" = 0 ] && user= || user="--user --map-current-user"; \
	fresh="unshare $$user --time --monotonic=$$offset --boottime=$$offset"; \
	if $$fresh true 2>/dev/null; then $$fresh $(RUN) -m pytest -n $(TEST_WORKERS) --dist worksteal tests/unit; \
	else echo "test-boot was NOT run: this machine does not let us make a time namespace ($$fresh true)"; fi

style: $(INSTALLED) ## ruff: rules and formatting
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(INSTALLED) ## mypy --strict
	$(RUN) -m mypy

fuzz: $(INSTALLED) ## every fuzz target in turn (FUZZ_SECONDS=60 each)
	@set -e; for target in $(basename $(notdir $(wildcard fuzz/fuzz_*.py))); do \
		echo "fuzz.$$target"; $(RUN) -m fuzz.$$target --seconds $(FUZZ_SECONDS); done

bench: $(INSTALLED) ## throughput and latency against the limit, sealed against plain, logins, tokens, memory, broadcast
	$(RUN) -m benchmarks.run $(BENCH_ARGS)
	$(RUN) -m benchmarks.sealed
	$(RUN) -m benchmarks.handshakes
	$(RUN) -m benchmarks.retention
	$(RUN) -m benchmarks.idle
	$(RUN) -m benchmarks.broadcast
	$(RUN) -m benchmarks.tokens
	$(RUN) -m benchmarks.login
	$(RUN) -m benchmarks.forward
	$(RUN) -m benchmarks.forward --one-core
	$(RUN) -m benchmarks.rooms

bench-once: $(INSTALLED) ## one short round of every benchmark, as a test of them
	$(RUN) -m benchmarks.run --rounds 1 --seconds 1
	$(RUN) -m benchmarks.sealed --rounds 1 --seconds 1
	$(RUN) -m benchmarks.handshakes --rounds 1 --logins 200
	$(RUN) -m benchmarks.retention --sessions 200 --full 20 --settle 1
	$(RUN) -m benchmarks.idle --sessions 500 --settle 1
	$(RUN) -m benchmarks.broadcast --receivers 500 --seconds 1
	$(RUN) -m benchmarks.tokens --tokens 1000 --rounds 1 --checks 300 --settle 1
	$(RUN) -m benchmarks.login --rounds 1 --seconds 0.2 --users 32
	$(RUN) -m benchmarks.forward --rounds 1 --seconds 1
	$(RUN) -m benchmarks.rooms --sessions 100 --settle 1 --players 50 --shouts 5

soak: $(INSTALLED) ## sessions over breaking connections for a long time (SOAK_SECONDS=600)
	$(RUN) -m tests.adversity.soak --seconds $(SOAK_SECONDS)

hostile: $(INSTALLED) ## hostile clients beside well-behaved ones, with figures (HOSTILE_ARGS=--short)
	$(RUN) -m benchmarks.hostile $(HOSTILE_ARGS)

chaos: $(INSTALLED) ## resume over thousands of breaks, with figures (CHAOS_ARGS=--short)
	$(RUN) -m benchmarks.chaos $(CHAOS_ARGS)

clean: ## remove caches and build output (.venv stays)
	rm -rf benchmarks/build build dist htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
