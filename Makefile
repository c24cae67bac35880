# Every target sets up .venv by itself and is safe to repeat. Written for make 3.81 (macOS) and newer.
#
#   make test ARGS="-k pose"            pass options on
#   make test WORKERS=4                 share the test files out over so many processes of one thread (0: none)
#   make test PYTHON=python3.12         choose the Python that makes .venv (3.11 or newer)
#   make test TORCH_INDEX=<index URL>   take PyTorch from this index, for instance its CPU wheels (see README.md)

PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=
WORKERS ?= 2

VENV_PYTHON := .venv/bin/python
TORCH_PIN := $(shell sed -n '/^torch==/p' constraints.txt)

.PHONY: help reproduce test lab notebooks benchmarks clean

help:
	@echo "make reproduce    draw every table and figure again, and check a sample live: writes report/"
	@echo "make test         run the tests"
	@echo "make lab          open the notebooks in JupyterLab"
	@echo "make notebooks    run the notebooks again and store their outputs"
	@echo "make benchmarks   run the benchmarks"
	@echo "make clean        remove report/ and caches; .venv, runs/ and data/ stay"

reproduce: .venv/.installed
	$(VENV_PYTHON) -m v4s_lib.evaluation.reproduce $(ARGS)

test: .venv/.installed
	OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

lab: .venv/.installed
	$(VENV_PYTHON) -m jupyterlab --LabApp.default_url=/lab/tree/notebooks $(ARGS)

notebooks: .venv/.installed
	$(VENV_PYTHON) -m v4s_lib.viewing.notebooks $(ARGS)

benchmarks: .venv/.installed
	$(VENV_PYTHON) -m tests.benchmarks $(ARGS)

clean:
	rm -rf report build dist *.egg-info .pytest_cache .ruff_cache
	find . -name .venv -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

# PyTorch comes first, alone and by its exact version: asked for as a range, or together with the rest, pip may fetch
# gigabytes of CUDA libraries where a CPU wheel of this very version is at hand.
# .installing marks an install under way and becomes the stamp only at the end. Found at the start, it tells of an
# interrupted install, and .venv is made afresh.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "expected Python 3.11 or newer, got $(PYTHON) ($$($(PYTHON) --version 2>&1)): name one with make PYTHON=..." >&2; exit 1; }
	rm -f $@
	if [ -e .venv/.installing ]; then $(PYTHON) -m venv --clear .venv; else $(PYTHON) -m venv .venv; fi
	touch .venv/.installing
	$(VENV_PYTHON) -m pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH_PIN)
	$(VENV_PYTHON) -m pip install -c constraints.txt -e '.[test]'
	mv .venv/.installing $@
