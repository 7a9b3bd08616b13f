# Everything goes through here: on a laptop, in CI and in the README.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Extra arguments of make test, make chaos and make demo, such as make test ARGS="tests/unit -x" or make demo ARGS=--null.
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo run test chaos check format docs performance scaling constraints clean

help:  ## Shows this list
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## Creates .venv with the pinned dependencies (the other commands do it when needed)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "expected Python 3.11 or newer; found $$($(PYTHON) --version 2>&1). Name another: make setup PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing dependencies into $(VENV); the first time, torch alone downloads a few gigabytes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^pip==' constraints.txt)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[score,sign]' \
	  --group api --group embedded --group demo --group dev
	@touch $@

demo: $(INSTALLED)  ## Trains a small pair on real images, audits it through the service, shows the result
	@$(BIN)/python -m demo $(ARGS)

run: $(INSTALLED)  ## Runs the whole service on this machine until Ctrl-C
	@$(BIN)/python -m service up

test: $(INSTALLED)  ## Runs the tests, against a real PostgreSQL and Redis of their own
	$(BIN)/python -m pytest $(ARGS)

chaos: $(INSTALLED)  ## Does 200 faults to running audits (about 25 minutes): make chaos ARGS="--faults 40 --seed 7"
	@$(BIN)/python -m tests.chaos $(ARGS)

check: $(INSTALLED)  ## Static checks: format, lint, strict types, import contracts, migrations
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m service check-migrations

format: $(INSTALLED)  ## Formats the code and fixes what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(INSTALLED)  ## Regenerates the parts of the documentation that come from code
	$(BIN)/python -m service show-settings > docs/settings.md
	$(BIN)/python -c 'from sslmem.policy import policy_schema; print(policy_schema(), end="")' > docs/policy.schema.json

performance: $(INSTALLED)  ## Runs the benchmarks and writes docs/performance.md (keep the machine quiet)
	$(BIN)/python -m benchmarks.report

scaling: $(INSTALLED)  ## Measures what jobs cost and writes docs/scaling.md (keep the machine quiet)
	$(BIN)/python -m benchmarks.scaling $(ARGS)

constraints: $(INSTALLED)  ## Pins the versions that are installed now
	$(BIN)/python -m pip list --format=freeze --exclude-editable | sort --ignore-case > constraints.txt

clean:  ## Removes the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
