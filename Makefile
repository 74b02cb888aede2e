# Two commands: `make demo` and `make test`. Both make .venv, install into it and build first, and do only what is new.
#
#   PYTHON       the interpreter to start from (python3); `make build PYTHON=...` builds for it and leaves .venv alone
#   TORCH        what to give pip where that interpreter has no torch >= 2.10, e.g. TORCH="torch==2.11.0 --index-url ..."
#   TRITON       the same for triton, where torch did not bring one
#   GMKERN_CUDA  1 adds the CUDA kernels (needs nvcc, no GPU)
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo bench test build native lint format wheel gpu-check clean

VENV := .venv
PY := $(VENV)/bin/python
BUILD_PYTHON := $(if $(filter-out undefined default,$(origin PYTHON)),$(PYTHON))
PYTHON ?= python3
TORCH ?= torch==2.13.0
TRITON ?= triton==3.6.0
GMKERN_CUDA ?= 0
CUDA_SWITCH := $(if $(filter-out 0 OFF,$(GMKERN_CUDA)),ON,OFF)
CXX_SOURCES = $(shell git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.inl' 'csrc/*.cu' 'csrc/*.cuh')
CONFIGURE = cmake -S . -B build -G Ninja -DGMKERN_CUDA=$(CUDA_SWITCH) -DGMKERN_OUTPUT_DIR=$(CURDIR)/gmkern
export GMKERN_CUDA
# .venv keeps the bytecode of what it runs, whatever the caller does: without it every process compiles torch's sources.
unexport PYTHONDONTWRITEBYTECODE
# CMake, Ninja and the tools of `make lint` come from pip, into .venv.
WITH_VENV = env PATH="$(CURDIR)/$(VENV)/bin:$$PATH"

help:
	@echo "make demo       draw samples with the kernels, judge them, write report/"
	@echo "make test       every test: the suite, Triton in its interpreter, Triton ahead of time"
	@echo "make bench      the kernels beside what else does their work (BENCH=\"neighbors --quick\" to choose; rivals: pip install .[bench])"
	@echo "make build      the native library into gmkern/, for development (PYTHON=... to choose the interpreter)"
	@echo "make lint       ruff, clang-format, mypy          make format     what the first two can mend"
	@echo "make wheel      a wheel into dist/                make gpu-check  test and time on a GPU"
	@echo "make clean      remove what was built (.venv too)"

demo: native
	$(PY) -m gmkern demo

BENCH :=
bench: native
	$(PY) -m gmkern bench $(BENCH)

# A process to a core, up to 8, and a thread to a process: tests of threads ask for theirs.
PYTEST = env OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses=logical --maxprocesses=8 --dist=worksteal

# Every part runs, and one that fails fails the whole. The interpreter is a mode of the whole process.
test: native
	@status=0; \
	part() { echo "== $$1"; shift; "$$@" || status=1; }; \
	part "suite" $(PYTEST) tests --ignore=tests/triton --ignore=tests/aot; \
	part "Triton in its interpreter" env TRITON_INTERPRET=1 $(PYTEST) tests/triton; \
	part "Triton ahead of time" $(PYTEST) tests/aot; \
	exit $$status

$(VENV)/.ready: pyproject.toml setup.py tools/bootstrap.py
	@command -v $(PYTHON) > /dev/null || { echo "gmkern cannot be built here; missing: Python >= 3.10 ($(PYTHON) is not on the PATH)"; exit 1; }
	$(PYTHON) tools/bootstrap.py --venv $(VENV) --torch "$(TORCH)" --triton "$(TRITON)"
	@touch $@

# Ninja does what is new; CMake is asked only if the build folder is absent or was configured for something else.
native: $(VENV)/.ready
	@{ grep -qs '^Python_EXECUTABLE:[A-Z]*=$(CURDIR)/$(PY)$$' build/CMakeCache.txt && \
	   grep -qs '^GMKERN_CUDA:[A-Z]*=$(CUDA_SWITCH)$$' build/CMakeCache.txt; } \
	|| $(WITH_VENV) $(CONFIGURE) -DPython_EXECUTABLE=$(CURDIR)/$(PY)
	@$(WITH_VENV) cmake --build build

build: $(if $(BUILD_PYTHON),,native)
ifneq ($(BUILD_PYTHON),)
	$(CONFIGURE) -DPython_EXECUTABLE=$$(command -v $(BUILD_PYTHON))
	cmake --build build
endif

$(VENV)/.lint: $(VENV)/.ready
	$(PY) -m pip install --quiet --disable-pip-version-check --ignore-installed $$($(PY) tools/bootstrap.py --list lint)
	@touch $@

lint: $(VENV)/.lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(CXX_SOURCES)
	$(VENV)/bin/mypy

format: $(VENV)/.lint
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(CXX_SOURCES)

wheel: native
	$(WITH_VENV) $(PY) -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir dist .

gpu-check: native
	$(PY) benchmarks/gpu_check.py

clean:
	rm -rf $(VENV) build build-* dist report *.egg-info gmkern/lib gmkern/_host*.so .pytest_cache .mypy_cache .ruff_cache
