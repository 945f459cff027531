# make demo      train the tiny model to look closer only when needed, and report on it   (about 5 minutes on 2 cores)
# make test      run the fast tests                                                      (about 6 minutes on 2 cores)
# make test-all  run the others: servers, other environments, kills, long trainings      (about 30 minutes on 2 cores)
# make check     lint and types
# make coverage  run the fast tests and report branches that they do not reach
# make lock      write requirements.lock: exact versions and hashes of the environment
# make extras    install each extra alone, at the highest and lowest versions it allows, and try it (network, 20 GB of disk)
# make release   build and check what would be published, in dist/
# make docs      the documentation as a site, in dist/docs/index.html                     (about 10 seconds)
# Each creates .venv by itself: CPython 3.11.5 or newer, pip and an index are all it needs.

PYTHON ?= python3
RUN := .venv/bin/

.PHONY: demo test test-all check coverage docs lock extras release clean

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

coverage: .venv/ready
	$(PYTEST) -m "not slow and not network" --cov --cov-report=term --cov-report=html:runs/coverage

lock: .venv/ready
	$(RUN)python .ci/lock.py

extras: .venv/ready
	$(RUN)python .ci/extras.py $(EXTRAS)

# what is published is what was tried: the wheel answers from an environment that holds nothing but its dependencies
release: .venv/ready
	rm -rf dist
	$(RUN)uv build --build-constraints constraints.txt --out-dir dist .
	$(RUN)uv tool run twine@7.0.0 check --strict dist/*.whl dist/*.tar.gz
	$(RUN)python .ci/extras.py --at highest --wheel dist/*.whl none local

# Every file has to have a hash of the locks. Of torch the build is taken that this machine offers (for CPUs alone, or the index's
# for CUDA); the last line installs nothing more, but for the CUDA libraries of such a build.
PIP := $(RUN)python -m pip --quiet --disable-pip-version-check
.venv/ready: pyproject.toml requirements.lock torch.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 5) and "development needs Python 3.11.5 or newer; set PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(PIP) download --no-deps --dest .venv/torch "$$(grep '^torch==' constraints.txt)"
	$(PIP) install --require-hashes --no-deps --no-index --find-links .venv/torch -r torch.lock
	@rm -r .venv/torch
	$(PIP) install --require-hashes --no-deps -r requirements.lock
	$(PIP) install --no-build-isolation -c constraints.txt -e ".[dev]"
	@touch .venv/ready

clean:
	rm -rf .venv .cache runs dist .pytest_cache .mypy_cache .ruff_cache
