# make study     set everything up, run the notebooks        (DATASET=cmnist, MODELS=30)
# make notebook  Jupyter Lab
# make test      set everything up, run the tests
# make lint      ruff over code and notebooks
# make refresh   execute the committed notebooks in place

PYTHON ?= python3
DATASET ?=
MODELS ?=
FLAGS = $(if $(DATASET),--dataset $(DATASET)) $(if $(MODELS),--models $(MODELS))
RUN = .venv/bin/python

.PHONY: study notebook test lint refresh setup
setup: .venv/installed

.venv/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); sys.exit(0 if ok else "Python 3.11 to 3.13 is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet -r requirements.txt
	touch $@

study: setup
	$(RUN) -m helpers.run study $(FLAGS)

refresh: setup
	$(RUN) -m helpers.run refresh $(FLAGS)

notebook: setup
	$(RUN) -m jupyter lab

test: setup
	$(RUN) -m helpers.run data
	$(RUN) -m pytest

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
