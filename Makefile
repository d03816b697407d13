# `make score` and `make test` work on a bare machine with Python 3.10+ and a network to a package index.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

# torch comes first and pinned: a plain newest torch would bring gigabytes of CUDA packages to a machine without a GPU.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,train,decord,serve,ui]'
	touch $(STAMP)

.PHONY: install score test test-all check
install: $(STAMP)

score: $(STAMP)
	$(VENV)/bin/qsave score --jsonl qsave_reward/examples/examples.jsonl --explain --html report.html

test: $(STAMP)
	HF_HUB_OFFLINE=1 $(VENV)/bin/python -m pytest -q -m "not slow and not gpu"

test-all: $(STAMP)
	HF_HUB_OFFLINE=1 $(VENV)/bin/python -m pytest -q

check: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
