# nbquant: `make explore` opens the explorer, `make test` checks everything. Both set up .venv first, once.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
NOTEBOOK := 01_explore.ipynb
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt
STAMPS := $(VENV)/.made $(VENV)/.run $(VENV)/.test $(VENV)/.bench $(VENV)/.docs

# A checkout that was moved, or whose Python went away, needs its environment made again.
ifneq ($(wildcard $(VENV)/.made),)
ifneq ($(shell $(PY) -c 'print("works")' 2>&1; cat $(VENV)/.made),works $(CURDIR))
$(shell rm -f $(STAMPS))
endif
endif

.DEFAULT_GOAL := help
.PHONY: help explore test check fuzz bench docs clean
.DELETE_ON_ERROR:

help:
	@echo 'make explore   open the explorer in JupyterLab (LAB="--port=9000" for options of its own)'
	@echo 'make test      run every test and check, minutes (TESTS="tests/coding -k huffman" to choose; linters run all the same)'
	@echo 'make check     run the linters and the tests of what changed since main, under a minute'
	@echo 'make fuzz      read damaged files (COUNT=100000) that no run has seen before (SEED=the time), then larger samples'
	@echo 'make bench     run the benchmarks (BENCH="kmeans ecsq" to choose, FULL=1 for the largest sizes, ARGS="--device cuda")'
	@echo 'make docs      write the site, tasks, reference and course, to .docs/site (EXECUTE=1 runs the notebooks: half an hour)'
	@echo 'make clean     remove the environment and all caches'
	@echo 'PYTHON=python3.12 chooses the Python that the environment is made from (3.11 or newer).'

explore: $(VENV)/.run
	@set --; \
	if [ "$$(id -u)" = 0 ]; then set -- "$$@" --allow-root; fi; \
	if [ "$$(uname)" = Linux ] && [ -z "$$BROWSER$$DISPLAY$$WAYLAND_DISPLAY" ]; then set -- "$$@" --no-browser; fi; \
	JUPYTER_CONFIG_PATH="$(CURDIR)/nbquant/jupyter$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH}" \
	exec $(PY) -m jupyterlab --notebook-dir=notebooks --LabApp.default_url=/lab/tree/$(NOTEBOOK) "$$@" $(LAB)

# Tests start many processes: what Python compiles is kept.
unexport PYTHONDONTWRITEBYTECODE

# tests/conftest.py says how many workers there are and which tests stay with one of them.
PYTEST := $(PY) -m pytest --numprocesses=auto --dist=loadscope --no-loadscope-reorder

# Everything runs even when something fails, so that one run tells all. Linters run beside the tests, which leave a core now
# and then, and are heard after them.
define RUN
	@heard=$$(mktemp -d); trap 'rm -rf "$$heard"' EXIT; \
	check() { \
	    name=$$1; shift; printf '\n--- %s\n' "$$name"; \
	    if "$$@"; then echo "$$name" >> "$$heard/passed"; else echo "$$name" >> "$$heard/failed"; fi; \
	}; \
	lint() { \
	    check 'ruff check' $(PY) -m ruff check; \
	    check 'ruff format' $(PY) -m ruff format --check; \
	    check 'mypy' $(PY) -m mypy; \
	    check 'lint-imports' $(VENV)/bin/lint-imports; \
	}; \
	lint > "$$heard/lint" 2>&1 & linters=$$!; \
	$(1) \
	wait $$linters; cat "$$heard/lint"; printf '\n'; \
	told() { paste -sd, "$$heard/$$1" | sed 's/,/, /g'; }; \
	if [ -e "$$heard/passed" ]; then echo "make $@ passed: $$(told passed)"; fi; \
	if [ -e "$$heard/failed" ]; then echo "make $@ FAILED: $$(told failed)"; exit 1; fi
endef

test: $(VENV)/.test
	$(call RUN,check 'pytest' $(PYTEST) $(TESTS);)

check: $(VENV)/.test
	$(call RUN,tests=$$($(PY) -m tests.changed) && if [ -n "$$tests" ]; then check 'pytest' $(PYTEST) $$tests; fi;)

fuzz: $(VENV)/.test
	@$(PY) -m tests.storage.mutations --count $(or $(COUNT),100000) --seed $(or $(SEED),$$(date +%s))
	@NBQUANT_FUZZ=1 $(PY) -m pytest tests/widgets/state/test_state_machine.py tests/analysis/test_bounds.py

bench: $(VENV)/.bench
	@$(PY) -m tests.benchmarks $(BENCH) $(if $(FULL),--full) $(ARGS)

docs: $(VENV)/.docs
	@$(PY) -m sphinx --quiet --fail-on-warning $(if $(EXECUTE),-D nb_execution_mode=cache) --builder html .docs .docs/site
	@$(PY) -m nbquant export --model lenet5-fashion --output .docs/site/explorer.html
	@echo 'The site is .docs/site/index.html'

clean:
	rm -rf $(VENV) .docs/site .docs/.jupyter_cache .docs/notebooks .docs/api.md dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@command -v "$(PYTHON)" >/dev/null || { \
	    echo 'nbquant needs Python 3.11 or newer, but there is no "$(PYTHON)": install it, or name one with' \
	        'make PYTHON=/path/to/python3' >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo 'nbquant needs Python 3.11 or newer, but "$(PYTHON)" is' "$$("$(PYTHON)" --version 2>&1):" \
	        'name a newer one with make PYTHON=/path/to/python3' >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo '"$(PYTHON)" comes without venv and pip, which the environment is made with: install them' \
	        '(on Debian and Ubuntu: apt-get install python3-venv)' >&2; exit 1; }
	@echo 'Making $(VENV) …'
	@if $(PY) -c '' 2>/dev/null; then "$(PYTHON)" -m venv $(VENV); else "$(PYTHON)" -m venv --clear $(VENV); fi
	@# The pip that comes with an old Python explains a conflict among the pins in no word.
	@$(PIP_INSTALL) --upgrade pip
	@printf '%s\n' "$(CURDIR)" > $@

$(VENV)/.run: $(VENV)/.made pyproject.toml constraints.txt
	@echo 'Installing nbquant into $(VENV); the first time takes some minutes …'
	@$(PIP_INSTALL) -e .
	@$(PY) -m nbquant.kernels.precompile
	@touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml constraints.txt
	@echo 'Installing nbquant and its tests into $(VENV); the first time takes some minutes …'
	@$(PIP_INSTALL) -e '.[test]'
	@# Otherwise each of several processes would compile the same at the same time.
	@$(PY) -m nbquant.kernels.precompile reverse & $(PY) -m nbquant.kernels.precompile; wait
	@touch $(VENV)/.run $@

$(VENV)/.bench: $(VENV)/.made pyproject.toml constraints.txt
	@echo 'Installing nbquant and its benchmarks into $(VENV); the first time takes some minutes …'
	@$(PIP_INSTALL) -e '.[bench]'
	@touch $(VENV)/.run $@

$(VENV)/.docs: $(VENV)/.made pyproject.toml constraints.txt
	@echo 'Installing nbquant and what writes its site into $(VENV); the first time takes some minutes …'
	@$(PIP_INSTALL) -e '.[docs]'
	@touch $(VENV)/.run $@
