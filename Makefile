# Two commands for a newcomer: `make demo` and `make test`. Everything else is for those who work here.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := .batchrun/demo
TESTS ?=
CRASH_POINTS ?= 20
BENCH ?=

.PHONY: demo test test-faults check bench screenshots clean

demo: $(STAMP)  ## delays of 336,776 real flights on a local cluster, with a report
	$(BIN)/python -m pipelines.flights $(DEMO)/flights.parquet
	$(BIN)/batchrun submit pipelines.flights:delays --input $(DEMO)/flights.parquet --cluster cluster.yaml \
		--html $(DEMO)/delays.html --excel $(DEMO)/delays.xlsx

test: $(STAMP) check  ## all tests
	$(BIN)/python -m pytest -n 4 --dist worksteal $(TESTS)

test-faults: $(STAMP)  ## processes are killed at 20 moments a case, or at as many as CRASH_POINTS says
	CRASH_POINTS=$(CRASH_POINTS) $(BIN)/python -m pytest -m crash -n 0 $(TESTS)

check: $(STAMP)  ## style, types, walls between the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)  ## ratios against peers: make bench BENCH=from_parquet
	$(BIN)/python -m tests.benchmarks $(BENCH)

screenshots: $(STAMP)  ## the pictures in docs/img, of real runs in a real browser
	$(BIN)/python -m tests.browser.readme_picture docs/img

clean:
	rm -rf $(VENV) .batchrun build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[all]"
	touch $(STAMP)
