# make demo      train the tiny model to look closer only when needed, and report on it   (about 5 minutes on 2 cores)
# make test      run the fast tests                                                      (about 3 minutes on 2 cores)
# make test-all  run the others: servers, other environments, kills, long trainings      (about 25 minutes on 2 cores)
# make check     lint and types
# make docs      the documentation as a site, in dist/docs/index.html                     (about 10 seconds)
# Each creates .venv by itself: CPython 3.11 or newer, pip and an index are all it needs.

PYTHON ?= python3
RUN := .venv/bin/

.PHONY: demo test test-all check docs clean

demo: .venv/ready
	$(RUN)visionthink demo --out runs/demo

# two processes of one thread each, since two threads on small tensors mostly wait for each other; a file stays in one process,
# since its fixtures cost more than the balance gains
PYTEST := OMP_NUM_THREADS=1 $(RUN)python -m pytest -n 2 --dist=loadfile --durations=25

test: .venv/ready
	$(PYTEST) -m "not slow and not network"

test-all: .venv/ready
	$(PYTEST) -m "slow or network"

check: .venv/ready
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy

# mkdocs.yml makes every warning an error: a page without a place, a link or an anchor that leads nowhere. Needs no network.
docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(RUN)python -m mkdocs build

# torch by itself first: pip then takes a CPU wheel where the machine offers one, instead of the newest CUDA build
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "visionthink needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(RUN)python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(RUN)python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch .venv/ready

clean:
	rm -rf .venv .cache runs dist .pytest_cache .mypy_cache .ruff_cache
