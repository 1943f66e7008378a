# make chat       talk with visualglm-tiny about an example picture
# make web        the web page on visualglm-tiny
# make api        serve visualglm-tiny over HTTP at 127.0.0.1:8080
# make test       quick tests          make test-slow   the others
# make test-kernels   a GPU's kernels, by Triton's interpreter; make test-slow does that, too
# make check      style, types, import rules
# Each installs what it needs into .venv. Choose the interpreter with PYTHON=python3.12.
# Tests run in two processes. WORKERS=8 starts eight; WORKERS=0 runs all tests in one process, in order.

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
RUN := $(VENV)/bin/python
# pytest keeps the tests that it has compiled for the next call, even if the environment forbids bytecode files.
PYTEST := PYTHONDONTWRITEBYTECODE= $(RUN) -m pytest
# One thread per process: more threads than cores slow each other down. worksteal gives a process adjacent tests, which
# share fixtures. Programs, browsers and Ray have fixed times to start, which a busy machine exceeds now and then: a test
# that fails runs once more, and the summary lists it as rerun.
TEST := OMP_NUM_THREADS=1 $(PYTEST) -n $(WORKERS) --dist worksteal --reruns 1
INSTALLED := $(VENV)/.installed
INSTALLED_WEB := $(VENV)/.installed-web
INSTALLED_DEV := $(VENV)/.installed-dev
# Triton runs a GPU's kernels on a CPU, by numpy. It has a folder of its own: what is tested without it must not see it.
TRITON := $(VENV)/triton
TRITON_VERSION := 3.9.0
# TRL brings packages that nothing else here needs. Its tests find them in a folder of their own.
TRL := $(VENV)/trl
TRL_VERSION := 1.16.0
KERNEL_TESTS := $(addprefix tests/model/,kernels/test_kernels.py kernels/test_pdl.py kernels/test_compilation.py engine/test_gpu_attention.py engine/test_long_prefill.py engine/test_graph_batch.py engine/test_sampler.py)
# Only files with one of these words have slow tests; collecting the others takes as long as many of these tests.
SLOW_MARKS := mark\.slow|BROWSER_TESTS
CHAT := $(RUN) cli_demo.py --from_pretrained visualglm-tiny --image examples/scene.png

.PHONY: chat web api test test-slow test-kernels check

chat: $(INSTALLED)
	@if [ -t 0 ]; then $(CHAT); else \
	    printf '图片里有几个物体？\nstop\n' | $(CHAT) --temperature 0 --chinese && \
	    printf 'How many objects are there?\nstop\n' | $(CHAT) --temperature 0 --english; fi

web: $(INSTALLED_WEB)
	$(RUN) web_demo.py --from_pretrained visualglm-tiny

api: $(INSTALLED)
	$(RUN) api.py --from_pretrained visualglm-tiny

test: $(INSTALLED_DEV)
	$(TEST) -m "not slow"

test-slow: $(INSTALLED_DEV) $(TRL)/.installed test-kernels
	TRL_FOLDER=$(abspath $(TRL)) $(TEST) -m slow $$(grep -rlE --include='test_*.py' '$(SLOW_MARKS)' tests)

# There is no Triton for other systems.
ifeq ($(shell uname -s),Linux)
test-kernels: $(TRITON)/.installed
	PYTHONPATH=$(TRITON) TRITON_INTERPRET=1 $(TEST) -W ignore::RuntimeWarning $(KERNEL_TESTS)
endif

check: $(INSTALLED_DEV)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(PYTEST) tests/project/test_imports.py

$(INSTALLED): requirements_wo_ds.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; choose one: make PYTHON=python3.12 ...")'
	@echo "Installing into $(VENV). PyTorch alone is hundreds of megabytes, with CUDA gigabytes: this takes minutes."
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -r requirements_wo_ds.txt -c constraints.txt
	$(PIP) install --no-deps SwissArmyTransformer -c constraints.txt
	@echo "Installed. To call python with it: source $(VENV)/bin/activate"
	@touch $@

$(INSTALLED_WEB): $(INSTALLED) requirements_web.txt
	$(PIP) install -r requirements_web.txt -c constraints.txt
	$(PIP) install --no-deps gradio -c constraints.txt
	@touch $@

$(INSTALLED_DEV): $(INSTALLED_WEB) requirements_dev.txt
	$(PIP) install --no-warn-conflicts -r requirements_dev.txt -c constraints.txt
	@touch $@

$(TRITON)/.installed: $(INSTALLED_DEV)
	$(PIP) install --no-deps --upgrade --target $(TRITON) triton==$(TRITON_VERSION)
	@touch $@

$(TRL)/.installed: $(INSTALLED_DEV)
	$(PIP) install --no-deps --upgrade --target $(TRL) trl==$(TRL_VERSION) datasets dill multiprocess xxhash -c constraints.txt
	@touch $@
