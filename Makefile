# make study     set everything up, compute all, run the notebooks (DATASET=cmnist, FORGET="class 7", MODELS=30, SCHEDULER=tcp://...)
# make notebook  Jupyter Lab
# make test      set everything up, lint, run the tests
# make thorough  kills, full disks, clusters, other ways to start a notebook: minutes
# make exhaustive  many more kills, other Pythons: by hand before a release
# make lint      ruff over code and notebooks
# make refresh   execute the committed notebooks in place
# make release   compute what the README shows, in parts (hours; goes on where it stopped), then as `make report`
# make report    write the numbers and figures of README and docs from data/report/ and data/studies/
# make bench     measure speed, write the table in docs/speed.md

WINDOWS = $(filter Windows_NT,$(OS))
PYTHON ?= $(if $(WINDOWS),python,python3)
DATASET ?=
MODELS ?=
FORGET ?=
# --NAME with what was given, whatever signs it has: nothing in it is expanded, by make or by the shell
flag = $(if $(value $(1)),--$(2) '$(subst ','\'',$(value $(1)))')
FLAGS = $(call flag,DATASET,dataset) $(call flag,FORGET,forget) $(call flag,MODELS,models)
RUN = .venv/$(if $(WINDOWS),Scripts,bin)/python
export SCHEDULER

.PHONY: study notebook test lint refresh report release bench thorough exhaustive setup
setup: .venv/installed

.venv/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); sys.exit(0 if ok else "Python 3.11 to 3.13 is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	if command -v uv >/dev/null; then uv pip install -q --python $(RUN) -r requirements.txt; \
	else $(RUN) -m pip install -q -r requirements.txt; fi
	touch $@

study: setup
	$(RUN) -m helpers study $(FLAGS)

refresh: setup
	$(RUN) -m helpers refresh $(FLAGS)

notebook: setup
	$(RUN) -m jupyter lab

release: setup
	$(RUN) -m helpers release $(call flag,DATASET,dataset) $(call flag,MODELS,models)

report: setup
	$(RUN) -m helpers report

bench: setup
	$(RUN) benchmarks/bench.py

test: setup lint
	$(RUN) -m helpers data
	$(RUN) -m pytest

thorough: setup
	$(RUN) -m pytest -m thorough

exhaustive: setup
	$(RUN) -m pytest -m exhaustive

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
