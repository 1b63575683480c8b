# `make demo` and `make test` do everything on a fresh Debian machine with Python 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test bench check lock golden estimates dashboards image clean

help: ## Tell what can be made.
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile

demo: .venv/run ## Run everything here with simulated accounts: no key, nothing leaves this machine.
	@exec $(BIN)/python -m exporter demo

test: .venv/dev ## Install what the tests need, then check and test everything.
	@.ci/tools
	@$(MAKE) --no-print-directory check
	$(BIN)/pytest -n auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

check: .venv/dev ## Lint, types, and whether generated files are current.
	$(BIN)/ruff check exporter grafana tests
	$(BIN)/ruff format --check exporter grafana tests
	$(BIN)/mypy
	@.ci/generated

bench: .venv/dev ## Measure ratios side by side.
	$(BIN)/pytest tests/benchmarks -s -o python_files='bench_*.py'

lock: .venv/dev ## Write the lock files anew from pyproject.toml, newest versions.
	.ci/lock --upgrade

golden: .venv/dev ## Write the golden files anew; look at the difference before you commit it.
	$(BIN)/pytest -q tests/test_golden.py tests/config/test_json_schema.py --write-golden

estimates: .venv/dev ## Measure anew how near estimates are to bills.
	$(BIN)/pytest -q tests/scenarios --write-estimates

dashboards: .venv/dev ## Write the dashboards anew from grafana/build.py.
	$(BIN)/python -m grafana.build

image: ## Build the container image.
	docker build -t ai-spend-exporter .

clean: ## Remove what was made.
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build

.venv/run: requirements.lock .ci/venv
	@.ci/venv $(PYTHON) requirements.lock $@

.venv/dev: requirements-dev.lock .ci/venv
	@.ci/venv $(PYTHON) requirements-dev.lock $@
	@touch .venv/run
