# One command a gate. Each sets up what it needs: a .venv, and Mosquitto for the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := puppetmaster tests benchmarks docs index.py setup.py

.PHONY: help demo run test check bench faults clean mosquitto chromium redis

help:            ## This list.
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:[^#]*##/\t/' | expand -t 10

demo: $(VENV)/.runtime  ## Broker, controller, bundle and 50 simulated devices; reboots them all. KEEP=1: goes on.
	$(BIN)/puppetmaster demo $(if $(KEEP),--keep)

run: $(VENV)/.runtime   ## The bundle with a broker and a controller of its own, until Ctrl-C.
	$(BIN)/puppetmaster serve --embedded

# Tests wait for brokers and devices most of the time, so there are more workers than cores. In the order of the files:
# those that take long come before the many short ones, which then fill the gaps at the end. Compiled modules are kept,
# whatever the environment says: the tests start hundreds of processes.
test: $(VENV)/.dev mosquitto chromium  ## All tests, on real brokers that they start themselves.
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.dev     ## ruff and mypy --strict.
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy --strict puppetmaster

# QUICK=1: once, and little of it. ONLY="growth latency": these parts. ROUNDS=7. DOCS=1: into docs/performance.md too.
bench: $(VENV)/.bench mosquitto redis  ## The benchmarks: tables on the screen and in benchmarks/results.md. QUICK=1, ONLY=...
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick) $(if $(DOCS),--docs) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ONLY),--only $(ONLY))

# In one line, whatever it holds: make shows what it runs.
FAULTS = --seconds $(or $(SECONDS),60) --jobs $(or $(JOBS),1) $(if $(SEED),--seed $(SEED)) \
  $(if $(RESULTS),--results $(RESULTS) --report docs/reliability.md)

faults: $(VENV)/.dev mosquitto  ## The fault campaign for SECONDS=60, with SEED=..., on JOBS=1 installations. RESULTS=file.jsonl.
	$(BIN)/python -m tests.faults $(strip $(FAULTS))

clean:           ## Remove what was made here; the data folder stays.
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f benchmarks/results.md benchmarks/results.json benchmarks/profile*.txt benchmarks/*.png
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); apt-get update -qq && apt-get install -y -qq python3-venv && $(PYTHON) -m venv $(VENV); }

$(VENV)/.runtime: $(BIN)/python requirements.txt setup.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

# The peers of the benchmarks have an environment of their own: see benchmarks/peers/requirements.txt.
$(VENV)/.bench: $(VENV)/.dev requirements-bench.txt benchmarks/peers/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	$(BIN)/python -m venv $(VENV)/peers
	$(VENV)/peers/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers/requirements.txt
	@touch $@

# For the tests of the page. Playwright drives Debian's Chromium; it is not to fetch one of its own.
chromium:
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium; }

mosquitto:
	@command -v mosquitto >/dev/null || test -x /usr/sbin/mosquitto || { apt-get update -qq && apt-get install -y -qq mosquitto; }
	@command -v mosquitto_pub >/dev/null || { apt-get update -qq && apt-get install -y -qq mosquitto-clients; }
	@command -v curl >/dev/null || { apt-get update -qq && apt-get install -y -qq curl; }

# A peer of the benchmarks. Where it can't be installed they go on, and say so.
redis:
	@command -v redis-server >/dev/null || { apt-get update -qq && apt-get install -y -qq redis-server; } || \
	  echo "no redis-server: Celery is not measured"
