# make demo         install, draw a few images, map them with published weights: a report with pictures, and the viewer
# make quickstart   install, generate, train, evaluate: a DeScarGAN in minutes
# make test         lint and every test
# make test-fast    lint, and the tests that build no graph and train nothing
# make benchmark    how fast this machine trains, beside PyTorch where that is installed, reads, starts and evaluates
# make test-card    the last environment with tensorflow-addons and tensorflow-io judges this one (Python 3.9 to 3.11)
# Another Python: make PYTHON=python3.12 ...

PYTHON ?= python3
VENV ?= .venv
CARD_VENV ?= .venv-card
TEST_PROCESSES ?= 2
# One that runs: a version manager puts names on PATH that do not.
CARD_PYTHON ?= $(firstword $(foreach p,python3.11 python3.10 python3.9,$(if $(shell $(p) --version 2>/dev/null),$(p))))
RUN := $(VENV)/bin/python -m descargan_tf.main
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help check-python install install-dev demo quickstart lint format test test-fast benchmark test-card judge clean

help:
	@sed -n '1,7s/^# //p' Makefile

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	  echo "error: $(PYTHON) is $$(command -v $(PYTHON) >/dev/null && $(PYTHON) --version 2>&1 || echo "not there"); Python 3.11 to 3.13 is needed."; \
	  echo "       Name one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }

$(VENV)/installed: requirements.txt | check-python
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet -r requirements.txt
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt requirements-beam.txt requirements-formats.txt requirements-jax.txt requirements-medical.txt $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet -r requirements-dev.txt
	@touch $@

install: $(VENV)/installed

install-dev: $(VENV)/installed-dev

# The viewer stays until Ctrl-C; without a terminal nobody could end it, and the last line says how to start it.
demo: install
	$(RUN) --flagfile=configs/demo.flags
	@if [ -t 0 ] && [ -t 1 ]; then $(RUN) --flagfile=configs/demo.flags --mode=serve; \
	  else echo "viewer:       $(RUN) --flagfile=configs/demo.flags --mode=serve, then http://127.0.0.1:8501/"; fi

quickstart: install
	$(RUN) --flagfile=configs/quickstart.flags
	$(RUN) --mode=evaluate --run_dir=runs/quickstart

lint: install-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: install-dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# What a change of a few lines is checked with; TensorFlow's import is most of the time. In one process, as a second would
# import it again.
FAST_TESTS := tests/test_architecture.py tests/test_documents.py tests/test_config.py tests/test_settings.py \
  tests/test_flagfiles.py tests/test_measures.py tests/test_losses.py tests/test_metrics.py \
  tests/test_evaluator.py tests/test_validation.py tests/test_synthetic.py tests/test_images.py \
  tests/test_listing.py tests/test_folders.py tests/test_checks.py tests/test_pipeline.py \
  tests/test_prediction.py tests/test_predict_split.py tests/test_overlay.py tests/test_hardware.py \
  tests/test_writer.py tests/test_rest_contract.py

test-fast: lint
	$(VENV)/bin/python -m pytest $(FAST_TESTS)

# By file, as what a file's tests share is made once; those that take longest first (tests/conftest.py). More processes:
# about 2.5 GB of memory each.
test: lint
	$(VENV)/bin/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# One after the other, each with the machine to itself: leave it alone meanwhile.
benchmark: install
	@status=0; for name in training input first_step evaluation; do \
	  printf '\n## %s\n\n' $$name; $(VENV)/bin/python benchmarks/$$name.py || status=1; done; exit $$status

test-card:
	@$(if $(CARD_PYTHON),$(MAKE) --no-print-directory judge,echo "test-card: skipped, no Python 3.9 to 3.11 is at hand (CARD_PYTHON=<path> names one)")

$(CARD_VENV)/installed: requirements-card.txt
	$(CARD_PYTHON) -m venv $(CARD_VENV)
	$(CARD_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(CARD_VENV)/bin/python -m pip install --quiet -r requirements-card.txt
	@touch $@

judge: install-dev $(CARD_VENV)/installed
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	  PYTHONPATH=.:tests $(VENV)/bin/python tests/card/make_inputs.py "$$folder" && \
	  $(CARD_VENV)/bin/python -W ignore tests/card/judge.py "$$folder"

clean:
	rm -rf $(VENV) $(CARD_VENV) .pytest_cache .ruff_cache
