# make study     set everything up, run the notebooks        (DATASET=cmnist, FORGET=plain, MODELS=30)
# make notebook  Jupyter Lab
# make test      set everything up, lint, run the tests
# make thorough  many kills, damaged files, full disks: minutes
# make lint      ruff over code and notebooks
# make refresh   execute the committed notebooks in place
# make report    write the README's table and figure from data/results/
# make bench     measure speed, write the README's performance table

PYTHON ?= python3
DATASET ?=
MODELS ?=
FORGET ?=
FLAGS = $(if $(DATASET),--dataset $(DATASET)) $(if $(FORGET),--forget $(FORGET)) $(if $(MODELS),--models $(MODELS))
RUN = .venv/bin/python

.PHONY: study notebook test lint refresh report bench thorough setup
setup: .venv/installed
ifneq ($(origin PYTHON),file)
	@$(PYTHON) -c 'import sys; v = "%d.%d." % sys.version_info[:2]; sys.exit(0 if f"\nversion = {v}" in open(".venv/pyvenv.cfg").read() else f".venv was made with another Python than {v[:-1]}: remove it (rm -r .venv), and run this again.")'
endif

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

report: setup
	$(RUN) -m helpers.run report

bench: setup
	$(RUN) benchmarks/bench.py

test: setup lint
	$(RUN) -m helpers.run data
	$(RUN) -m pytest

thorough: setup
	$(RUN) -m pytest -n 0 -m thorough

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
