# One command for each thing; `make` alone lists them. Needs python3 (3.11 to 3.13), make and, for the matrix, more Pythons.
#
#   PYTHON   the interpreter that a new environment is made with
#   VENV     where the environment is
#   WORKERS  how many processes run the tests: a number, or "logical" (cores, at most 4)
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= logical

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
VERSIONS := 3.11 3.12 3.13
CHECKS := format-check lint types tests

.NOTPARALLEL:
.PHONY: help run test format format-check lint types unit tests bench matrix clean

help:
	@echo 'make run      replay the recorded executions into ./flytelineage.db and show their lineage'
	@echo 'make test     everything that CI checks: format, lint, types, tests'
	@echo 'make unit     only the tests that need no emulator and no process'
	@echo 'make format   write the format'
	@echo 'make lint     ruff'
	@echo 'make types    mypy'
	@echo 'make tests    all tests'
	@echo 'make bench    the benchmarks'
	@echo 'make matrix   make test on Python $(VERSIONS)'
	@echo 'make clean    remove what was built, but not .venv and no database'

run: $(VENV)/.installed
	$(BIN)/flytelineage replay tests/corpus --objects tests/corpus/objects
	$(BIN)/flytelineage show

# On success pytest's summary is the last line: CI reads there that tests ran.
test: $(VENV)/.installed-dev
	@passed=; for check in $(CHECKS); do \
		echo "==> make $$check"; \
		$(MAKE) --no-print-directory $$check || { \
			echo "make test: $$check failed, passed before it:$${passed:- nothing}. Alone: make $$check" >&2; exit 1; }; \
		passed="$$passed $$check"; \
	done

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --quiet --select I --fix .
	$(BIN)/ruff format .

format-check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

unit: $(VENV)/.installed-dev
	$(BIN)/pytest tests/unit

tests: $(VENV)/.installed-dev
	$(BIN)/pytest -n $(WORKERS) --maxprocesses 4 --dist loadgroup

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks

# A name on PATH may be a pyenv shim that refuses to run, so each candidate is asked for its version.
matrix:
	@failed=0; summary=; for version in $(VERSIONS); do \
		found=; for python in python$$version $(PYTHON) "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version.*/bin/python; do \
			if "$$python" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$$version')" 2>/dev/null; then \
				found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			result='no such Python, neither on PATH nor under pyenv'; failed=1; \
		else \
			echo "==> Python $$version: $$found"; \
			if $(MAKE) --no-print-directory test VENV=.venv-$$version PYTHON="$$found"; then result=passed; \
			else result=FAILED; failed=1; fi; \
		fi; \
		summary="$$summary\nPython $$version: $$result"; \
	done; printf "$$summary\n"; exit $$failed

clean:
	rm -rf build dist *.egg-info .venv-* .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
	find flytelineage tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

# The environment is made once; what is in it is brought up to date when a requirement has changed.
$(BIN)/python:
	@version=$$($(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null || echo 'not there'); \
	case "$$version" in 3.11.*|3.12.*|3.13.*) ;; *) \
		echo "flytelineage needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is $$version:" \
			"name another, as in 'make $(firstword $(MAKECMDGOALS)) PYTHON=python3.12'." >&2; exit 1;; \
	esac
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: setup.py requirements.txt | $(BIN)/python
	@echo 'installing flytelineage into $(VENV) (once; a minute or two)'
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: setup.py requirements.txt requirements-dev.txt | $(BIN)/python
	@echo 'installing flytelineage and its tools into $(VENV) (once; a minute or two)'
	@$(PIP) --editable '.[dev]'
	@touch $(VENV)/.installed $@
