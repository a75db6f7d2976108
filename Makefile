# `make` builds; `make run` and `make test` do everything they need first.
# On a fresh Debian: apt install git gcc make python3 python3-venv python3-dev

PYTHON ?= python3
ARGS   ?=
TESTS  ?= tests
SCALE  ?= 1
# How many tests run at a time: three for two cores, as they wait for half of their time. 0: one after
# the other, in this process.
AT_ONCE ?= $(shell awk 'BEGIN { print ($(JOBS) > 12 ? 16 : int($(JOBS) * 1.5)) }')

VENV := .venv
BIN  := $(VENV)/bin
LOG  := $(VENV)/log

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# A debug build has every check on and its lines traced: FASTGW_DEBUG=1 make test
FASTGW_DEBUG ?=
export FASTGW_DEBUG
MODE := $(if $(FASTGW_DEBUG),debug,release)
JOBS := $(shell nproc 2>/dev/null || echo 1)

# The hot path, as setup.py names it, and what is built of it
COMPILED := $(shell sed -n 's|^    "\(fastgw/[^"]*\.pyx\{0,1\}\)",$$|\1|p' setup.py)
PXD      := $(shell find fastgw -name '*.pxd')
BUILT    := $(shell find fastgw -name '*.so')
STEMS    := $(basename $(COMPILED))
stem_of   = $(firstword $(subst ., ,$(1)))
ORPHANS  := $(strip $(foreach so,$(BUILT),$(if $(filter $(call stem_of,$(so)),$(STEMS)),,$(so))))
MISSING  := $(filter-out $(foreach so,$(BUILT),$(call stem_of,$(so))),$(STEMS))
BUILT_AS := $(shell cat build/mode 2>/dev/null)

# $(call quietly,command): silent where it works, everything it said where it fails
quietly = { $(1); } >$(LOG) 2>&1 || { cat $(LOG) >&2; exit 1; }

.DEFAULT_GOAL := build
.DELETE_ON_ERROR:
.PHONY: build run demo test test-pure soak fuzz chaos mutants memcheck lint bench bench-quick bench-peers gate debug clean FORCE

build: .build-stamp

run: build
	@$(BIN)/fastgw run $(ARGS)

demo: build
	@$(BIN)/fastgw demo $(ARGS)

test: build $(VENV)/.dev
	@$(BIN)/python -m pytest -q -n $(AT_ONCE) --dist worksteal $(TESTS) $(ARGS)

# What takes longer: workers killed twenty times under load, and the like; then 500,000 requests and 10,000 reloads
# (SCALE=4: four times as many).
soak: build $(VENV)/.dev
	@$(BIN)/python -m pytest -q -s -m long --timeout 600 $(TESTS) $(ARGS)
	@PYTHONPATH=tests $(BIN)/python -m chaos --only S01 S02 S05 --scale $(SCALE)

# Ten minutes for each target of inputs nobody would write: ARGS="--seconds 60 --seed 2 --only requests"
fuzz: build $(VENV)/.dev
	@PYTHONPATH=tests $(BIN)/python -m fuzz $(ARGS)

# Faulty providers under load, two lines per goal: ARGS="--only X01 --seed 2 --scale 0.1"
chaos: build $(VENV)/.dev
	@PYTHONPATH=tests $(BIN)/python -m chaos $(ARGS)

# Deliberate breakages of the code, each of which the tests must notice. In copies: nothing here changes.
mutants: build $(VENV)/.dev
	@PYTHONPATH=tests $(BIN)/python -m mutants $(ARGS)

# The tests of the compiled modules with every access to memory watched, built apart: ARGS="--fuzz 600" fuzzes so too.
memcheck: $(VENV)/.dev
	@PYTHONPATH=tests $(BIN)/python -m memcheck --at-once $(JOBS) $(ARGS)

# The same tests on the interpreted sources: they are the oracle of the compiled ones.
test-pure: build $(VENV)/.dev
	@FASTGW_PURE=1 $(BIN)/python -m pytest -q -n $(AT_ONCE) --dist worksteal $(TESTS) $(ARGS)

lint: build $(VENV)/.dev
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { $(BIN)/ruff format --diff . ; echo "mend with: $(BIN)/ruff format ." >&2; exit 1; }
	@$(call quietly,$(BIN)/mypy)
	@PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint fastgw
	@$(BIN)/codespell
	@$(call quietly,$(BIN)/python -m mypy.stubtest --allowlist tests/stubtest-allowlist.txt --ignore-unused-allowlist fastgw._clock fastgw._core fastgw._node fastgw._shm fastgw.wire.head fastgw.wire.framing fastgw.wire.outlet)
	@$(call quietly,$(BIN)/python -m pytest -q tests/test_repository.py tests/test_architecture.py)

# Beside its peers, pinned to one core; what is missing of them is installed by bench-peers.
bench: build $(VENV)/.dev
	@$(BIN)/python -m benchmarks $(ARGS)

bench-quick: build $(VENV)/.dev
	@$(BIN)/python -m benchmarks --quick $(ARGS)

bench-peers: build $(VENV)/.dev
	@$(BIN)/python -m benchmarks.install

# Instructions and system calls per request against benchmarks/limits.toml: no clock in it.
gate: build
	@$(BIN)/python -m benchmarks.gate

debug:
	@$(MAKE) --no-print-directory build FASTGW_DEBUG=1

clean:
	@rm -rf build .build-stamp .pytest_cache .mypy_cache .ruff_cache .hypothesis fastgw.egg-info
	@rm -f $(BUILT) $(addsuffix .c,$(STEMS)) $(addsuffix .html,$(STEMS))
	@find fastgw tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# --- How it is built --------------------------------------------------------------------------

# Built anew only where a source has changed; all of it when the mode has, which no time stamp shows.
.build-stamp: $(COMPILED) $(PXD) setup.py $(VENV)/.run $(if $(strip $(MISSING)$(ORPHANS)$(filter-out $(MODE),$(BUILT_AS))),FORCE)
	@echo "building fastgw's compiled modules ($(MODE))"
	@mkdir -p build
	@rm -f $(if $(filter $(MODE),$(BUILT_AS)),$(ORPHANS),$(BUILT) $(addsuffix .c,$(STEMS)))
	@echo $(MODE) >build/mode
	@$(call quietly,$(BIN)/python setup.py build_ext --inplace --parallel $(JOBS))
	@touch $@

# What to install, as one line: pip is asked again only when it or the interpreter has changed.
define WANTED
import sys, tomllib
with open("pyproject.toml", "rb") as file:
    metadata = tomllib.load(file)
project = metadata["project"]
extras = project["optional-dependencies"]["dev"] if sys.argv[1] == "dev" else []
print(sys.version_info[:2], metadata["build-system"]["requires"], project["dependencies"], project["scripts"], extras)
endef
export WANTED
wanted = $(BIN)/python -c "$$WANTED" $(1)

define REQUIRES
import tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["build-system"]["requires"], sep="\n")
endef
export REQUIRES

# $(call install,run or dev,what pip installs)
install = wanted=$$($(call wanted,$(1))); \
	if [ "$$wanted" != "$$(cat $@ 2>/dev/null)" ]; then \
		rm -f $@; \
		echo "installing what fastgw needs to $(1) into $(VENV)"; \
		$(call quietly,$(BIN)/python -c "$$REQUIRES" >$(VENV)/requires.txt \
			&& $(BIN)/python -m pip install --quiet -r $(VENV)/requires.txt \
			&& FASTGW_METADATA_ONLY=1 $(BIN)/python -m pip install --quiet --no-build-isolation --editable '$(2)'); \
	fi; \
	echo "$$wanted" >$@

$(VENV)/.run: pyproject.toml | $(BIN)/python
	@$(call install,run,.)

$(VENV)/.dev: pyproject.toml $(VENV)/.run
	@$(call install,dev,.[dev])

define PREFLIGHT
import os, shutil, sys, sysconfig
def stop(text):
    sys.exit(f"fastgw cannot be built with {sys.executable}: {text}")
if sys.version_info < (3, 11):
    stop(f"it is Python {sys.version.split()[0]}, 3.11 or newer is needed (choose one: make PYTHON=python3.11)")
try:
    import ensurepip, venv
except ImportError:
    stop("the venv module is missing (Debian: apt install python3-venv)")
if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
    stop("the C headers are missing (Debian: apt install python3-dev)")
if not shutil.which((os.environ.get("CC") or "cc").split()[0]):
    stop("there is no C compiler (Debian: apt install gcc)")
endef
export PREFLIGHT

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON) (Debian: apt install python3 python3-venv python3-dev)" >&2; exit 1; }
	@$(PYTHON) -c "$$PREFLIGHT"
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }
