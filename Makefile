# For a fresh machine with Python 3.11+, make and a package index: make help lists what there is. The targets make .venv
# themselves, with uv if it is there and pip if not, and install again when pyproject.toml has changed. What a target does
# stands behind its name, after ##, where make help reads it.

.PHONY: help run test fast bench chaos mutants check format docs clean lock
.DEFAULT_GOAL := run

# The tests start Python a thousand times: without this, where it is set, each of them would compile the project anew.
unexport PYTHONDONTWRITEBYTECODE

VENV ?= .venv
BIN := $(VENV)/bin
RUN_INSTALLED := $(VENV)/.installed-run
DEV_INSTALLED := $(VENV)/.installed-dev
BENCH_INSTALLED := $(VENV)/.installed-bench

# The first interpreter that is new enough. Another one: make PYTHON=/path/to/python
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v "$$name" && break; done)
UV := $(shell command -v uv)

# The tests that meet PostgreSQL run on this one too, where it is installed.
POSTGRES_15 := $(wildcard /usr/lib/postgresql/15/bin)
ON_POSTGRES_15 := $(wildcard tests/postgres tests/engine tests/faults)

# These run behind a transaction pooler too: what begins and ends with a block, cancellation at every step, leases, and
# transactions of callers. The others are to pass there as well: REQUEUEST_TEST_POOLER=own pytest tests/engine
POOLER := $(if $(wildcard /usr/sbin/pgbouncer),pgbouncer,own)
BEHIND_POOLER := $(wildcard $(addprefix tests/engine/test_,scope.py scope_storm.py lease.py transactions.py))

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s%s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: $(RUN_INSTALLED) ## the demo: an embedded PostgreSQL, a failing receiver, 200 requests delivered
	@$(BIN)/requeuest demo

# The tests wait for servers, processes and clocks more than they compute.
WORKERS ?= 5

test: $(DEV_INSTALLED) ## all tests, on PostgreSQL 15 too where it is installed, and behind a transaction pooler
	@$(BIN)/pytest -n $(WORKERS) --dist loadgroup
ifneq ($(POSTGRES_15),)
	@echo "Once more, on PostgreSQL 15:"
	@REQUEUEST_TEST_POSTGRES=$(POSTGRES_15) $(BIN)/pytest -n $(WORKERS) --dist loadgroup $(ON_POSTGRES_15)
endif
	@echo "And behind a transaction pooler ($(POOLER)):"
	@REQUEUEST_TEST_POOLER=$(POOLER) $(BIN)/pytest -n $(WORKERS) --dist loadgroup $(BEHIND_POOLER)

fast: $(DEV_INSTALLED) ## the tests that need no database; for another Python: PYTHON=python3.13 VENV=.venv-3.13
	@$(BIN)/pytest -q -n 2 tests/unit

bench: $(BENCH_INSTALLED) ## the benchmarks, beside the peers; BENCH="drain spawn" for some, BENCH=--list for which
	@$(BIN)/python -m benchmarks $(BENCH)

MINUTES ?= 30

chaos: $(DEV_INSTALLED) ## all that can go wrong, at once; MINUTES=30, SEED= of a failed run, POOLED=1 for a pooler
	@$(BIN)/python -m tests.faults.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(POOLED),--pooler $(POOLER))

mutants: $(DEV_INSTALLED) ## breaks one thing after the other, and tells which test has noticed; writes docs/mutations.md
	@$(BIN)/python -m tests.faults.mutations >docs/mutations.md.new
	@mv docs/mutations.md.new docs/mutations.md

check: $(DEV_INSTALLED) ## ruff, mypy, flake8, the import rules, and pyright: whether every public type is known
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/flake8 src tests benchmarks
	$(BIN)/lint-imports
	$(KNOWN_TYPES)

# To pyright as well as to mypy. It looks for the package beside the python that it finds first, and says much when all is well.
KNOWN_TYPES = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pyright --verifytypes requeuest_trio --ignoreexternal >$(VENV)/types.txt || { cat $(VENV)/types.txt; exit 1; }

format: $(DEV_INSTALLED) ## writes the code as ruff would have it
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(DEV_INSTALLED) ## writes the generated parts of the docs, and runs every code block in them
	@$(BIN)/python docs/generate.py
	@$(BIN)/pytest $(or $(wildcard tests/docs tests/*/test_docs.py),$(error there are no docs tests))

clean: ## removes what was made, environments included
	rm -rf .venv .venv-* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist build

$(BIN)/python:
	@if [ -n "$(UV)" ]; then \
		"$(UV)" venv --quiet --clear --python "$(or $(PYTHON),>=3.11)" $(VENV); \
	elif [ -z "$(PYTHON)" ]; then \
		echo "requeuest-trio needs Python 3.11 or newer, and there is none: install it, or run make PYTHON=/path/to/python" >&2; \
		exit 1; \
	elif ! "$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null; then \
		echo "$(PYTHON) lacks venv or ensurepip: install them (on Debian and Ubuntu: apt install python3-venv), or uv" >&2; \
		exit 1; \
	else \
		"$(PYTHON)" -m venv --clear $(VENV); \
	fi

# What is installed is what is locked, each file known by its hash: first what builds the project, so that nothing is fetched
# to build it, then what it needs. requirements/ is exported from uv.lock by `make lock`. Only wheels: a source distribution
# would fetch its own tools, whose hashes nobody knows.
INSTALL = $(if $(UV),"$(UV)" pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet --disable-pip-version-check)
LOCKED = --require-hashes --only-binary :all: --requirement requirements/build.txt --requirement

$(RUN_INSTALLED) $(DEV_INSTALLED) $(BENCH_INSTALLED): $(VENV)/.installed-%: pyproject.toml requirements/build.txt requirements/%.txt | $(BIN)/python
	@echo "Installing requirements/$*.txt into $(VENV)"
	@$(if $(UV),,$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null)
	@$(INSTALL) $(LOCKED) requirements/$*.txt
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@ $(RUN_INSTALLED)

EXPORT = uv export --quiet --frozen --no-header --no-annotate --no-emit-project
lock: ## after a change of the dependencies in pyproject.toml; needs uv
	uv lock
	@$(EXPORT) --only-group build --output-file requirements/build.txt >/dev/null
	@$(EXPORT) --extra embedded --extra cli --no-dev --output-file requirements/run.txt >/dev/null
	@$(EXPORT) --extra embedded --extra cli --group dev --output-file requirements/dev.txt >/dev/null
	@$(EXPORT) --extra embedded --extra cli --no-dev --group bench --output-file requirements/bench.txt >/dev/null
