# make demo     a model trained on this machine, evaluated, and its pose of somebody it has not seen
# make test     all tests
# make lint types docs     what else a change has to pass
#
# Each sets up what it needs in VENV, and again only where the requirements have changed.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
RUN ?= runs/prtr
FLAGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV_READY := $(VENV)/.ready-dev
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test lint types docs

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

setup: $(READY)
setup-dev: $(DEV_READY)

$(READY): requirements.txt setup.cfg setup.py pyproject.toml
	@$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or sys.exit('jaxpose needs Python 3.11 or later, and $(PYTHON) is ' + sys.version.split()[0] + '; try make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt -e .
	@touch $@

$(DEV_READY): requirements-dev.txt $(READY)
	$(PIP) -r requirements-dev.txt
	@touch $@

demo: $(READY)
	$(BIN)/python -m jaxpose.main --config=configs/prtr.py --workdir=$(RUN) $(FLAGS)
	$(BIN)/python -m jaxpose.main --config=configs/prtr.py --workdir=$(RUN) --mode=evaluate $(FLAGS)
	$(BIN)/jaxpose marionettes --split=validation --first=1 --count=1 --zoom=1 --columns=1 --output=$(RUN)/unseen_1.png
	@echo '[{"image_id": 1, "category_id": 1, "bbox": [39, 40, 47, 102], "score": 1.0}]' > $(RUN)/boxes.json
	$(BIN)/jaxpose predict $(RUN) $(RUN)/unseen_1.png --boxes=$(RUN)/boxes.json --output=$(RUN)/found
	@echo "Scores: $(RUN)/evaluation/scores.json   poses: $(RUN)/found/poses.json   pictures: $(RUN)/found, $(RUN)/pictures"

test: $(READY)
	$(BIN)/pytest -n $(WORKERS) --dist=worksteal

lint: $(DEV_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV_READY)
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(DEV_READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
