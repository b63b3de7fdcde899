# make quickstart: environment, install, then every stage on built-in faces.
# make test:       environment, install, then the tests, in three lanes at once (what .ci/run calls).

PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test check

quickstart: .venv
	$(BIN)/distfacegan run jobs/quickstart.yaml

test: check
	$(BIN)/python -m tests.lanes

check: .venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch .venv
