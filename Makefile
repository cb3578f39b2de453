# On a fresh machine with python3 and make, `make demo` and `make test` do everything.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
IMAGES ?=

.PHONY: demo test lint docs bench clean

demo: $(VENV)/.demo
	$(BIN)/python examples/plot_demo.py $(if $(IMAGES),"$(IMAGES)")

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadscope --ignore tests/engine/test_distributed.py
	$(BIN)/pytest tests/engine/test_distributed.py  # which starts workers of its own

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

# Speed beside other libraries, which are installed into .bench at the first run.
bench: $(VENV)/.bench
	$(BIN)/python benchmarks/extraction.py $(if $(IMAGES),"$(IMAGES)")

# One stamp an extra: installed when missing or when the requirements change.
$(VENV)/.demo: EXTRAS = offline,plot
$(VENV)/.test: EXTRAS = test
$(VENV)/.docs: EXTRAS = docs
$(VENV)/.bench: EXTRAS = bench
$(VENV)/.demo $(VENV)/.test $(VENV)/.docs $(VENV)/.bench: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$(EXTRAS)]"
	touch $@

clean:
	rm -rf $(VENV) .bench out docs/_build docs/auto_examples docs/api/generated
