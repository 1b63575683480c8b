# `make demo` and `make test` do everything on a fresh Debian machine with Python 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test faults bench check lint lock golden estimates incidents dashboards rules chart manifests mixin mutants \
  deploy-check image image-check clean

help: ## List these targets.
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile

demo: .venv/run ## Run everything on this machine with simulated accounts: no API key, no request to a provider.
	@exec $(BIN)/python -m exporter demo

test: .venv/dev ## Install the programs that the tests need, then lint and test everything.
	@.ci/tools
	@$(MAKE) --no-print-directory lint
	@.ci/test

faults: .venv/dev ## Kill the exporter, break its providers and its clock for some minutes; print the results.
	$(BIN)/pytest tests/faults --long -q

check: lint ## Lint, check types, and check that the lock files are current.
	$(BIN)/mypy

lint: .venv/dev
	$(BIN)/ruff check alerting deploy exporter grafana tests
	$(BIN)/ruff format --check alerting deploy exporter grafana tests
	@.ci/generated

bench: .venv/dev ## Run the benchmarks.
	$(BIN)/pytest tests/benchmarks -s -o python_files='bench_*.py'

lock: .venv/dev ## Update the lock files from pyproject.toml to the newest versions.
	.ci/lock --upgrade

golden: .venv/dev ## Update the golden files; review the difference before you commit it.
	$(BIN)/pytest -q tests/test_golden.py tests/config/test_json_schema.py tests/prometheus/test_texts.py \
		tests/prometheus/test_messages.py --write-golden

estimates: .venv/dev ## Update the measured differences between estimates and bills.
	$(BIN)/pytest -q tests/scenarios --write-estimates

incidents: .venv/dev ## Measure which incidents the alert rules find, and their false alarms; takes some minutes.
	$(BIN)/pytest -q tests/incidents --write-incidents

dashboards: .venv/dev ## Generate the dashboards from grafana/build.py.
	$(BIN)/python -m grafana.build
	$(BIN)/python -m deploy.build

rules: .venv/dev ## Generate prometheus/rules from alerting/config.yml.
	$(BIN)/python -m alerting.build
	$(BIN)/python -m deploy.build

chart: .venv/dev ## Generate the rules and dashboards of the Helm chart, and the PrometheusRules.
	$(BIN)/python -m deploy.build

manifests: .venv/dev ## Generate the chart's files, and render deploy/kubernetes from it with helm.
	@.ci/deploy-tools helm
	$(BIN)/python -m deploy.build --manifests

# CONFIG=FILE: a copy of alerting/config.yml; NAMESPACE=NAME: objects for Kubernetes too, LABEL=NAME=VALUE selects them.
mixin: .venv/dev ## Write rules and dashboards with your own settings into OUTPUT.
	@$(BIN)/python -m deploy.mixin --output=$(or $(OUTPUT),mixin) $(if $(CONFIG),--config=$(CONFIG)) \
	  $(if $(NAMESPACE),--namespace=$(NAMESPACE)) $(if $(LABEL),--label=$(LABEL))

mutants: .venv/dev ## Change every rule in every way, and run the rule tests: they have to fail.
	$(BIN)/python -m tests.prometheus.mutants

deploy-check: .venv/dev ## Render the Helm chart with its examples and validate the result; needs Go to build helm at first.
	@.ci/deploy-tools
	$(BIN)/pytest tests/deploy/check_chart.py tests/deploy/check_systemd.py -o python_files='check_*.py'

image: ## Build the container image.
	docker build -t ai-spend-exporter .

image-check: .venv/dev ## Build the image without a container engine and run it read-only; as root, with debootstrap.
	$(BIN)/pytest tests/deploy/check_image.py -s -o python_files='check_*.py'

clean: ## Remove generated files.
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build

.venv/run: requirements.lock .ci/venv
	@.ci/venv $(PYTHON) requirements.lock $@

.venv/dev: requirements-dev.lock .ci/venv
	@.ci/venv $(PYTHON) requirements-dev.lock $@
	@touch .venv/run
