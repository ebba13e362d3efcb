# `make help` lists the targets. Each one creates the virtual environment it needs, from Python and make alone.

# The first one that will do; on macOS `python3` may be an old one while a newer stands beside it.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' >/dev/null 2>&1 && echo $$p && exit; \
	done; echo python3)
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

SEEDS ?= 300
FROM ?= 0
BENCH ?=
HOSTS ?= 5
TASKS ?= 2000
FAULTS ?= 60
SEED ?= 0
PYTEST_ARGS ?=

# Values of MESH_* in the caller's shell are for the caller's own mesh, never for the one of a demo or a test.
unexport MESH_ADDRESS MESH_NAME MESH_MESH MESH_STATE_DIR MESH_LISTEN MESH_PEER MESH_ROLE MESH_RANK MESH_CONFIG

.PHONY: help demo demo-resume test check sim chaos bench proto verify-proto venv

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

demo: $(STAMP) ## three daemons on this machine find each other and run a hyper-parameter sweep with torch
	@$(PY) -m tools.demo

demo-resume: $(STAMP) ## kill the machine that trains: another goes on from the checkpoint, to the same last bit
	@$(PY) -m tools.demo_resume

test: check ## check, then every test (PYTEST_ARGS='-k name' narrows it; those in network namespaces need root)
	$(PY) -m pytest $(PYTEST_ARGS)

check: $(STAMP) ## format, lint, types, floors, generated code; under a minute
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pytest -q tests/test_floors.py
	$(PY) tools/genproto.py --check

sim: $(STAMP) ## the simulator: make sim SEEDS=1000 FROM=0; a failing seed is printed and replays exactly
	$(PY) -m tests.sim --seeds $(SEEDS) --from $(FROM)

chaos: $(STAMP) ## real daemons on hosts that fail: make chaos HOSTS=5 TASKS=2000 FAULTS=60 SEED=1; as root, 5 minutes
	@$(PY) -m tests.netlab.chaos --hosts $(HOSTS) --tasks $(TASKS) --faults $(FAULTS) --seed $(SEED)

bench: $(STAMP) ## measure, one JSON line each, kept in bench/results (BENCH='roundtrip pieces' picks some)
	@$(PY) -m bench $(BENCH)

proto: $(STAMP) ## generate mesh/v1 from proto/
	$(PY) tools/genproto.py

verify-proto: $(STAMP) ## fail if mesh/v1 is not what proto/ generates
	$(PY) tools/genproto.py --check

venv: $(STAMP) ## only create the virtual environment

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "make: no $(PYTHON) was found; computemesh needs Python 3.11 to 3.14;" \
	       "install it (Debian, Ubuntu: apt install python3 python3-venv; Fedora: dnf install python3;" \
	       "macOS: brew install python@3.13) or name one: make PYTHON=python3.12 demo" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' || { \
	  echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1); computemesh needs Python 3.11 to 3.14;" \
	       "install one (Debian, Ubuntu: apt install python3.12 python3.12-venv; Fedora: dnf install python3.12;" \
	       "macOS: brew install python@3.13) and name it: make PYTHON=python3.12 demo" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: $(PYTHON) came without venv and ensurepip, so no virtual environment can be made;" \
	       "install them (Debian, Ubuntu: apt install python3-venv," \
	       "or $$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'))" >&2; exit 1; }
	@$(PY) -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@echo "make: installing into $(VENV), a few minutes the first time (torch is large)"
	@PIP_BUILD_CONSTRAINT=constraints.txt $(PY) -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e '.[dev,torch]'
	@touch $@
