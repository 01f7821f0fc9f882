# Everything a newcomer needs. `make run` and `make test` install what is missing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
export PYTHON
# Arguments for `make run`, as in: make run ARGS="--port 8001"
ARGS ?=

.PHONY: run install test check unit integration bench evidence clean
.DEFAULT_GOAL := help

help: ## Show this help
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /	/' | expand -t 14

install: .venv/installed ## Make .venv with the CPU runtime; leaves .venv/bin/fusion ready

.venv/installed: infra/cpu.txt infra/cpu-overrides.txt infra/install
	@infra/install cpu
	@touch .venv/installed

.venv/installed-test: .venv/installed infra/cpu-test.txt
	@infra/install cpu-test
	@touch .venv/installed-test

run: install ## Serve the default catalog until Ctrl-C; ends with a curl command to paste
	@exec .venv/bin/fusion up $(ARGS)

test: check unit integration ## Everything the project promises, on real parts (about half an hour)

check: .venv/installed-test ## Lint and types
	.venv/bin/python -m ruff check
	.venv/bin/python -m ruff format --check
	.venv/bin/python -m mypy

unit: .venv/installed-test ## Unit tests: pure, about a minute on all cores
	.venv/bin/python -m pytest tests/unit -q -n auto --dist worksteal

integration: .venv/installed-test ## Tests on real Ray, real HTTP, real databases and the real engine
	@infra/postgresql
	.venv/bin/python -m pytest tests/integration -q --timeout 600 --durations 15

bench: .venv/installed-test ## Speed and memory beside their rivals, measured in one run
	.venv/bin/python tests/bench/serving.py
	.venv/bin/python tests/bench/gateway.py
	.venv/bin/python tests/bench/fusion.py
	.venv/bin/python tests/bench/ledger.py
	.venv/bin/python tests/bench/batch.py
	.venv/bin/python tests/bench/evaluation.py
	.venv/bin/python tests/bench/fusion.py --engine
	.venv/bin/python tests/bench/control.py path

evidence: .venv/installed-test ## Whether fusing helps, on 100 questions (an hour, resumable)
	.venv/bin/python tests/bench/evidence/evidence.py evidence

clean: ## Remove what was installed (not the weights in the user's cache)
	rm -rf .venv
