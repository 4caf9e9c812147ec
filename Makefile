# Every target works as the first command after a clone: it makes .venv by itself.
SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
# Any Python 3.11 or newer does; name another with `make PYTHON=python3.13 ...`.
PYTHON = $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && exit; done; echo python3)
# Two workers: what the tests were timed with. More only help where there are more cores.
WORKERS ?= 2
ARGS ?=
export PYTHONPATH := $(CURDIR):$(CURDIR)/protos

BENCHES = accept watch burst scarce small_plans limit_change shared_key fairness waits planner order_cost quota_ledger ledger_pages

.PHONY: help run test sim bill lint verify protos lock fmt bench bench-all clean dev k8s

help: ## show this
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

run: $(VENV)/run.lock ## start everything on this machine; Ctrl-C stops it
	@exec $(PY) -P -m services.embedded --stop-with $$PPID

test: $(VENV)/dev.lock ## run the tests (ARGS="-k name" for some)
	@exec $(PY) -m pytest -n $(WORKERS) $(ARGS)

SEED ?= 0
# SEEDS=1000 runs the seeds 0 to 999; without it one is run, and a seed that failed is printed with its history.
SEEDS ?=
sim: $(VENV)/dev.lock ## the scheduler's promises in virtual time (SEED=7 for one, SEEDS=1000 for many)
	@PYTHONHASHSEED=0 exec $(PY) -m tests.simulation --workers $(if $(SEEDS),$(WORKERS),1) \
		--seeds $(if $(SEEDS),0-$$(($(SEEDS) - 1)),$(SEED)) $(ARGS)

REQUESTS ?= 10000
bill: $(VENV)/dev.lock ## the ledger against the provider's bill: many requests, faults and kills (REQUESTS=10000)
	@HEADGATE_BILL_REQUESTS=$(REQUESTS) exec $(PY) -m pytest -n 0 tests/chaos/test_bill.py $(ARGS)

lint: $(VENV)/dev.lock k8s ## style, types, import rules, manifests
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports
	$(PY) -m yamllint --strict config deploy .yamllint

k8s: $(VENV)/dev.lock
	$(PY) tools/manifests.py

verify: $(VENV)/dev.lock ## stubs and locks are fresh, no contract breaks an older client
	$(PY) tools/stubs.py check
	$(PY) tools/proto_compat.py check
	$(PY) tools/tracked_files.py
	$(PY) -m pip check

protos: $(VENV)/dev.lock ## generate the stubs of protos/
	$(PY) tools/stubs.py write

lock: $(VENV)/dev.lock ## lock what pyproject.toml asks for
	$(PY) tools/lock.py

fmt: $(VENV)/dev.lock ## format and mend what a program can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(VENV)/dev.lock ## requests a second, latency, cost of watching (ARGS="--write docs/performance.md")
	@$(PY) -m benchmarks.accept $(ARGS)
	@$(PY) -m benchmarks.watch $(ARGS)

bench-all: $(VENV)/dev.lock ## every benchmark, in about half an hour (ARGS as for bench)
	@for name in $(BENCHES); do $(PY) -m benchmarks.$$name $(ARGS) || exit; done

dev: $(VENV)/dev.lock ## make .venv with all that developing takes

clean: ## remove .venv and caches; .headgate (your data) stays
	rm -rf $(VENV) $(VENV).lock dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/run.lock: requirements.txt tools/make_venv.py
	@$(PYTHON) tools/make_venv.py $(VENV) requirements.txt $@

# What tests need holds all that running needs, so one installation serves both.
$(VENV)/dev.lock: requirements-dev.txt requirements.txt tools/make_venv.py
	@$(PYTHON) tools/make_venv.py $(VENV) requirements-dev.txt $@
	@cp requirements.txt $(VENV)/run.lock
