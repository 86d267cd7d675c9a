# `make ticket` finds and exports a ticket; `make test` runs lint and tests.
# Both make the virtual environment first. Choose another Python with
# `make PYTHON=python3.12 ticket`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: ticket test clean

ticket: $(VENV)/.installed
	$(BIN)/python scripts/find_ticket.py --overwrite

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --numprocesses=auto

$(VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
