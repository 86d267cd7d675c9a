# `make ticket` shows a winning ticket; `make test` runs lint, the type checker and the
# tests, `make test-jax` and `make test-torch` those that depend on the backend;
# `make docs` builds the site, `make dist` the wheel and the source distribution. All
# make the virtual environment first, and only `make ticket` does without the developers'
# tools. Choose another Python with `make PYTHON=python3.12 ticket`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: ticket test test-jax test-torch docs dist clean

ticket: $(VENV)/.runs
	@$(BIN)/tfticket demo

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder

# The tests of what trains, on another backend.
test-jax test-torch: test-%: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	KERAS_BACKEND=$* $(BIN)/python -m pytest --numprocesses=auto --dist=loadfile

docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/mkdocs build --strict

dist: $(VENV)/.installed
	$(BIN)/python -m build

# An environment for tests runs tickets too.
$(VENV)/.runs: setup.cfg pyproject.toml
	@test -f $(VENV)/.installed || { \
	    echo "Installing tfticket into $(VENV), once. TensorFlow is most of it."; \
	    $(PYTHON) -m venv $(VENV) && \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . ; }
	@touch $@

$(VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info
