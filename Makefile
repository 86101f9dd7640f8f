# make course     set up, run the notebooks in quick mode, write them as pages to build/course/;
#                 MODE=full runs them at full length
# make student    set up, then write the student edition, with gaps to fill in, to build/student
# make lab        set up, then open the notebooks in JupyterLab
# make notebooks  set up, then run the notebooks at full length and keep their outputs in them
# make check      set up, then lint and the fast unit tests: a minute, for while you work
# make lint       set up, then ruff, mypy and the rules for notebooks
# make test       set up, then lint, the notebooks as tests, and all unit tests
# make hard-knocks  what users, machines and files can do to it, tried for real, as a table: ten minutes
# make clean      remove what these have made, but neither the data, nor runs/, nor build/student
#
# PYTHON=python3.12 make course  takes another interpreter (after make clean, if one is set up already).
# CIFAR10_ROOT says where the data is.

PYTHON ?= python3
MODE ?= quick
VENV := .venv
BIN := $(VENV)/bin
# Several files at once, on a thread each: on two cores in about two thirds of the time. Four at
# most, because each holds torch and the data.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=loadscope

ifeq (,$(filter $(MODE),quick full))
$(error MODE is $(MODE); choose quick or full)
endif

.PHONY: course student lab notebooks check lint test hard-knocks clean

course: $(VENV)/installed
	$(BIN)/python notebooks/run.py --out build/course $(if $(filter full,$(MODE)),--full)

student: $(VENV)/installed
	$(BIN)/python notebooks/run.py --student

lab: $(VENV)/installed
	$(BIN)/jupyter lab --notebook-dir=. notebooks/01_data_exploration.ipynb

notebooks: $(VENV)/installed
	$(BIN)/python notebooks/run.py --full --in-place

check: lint
	$(PYTEST) -m "not slow"

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python notebooks/check.py

test: lint
	$(PYTEST) --nbval-lax notebooks
	$(PYTEST)

# -o: these files are not called test_*, so that `make test` does not collect them.
hard-knocks: $(VENV)/installed
	$(PYTEST) tests/hard_knocks -o python_files='knock_*.py' --tb=short --dist=worksteal

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || \
	  { echo "Python 3.11 to 3.14 is needed; name one with: make PYTHON=python3.12" >&2; exit 2; }
	@echo "Setting up $(VENV), once. pip downloads torch, JupyterLab and what else the course needs."
	@echo "On Linux this takes 6 GB of disk, most of it torch's libraries for NVIDIA's GPUs."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --editable '.[test,course]'
	touch $@

clean:
	rm -rf build/course build/lib $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
