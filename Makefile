# make demo    from images to verdicts on built-in images, offline, in about a minute (sets everything up first)
# make test    the tests
# make check   everything that CI runs: style, types, floors, doctests, tests (those of the docs, too)
# make docs    of the tests, those of the docs alone
# make site    the documentation as a site, in site/; fails on a broken link or an undocumented public name
# make sanitize  the tests of the kernels with GCC's address sanitizer
# make survive  kills, full disks, damaged files, fuzzing and training over processes, in full: one to two hours
# make soak    an hour of load on the service and its pages: DETECTOR=part.onnx IMAGES=folder

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
KERNELS := plugins/oddlens-kernels
# Compiled modules are kept, whatever the environment says: hundreds of processes would compile them again.
export PYTHONDONTWRITEBYTECODE :=
# Tests run in three processes of one thread each, so that two cores are busy while some wait; timings are taken elsewhere.
# Freed memory stays with these processes (tests/conftest.py).
PYTEST := OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 $(BIN)/python -m pytest

.PHONY: setup demo test check lint types floors doctest docs site sanitize survive soak clean

setup: $(VENV)/.installed $(VENV)/.kernels

# The pin takes PyTorch's CPU build where one is at hand; a looser range may fetch gigabytes for GPUs.
$(VENV)/.installed: pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP) "torch==2.13.0" -e ".[train,pretrained,parquet,openvino,serve,batch,dev]"
	touch $@

# Optional: without the kernels, PyTorch's layers do the same in more time.
$(VENV)/.kernels: $(VENV)/.installed $(wildcard $(KERNELS)/*.t* $(KERNELS)/src/oddlens_kernels/*.*)
	@if ! command -v "$${CC:-cc}" >/dev/null; then \
		echo "oddlens-kernels is not installed, since there is no C compiler ($${CC:-cc}); everything works without it"; \
	elif ! $(PIP) --no-deps --force-reinstall ./$(KERNELS) >$(VENV)/kernels.log 2>&1; then \
		echo "oddlens-kernels cannot be built here ($(VENV)/kernels.log says why); everything works without it"; \
	else touch $@; fi

demo: setup
	$(BIN)/oddlens demo --out runs/demo

test: setup
	$(PYTEST) -n 3 --dist worksteal tests plugins

# All but the tests at the same time, their outputs one after the other; then the tests, which need both cores.
check: setup
	$(MAKE) --jobs=4 --output-sync lint types floors doctest
	$(MAKE) test

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy --num-workers 2

floors: setup
	$(BIN)/lint-imports

doctest: setup
	$(PYTEST) --doctest-modules src --ignore src/oddlens/store/migrations  # alembic alone runs them

docs: setup
	$(PYTEST) tests/test_docs.py -k "not notebook_runs"

# Without --quiet, under which --strict counts no warning and so never fails.
site: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	$(BIN)/python docs/tools/check_site.py site

# Only the site needs these packages, so `make setup` leaves them out.
$(VENV)/.docs: $(VENV)/.installed
	$(PIP) -e ".[docs]"
	touch $@

sanitize: setup
	$(PIP) --no-deps --upgrade --target $(VENV)/sanitized --config-settings=cmake.define.SANITIZE=ON ./$(KERNELS)
	LD_PRELOAD="$$(cc -print-file-name=libasan.so) $$(cc -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
		PYTHONPATH=$(VENV)/sanitized $(PYTEST) plugins

survive: setup
	$(PYTEST) -m survive -rP tests

soak: setup
	$(BIN)/python benchmarks/soak.py $(DETECTOR) $(IMAGES)
	$(BIN)/python benchmarks/pages_soak.py

clean:
	rm -rf $(VENV) runs site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
