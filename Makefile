# make quickstart   install, generate, train, evaluate: a DeScarGAN in minutes
# make test         lint and every test
# Another Python: make PYTHON=python3.12 ...

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python -m descargan_tf.main
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help check-python install install-dev quickstart lint format test clean

help:
	@sed -n '1,3s/^# //p' Makefile

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	  echo "error: $(PYTHON) is $$(command -v $(PYTHON) >/dev/null && $(PYTHON) --version 2>&1 || echo "not there"); Python 3.11 to 3.13 is needed."; \
	  echo "       Name one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }

$(VENV)/installed: requirements.txt | check-python
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet -r requirements.txt
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet -r requirements-dev.txt
	@touch $@

install: $(VENV)/installed

install-dev: $(VENV)/installed-dev

quickstart: install
	$(RUN) --flagfile=configs/quickstart.flags
	$(RUN) --mode=evaluate --run_dir=runs/quickstart

lint: install-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: install-dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

test: lint
	$(VENV)/bin/python -m pytest

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
