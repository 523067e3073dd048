# make demo    from images to verdicts on built-in images, offline, in about a minute (sets everything up first)
# make test    the tests
# make check   everything that CI runs: style, types, floors, doctests, docs, tests
# make soak    an hour of load on the service: DETECTOR=part.onnx IMAGES=folder

PYTHON ?= python3
BIN := .venv/bin
# Tests run in two processes of one thread each; timings are taken elsewhere.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: setup demo test check lint types floors doctest docs soak clean

setup: .venv/.installed

# The pin takes PyTorch's CPU build where one is at hand; a looser range may fetch gigabytes for GPUs.
.venv/.installed: pyproject.toml
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0" -e ".[train,pretrained,parquet,openvino,serve,dev]"
	touch $@

demo: setup
	$(BIN)/oddlens demo --out runs/demo

test: setup
	$(PYTEST) -n 2 tests

check: lint types floors doctest docs test

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

floors: setup
	$(BIN)/lint-imports

doctest: setup
	$(PYTEST) --doctest-modules src --ignore src/oddlens/store/migrations  # alembic alone runs them

docs: setup
	$(PYTEST) tests/test_docs.py -k "not notebook_runs"

soak: setup
	$(BIN)/python benchmarks/soak.py $(DETECTOR) $(IMAGES)

clean:
	rm -rf .venv runs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
