# make course   set up, then train, evaluate and explain a model; pictures go to build/course/
# make test     set up, then ruff, the unit tests and the notebooks as tests
# make clean    remove what the two have made, but neither the data nor runs/
#
# PYTHON=python3.12 make course  takes another interpreter. CIFAR10_ROOT says where the data is.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: course test clean

course: $(VENV)/installed
	$(BIN)/cifar train --recipe compact --epochs 3 --cam --overwrite --out build/course
	$(BIN)/cifar test --weights build/course --confusion --grid --out build/course

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --nbval-lax notebooks || [ $$? -eq 5 ]  # 5: there is no notebook yet
	$(BIN)/python -m pytest

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf build $(VENV) .pytest_cache .ruff_cache .hypothesis *.egg-info
