# Everything runs in .venv, which is made on first use with the versions in constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WHEEL_VENV := build/wheel-venv
COVERAGE := build/coverage

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Tests start hundreds of programs, which would compile all that they import.
unexport PYTHONDONTWRITEBYTECODE
# Not --constraint: the variable also holds for the environments in which pip builds what has no wheel.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

.PHONY: help venv demo test test-all faults matrix floors frameworks bench lint types docs site wheel constraints clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

venv: $(INSTALLED)  ## make the virtual environment

$(INSTALLED): pyproject.toml constraints.txt packaging/tracelet_shim.pth packaging/tracelet_shim.start
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev]'
	touch $@

demo: $(INSTALLED)  ## train a small model and show what arrived in MLflow, Aim and TensorBoard
	$(BIN)/python examples/demo.py

# More workers than cores: a test waits for its programs and servers half of the time. Which members of a matrix are left for
# the night, so that this takes no more than 12 minutes, stands in CONTRIBUTING.md.
test: $(INSTALLED)  ## run the tests of each change; ARGS='-k name' for some of them
	$(BIN)/python -m pytest -n 4 --without-nightly $(ARGS)

test-all: $(INSTALLED)  ## run all tests, those too that are for each night, and see that no less is covered than before
	rm -rf $(COVERAGE)
	mkdir -p $(COVERAGE)
	COVERAGE_FILE=$(CURDIR)/$(COVERAGE)/data $(BIN)/coverage run -m pytest -n 4 --cold $(ARGS)
	COVERAGE_FILE=$(COVERAGE)/data $(BIN)/coverage combine --quiet
	COVERAGE_FILE=$(COVERAGE)/data $(BIN)/coverage report

faults: $(INSTALLED)  ## only what breaks things under real trackers and looks what is left
	$(BIN)/python -m pytest -n 4 tests/faults $(ARGS)

matrix: $(INSTALLED)  ## run the conformance suite with other versions of the SDKs; ARGS='mlflow' or 'mlflow==2.10.2' for some
	$(BIN)/python -m matrix $(ARGS)

floors: $(INSTALLED)  ## run it with the oldest versions of two trackers, the next two with each commit
	$(BIN)/python -m matrix --turn $$(git rev-list --count HEAD)

frameworks: $(INSTALLED)  ## run the recipes of examples/frameworks with the real frameworks; ARGS='monai' for some
	$(BIN)/python -m matrix.frameworks $(ARGS)

bench: $(INSTALLED)  ## measure speed side by side; ARGS=--quick for about five minutes
	$(BIN)/python -m benchmarks $(ARGS)

lint: $(INSTALLED)  ## look for mistakes and bad style
	$(BIN)/ruff check .

types: $(INSTALLED)  ## check the types, of the package and of the public interface as a user's code has it
	$(BIN)/mypy

docs: $(INSTALLED)  ## write the pages of docs/ that are made from the code
	$(BIN)/python packaging/generate_docs.py

site: $(INSTALLED)  ## build the documentation's site into build/site, and check its links
	$(BIN)/python packaging/build_site.py

# Installed with the core dependencies alone, as a user would who has no tracker yet.
wheel: $(INSTALLED)  ## build the wheel, install it in a fresh environment and try it
	rm -rf dist $(WHEEL_VENV)
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/python -m pip install --quiet dist/*.whl
	$(WHEEL_VENV)/bin/python -I packaging/check_wheel.py dist/*.whl

constraints: $(INSTALLED)  ## pin the versions that are installed now
	sed '/^[^#]/d' constraints.txt > constraints.tmp
	$(BIN)/python -m pip list --format=freeze --exclude tracelet-shim --exclude pip | sed -E 's/\+cpu$$//' >> constraints.tmp
	mv constraints.tmp constraints.txt

clean:  ## remove everything that was made here
	rm -rf $(VENV) build dist demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
