# `make demo` and `make test` set up all they need: a machine with Python 3.10 or newer and make is enough.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo lint quick test test-all docs format torture soak bench release release-check conformance clean
.DEFAULT_GOAL := test

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("bqstore needs Python 3.10 or newer; try: make PYTHON=python3.12") if sys.version_info < (3, 10) else 0'
	$(PYTHON) -m venv $(VENV)

# installed once; again only when pyproject.toml has changed. For tests without bytecode: of twelve thousand modules they
# import three thousand, and what is imported is compiled then.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[demo,openai]"
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e ".[test]"
	@touch $@ $(VENV)/.demo

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	@touch $@

demo: $(VENV)/.demo  ## ask the Python manual, through LangChain and LlamaIndex
	@$(BIN)/python examples/ask_the_manual.py $(ARGS)

lint: $(VENV)/.test  ## ruff, mypy, the import contracts
	@BIN=$(BIN) tools/check.sh lint

quick: $(VENV)/.test  ## lint, and some tests of everything: before each commit
	@BIN=$(BIN) tools/check.sh quick

test: $(VENV)/.test  ## what must pass before a change is merged, from an empty cache of kernels; CI runs this
	@BIN=$(BIN) tools/check.sh test

test-all: $(VENV)/.test  ## all but torture: every parameter, hypothesis at full depth, kernels under all flags
	@BIN=$(BIN) tools/check.sh all

docs: $(VENV)/.docs  ## the documentation as a site: open site/index.html; a warning is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(VENV)/.test  ## put the sources in form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

torture: $(VENV)/.test  ## crash and damage sweeps: many minutes
	$(BIN)/python -m pytest -m torture

MINUTES ?= 60
soak: $(VENV)/.test  ## random lives of a store against a dictionary, for MINUTES=60
	$(BIN)/python -m tests.torture.soak --minutes $(MINUTES)

bench: $(VENV)/.test  ## every figure of docs/benchmarks.md, measured side by side
	$(BIN)/python -m tests.benchmarks

# cuts nothing without CUT=--write, and uploads nothing: CONTRIBUTING.md, "Release", says what comes next
release: | $(BIN)/python  ## wheels and sdists into dist/, checked; VERSION=0.2.0 CUT=--write cuts the changelog first
	$(BIN)/python tools/cut_changelog.py $(VERSION) $(CUT)
	rm -rf dist
	$(BIN)/python tests/release_check.py --only artifacts --dist dist

release-check: | $(BIN)/python  ## build the wheel; install it, and each extra alone, into fresh environments, by pip and uv
	$(BIN)/python tests/release_check.py $(ARGS)

conformance: $(VENV)/.test  ## docs/conformance.md: the suites of both frameworks on the stores of others
	$(BIN)/python -m tests.conformance

clean:
	rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
