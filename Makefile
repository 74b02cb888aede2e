# Two commands: `make demo` and `make test`. Both make .venv, install into it and build first, and do only what is new.
#
#   PYTHON       the interpreter to start from (python3); `make build PYTHON=...` builds for it and leaves .venv alone
#   TORCH        what to give pip where that interpreter has no torch >= 2.10, e.g. TORCH="torch==2.11.0 --index-url ..."
#   TRITON       the same for triton, where torch did not bring one
#   WITH         the torch of `make wheel-check` (that of TORCH): WITH="torch==2.14.1"
#   GMKERN_CUDA  1 adds the CUDA kernels (needs nvcc, no GPU)
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo bench test build native docs lint format sdist wheel wheel-check sanitize sanitize-address sanitize-threads \
        sanitize-memory baseline aarch64 gpu-check clean

VENV := .venv
PY := $(VENV)/bin/python
BUILD_PYTHON := $(if $(filter-out undefined default,$(origin PYTHON)),$(PYTHON))
PYTHON ?= python3
TORCH ?= torch==2.13.0
TRITON ?= triton==3.6.0
GMKERN_CUDA ?= 0
CUDA_SWITCH := $(if $(filter-out 0 OFF,$(GMKERN_CUDA)),ON,OFF)
CXX_SOURCES = $(shell git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.inl' 'csrc/*.cu' 'csrc/*.cuh' 'tests/native/*')
CONFIGURE = cmake -S . -B build -G Ninja -DGMKERN_CUDA=$(CUDA_SWITCH) -DGMKERN_OUTPUT_DIR=$(CURDIR)/gmkern
export GMKERN_CUDA
# .venv keeps the bytecode of what it runs, whatever the caller does: without it every process compiles torch's sources.
unexport PYTHONDONTWRITEBYTECODE
# CMake, Ninja and the tools of `make lint` come from pip, into .venv.
WITH_VENV = env PATH="$(CURDIR)/$(VENV)/bin:$$PATH"

help:
	@echo "make demo       draw samples with the kernels, judge them, write report/"
	@echo "make test       every test: the suite, Triton in its interpreter, Triton ahead of time"
	@echo "make bench      the kernels beside what else does their work (BENCH=\"neighbors --quick\" to choose; rivals: .venv/bin/pip install 'gmkern[bench]')"
	@echo "make build      the native library into gmkern/, for development (PYTHON=... to choose the interpreter)"
	@echo "make lint       ruff, clang-format, mypy          make format     what the first two can mend"
	@echo "make docs       the site into build-docs/html, its links checked"
	@echo "make wheel      a wheel into dist/                make sdist      a source archive into dist/"
	@echo "make wheel-check  the wheel beside a torch alone, tested (WITH=\"torch==2.14.1\" to choose)"
	@echo "make sanitize   beneath the address, undefined-behaviour and thread sanitizers"
	@echo "make baseline   without AVX, tested               make aarch64    for another processor, its bits compared"
	@echo "make gpu-check  test and time on a GPU"
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

$(VENV)/.docs: $(VENV)/.ready
	$(PY) -m pip install --quiet --disable-pip-version-check $$($(PY) tools/bootstrap.py --list docs)
	@touch $@

# A warning is an error: a link or an anchor that leads nowhere, a name that the reference does not have.
docs: native $(VENV)/.docs
	$(PY) -m sphinx --fail-on-warning --keep-going --nitpicky --quiet -d build-docs/doctrees docs build-docs/html
	@echo "the site: build-docs/html/index.html"

wheel: native
	rm -f dist/*.whl
	$(WITH_VENV) $(PY) -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir dist .

sdist: $(VENV)/.ready
	$(WITH_VENV) $(PY) -c "from setuptools import build_meta; build_meta.build_sdist('dist')" > /dev/null

# Python's files and the tests beside a library of another build: $(call package,FOLDER), after CMake put it there.
package = tar --exclude='*.so' --exclude=__pycache__ -cf - gmkern tests benchmarks pyproject.toml | tar -xf - -C $(1)

# In an environment of its own, with no more than the wheel and its extras ask for, the sources out of reach.
WITH ?= $(TORCH)
WHEEL_TESTS ?= tests --ignore=tests/triton --ignore=tests/aot
wheel-check: wheel
	rm -rf build-wheel && mkdir -p build-wheel/away
	$(PYTHON) -m venv build-wheel/venv
	build-wheel/venv/bin/pip install --quiet --disable-pip-version-check --no-compile $(WITH)
	build-wheel/venv/bin/pip install --quiet --disable-pip-version-check --no-compile "$$(ls $(CURDIR)/dist/*.whl)[cli,test]"
	cp -r tests benchmarks pyproject.toml build-wheel/away/
	cd build-wheel/away && env OMP_NUM_THREADS=1 ../venv/bin/python -m pytest $(WHEEL_TESTS)

# The tests marked so, but for those of torch's own machinery, on each instruction set; then threads without PyTorch.
sanitize: sanitize-address sanitize-threads

SIDE_BUILD = $(WITH_VENV) cmake -S . -G Ninja -DPython_EXECUTABLE=$(CURDIR)/$(PY)
ISAS = $$($(PY) -c "from gmkern.testing import supported_isas; print(*supported_isas())")
KERNEL_TESTS = -m "sanitize and not isas and not endless" \
	-k "not gradcheck and not opcheck and not compil and not fullgraph and not well_behaved and not through_a_trajectory"

sanitize-address: native
	$(SIDE_BUILD) -B build-asan -DGMKERN_SANITIZE=address,undefined -DGMKERN_OUTPUT_DIR=$(CURDIR)/build-asan/package/gmkern
	$(WITH_VENV) cmake --build build-asan
	$(call package,build-asan/package)
	@status=0; for isa in $(ISAS); do \
	    echo "== $$isa beneath the address and undefined-behaviour sanitizers"; \
	    (cd build-asan/package && env GMKERN_ISA=$$isa OMP_NUM_THREADS=2 ASAN_OPTIONS=detect_leaks=0 \
	        UBSAN_OPTIONS=print_stacktrace=1 \
	        LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	        ../../$(PY) -m pytest --capture=sys $(KERNEL_TESTS) tests) || status=1; \
	done; exit $$status

# --race races on purpose: a sanitizer that lets it pass sees nothing.
sanitize-threads: native
	$(SIDE_BUILD) -B build-tsan -DGMKERN_SANITIZE=thread -DGMKERN_HOST=OFF -DGMKERN_OUTPUT_DIR=$(CURDIR)/build-tsan
	$(WITH_VENV) cmake --build build-tsan --target gmkern_native
	! build-tsan/gmkern_native --race > build-tsan/race.log 2>&1 && grep -q "data race" build-tsan/race.log
	for isa in $(ISAS); do GMKERN_ISA=$$isa TSAN_OPTIONS=halt_on_error=1 build-tsan/gmkern_native || exit 1; done

# Needs Debian's valgrind, which knows no AVX-512: numbers that were never written, which the other sanitizers let pass.
sanitize-memory: native
	$(WITH_VENV) cmake --build build --target gmkern_native
	for isa in $(ISAS); do [ $$isa = avx512 ] || \
	    GMKERN_ISA=$$isa valgrind --quiet --error-exitcode=1 build/gmkern_native || exit 1; done

# The portable bodies alone, every file compiled for a processor without AVX.
baseline: native
	$(SIDE_BUILD) -B build-baseline -DGMKERN_BASELINE=ON -DCMAKE_CXX_FLAGS="-march=x86-64 -mno-avx" \
	    -DGMKERN_OUTPUT_DIR=$(CURDIR)/build-baseline/package/gmkern
	$(WITH_VENV) cmake --build build-baseline
	$(call package,build-baseline/package)
	cd build-baseline/package && env OMP_NUM_THREADS=1 ../../$(PY) -m pytest tests/build/test_symbols.py
	cd build-baseline/package && env OMP_NUM_THREADS=1 ../../$(PY) -m pytest $(KERNEL_TESTS) tests

# Needs Debian's g++-aarch64-linux-gnu and qemu-user. What is promised on every processor must be the same bits there.
aarch64: native
	$(SIDE_BUILD) -B build-aarch64 -DCMAKE_TOOLCHAIN_FILE=tools/aarch64.cmake -DGMKERN_HOST=OFF \
	    -DGMKERN_OUTPUT_DIR=$(CURDIR)/build-aarch64
	$(WITH_VENV) cmake --build build-aarch64 --target gmkern gmkern_native
	$(WITH_VENV) cmake --build build --target gmkern_native
	build/gmkern_native --promised > build-aarch64/here.txt
	qemu-aarch64 -L /usr/aarch64-linux-gnu build-aarch64/gmkern_native --promised > build-aarch64/there.txt
	diff build-aarch64/here.txt build-aarch64/there.txt

# With the CUDA kernels where nvcc is; without, their rows say that they are missing.
gpu-check:
	@$(MAKE) --no-print-directory native GMKERN_CUDA=$$(command -v nvcc > /dev/null && echo 1 || echo 0)
	$(PY) benchmarks/gpu_check.py

clean:
	rm -rf $(VENV) build build-* dist report *.egg-info gmkern/lib gmkern/_host*.so docs/api/generated docs/pictures .pytest_cache .mypy_cache .ruff_cache
