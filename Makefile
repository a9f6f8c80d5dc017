# make demo | test | test-all | check | build | cuda-check | clean; CONTRIBUTING.md says when.
# PYTHON=... uses an environment that you made and filled; without it .venv is made and filled.

VENV := .venv
ifeq ($(origin PYTHON),undefined)
PYTHON := $(VENV)/bin/python
READY := $(VENV)/ready
endif
NATIVE_SOURCES := $(shell find csrc -type f) CMakeLists.txt setup.py pyproject.toml
CPP_SOURCES = $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu')
PYTEST := -m pytest -n auto --maxprocesses 4

# else the source folder hides the installed package from python -m
export PYTHONSAFEPATH := 1

.PHONY: build check test test-all cuda-check demo clean

$(VENV)/bin/python:
	python3 -m venv $(VENV)

# torch first: setup.py then builds against it instead of a second copy
$(VENV)/ready: $(NATIVE_SOURCES) | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install torch torchvision
	$(VENV)/bin/python -m pip install -e ".[dev]"
	@$(VENV)/bin/python -c "import cv2" 2>/dev/null || { \
	  echo "OpenCV needs a display library that this machine lacks: taking the headless one"; \
	  $(VENV)/bin/python -m pip uninstall -y opencv-python && \
	  $(VENV)/bin/python -m pip install opencv-python-headless; }
	@cat ibnvision/_build.txt
	touch $@

build: $(READY)
ifndef READY
	$(PYTHON) -m pip install -e ".[dev]"
endif
	$(PYTHON) -m ibnvision info

check: $(READY)
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTHON) -c "from clang_format import clang_format; clang_format()" --dry-run --Werror $(CPP_SOURCES)
	$(PYTHON) -m pytest -q tests/test_imports.py

test: $(READY)
	$(PYTHON) $(PYTEST) -m "not slow" $(ARGS)

test-all: $(READY)
	$(PYTHON) $(PYTEST) $(ARGS)

demo: $(READY)
	$(PYTHON) -m ibnvision benchmark generalization --preset quick

# needs no GPU; NVCC=... another compiler, ARGS=--record keeps what it measures as the new budget
cuda-check: $(READY)
	$(PYTHON) benchmarks/cuda_check.py $(if $(NVCC),--nvcc $(NVCC)) $(ARGS)

clean:
	rm -rf build dist *.egg-info $(VENV) ibnvision/_C*.so ibnvision/_cuda*.so ibnvision/_build.txt
	rm -rf .mypy_cache .pytest_cache .ruff_cache
