# What people type here. `make` alone lists it. Needs Python 3.11 or newer, and nothing else.

VENV  := .venv
BIN   := $(VENV)/bin
# The newest Python that answers; `make PYTHON=/path/to/python3 ...` chooses another.
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
JOBS  ?= 2
ROWS  ?= 10000000
KILLS ?= 500
SEEDS ?= 200
EXPRESSIONS ?= 100000
SEED  ?= 1
# The site builder advertises its successor on every build.
export NO_MKDOCS_2_WARNING := 1
PIP   := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo fuzz test lint types docs docs-check generate bench services soak chaos hosts mirrors format clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.core ## set up .venv and run the demo: a year of real flights, 336,776 of them
	@$(BIN)/dataflare run demo/flights.yaml
	@echo
	@echo "Written to demo/out/. Next: $(BIN)/dataflare plan demo/flights.yaml, and docs/start.md"

test: $(VENV)/.dev ## run the tests
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

# The words behind `services` are names of servers, not targets.
ifeq (services,$(firstword $(MAKECMDGOALS)))
SERVICES := $(wordlist 2,$(words $(MAKECMDGOALS)),$(MAKECMDGOALS))
$(if $(SERVICES),$(eval $(SERVICES): ; @:))
endif

services: $(VENV)/.dev ## start the tests' servers by hand, such as `make services postgres`; `make services list`
	@PYTHONPATH=tests $(BIN)/python -m servers $(SERVICES)

fuzz: $(VENV)/.dev ## random expressions, here and on DuckDB: EXPRESSIONS=100000 SEED=1
	$(BIN)/python tests/expr/fuzz.py --count $(EXPRESSIONS) --seed $(SEED)

lint: $(VENV)/.dev ## style, formatting, and that the docs are true to the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python docs/check.py

types: $(VENV)/.dev ## mypy, strict
	$(BIN)/mypy

docs: $(VENV)/.docs generate ## build the site into site/
	$(BIN)/python -m mkdocs build --strict --quiet
	@echo "built: site/index.html"

docs-check: $(VENV)/.docs ## build the site without writing anything that is kept
	$(BIN)/python docs/generate.py --check
	dir=$$(mktemp -d) && $(BIN)/python -m mkdocs build --strict --quiet --site-dir "$$dir/site" && rm -rf "$$dir"

generate: $(VENV)/.dev ## write the pages and the picture that come from the code
	$(BIN)/python docs/generate.py

bench: $(VENV)/.bench ## measure against Polars, DuckDB and DataFusion (ROWS=10000000)
	$(BIN)/python -m benchmarks --rows $(ROWS) $(ARGS)

soak: $(VENV)/.dev ## kill runs and servers at random moments (KILLS=500 SEED=1), compare what was written
	$(BIN)/python tests/recovery/soak.py --kills $(KILLS) --seed $(SEED)
	$(BIN)/python tests/connectors/postgres/soak.py --kills $(KILLS) --seed $(SEED)
	$(BIN)/python -m pytest -m soak --timeout 3600

chaos: $(VENV)/.dev ## run the examples, and destinations in servers, with faults; compare what they write (SEEDS=200 SEED=1)
	$(BIN)/python tests/recovery/chaos_soak.py --seeds $(SEEDS) --seed $(SEED)
	$(BIN)/python tests/recovery/server_chaos.py --seeds $$(( ($(SEEDS) + 4) / 5 )) --seed $(SEED)

hosts: $(VENV)/.dev ## workers on hosts that are killed, stopped and cut off, over bad networks (SEEDS=60 SEED=1); needs root
	CLUSTER_SEEDS=$(SEEDS) CLUSTER_SEED=$(SEED) CLUSTER_STOPPED_S=60 TEST_SERVICES=all \
		$(BIN)/python -m pytest -q -s -n 0 --timeout 600 tests/cluster/test_hosts.py

mirrors: $(VENV)/.dev ## mirror a table through kills of runs, servers and connections (SEEDS=200 SEED=1), compare
	$(BIN)/python tests/mirror/mirror_soak.py --seeds $(SEEDS) --seed $(SEED)

format: $(VENV)/.dev ## let ruff format and fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what was built and written; .venv stays
	rm -rf demo/out demo/.dataflare .dataflare site build dist benchmarks/data \
		.pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

# --- .venv: a stamp file per extra, so that a second call installs nothing -------------------------

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "DataFlare needs Python 3.11 or newer; none was found" \
		"(make PYTHON=/path/to/python3 names one)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments; on Debian or Ubuntu: sudo apt install python3-venv" >&2; \
		exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing dataflare into $(VENV) (once)"
	@$(PIP) -e '.[all]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing dataflare and its tools into $(VENV) (once)"
	@$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.core

$(VENV)/.docs: $(VENV)/.dev
	@$(PIP) -e '.[docs]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	@$(PIP) -e '.[bench]'
	@touch $@
