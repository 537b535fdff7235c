# What this builds on PyTorch is the range in pyproject.toml; this is the build that the project is tested with.
TORCH ?= torch==2.13.0
PYTHON ?= python3
IMAGE ?= cifar10:7
# Random networks that `make hunt` judges, if it has no number of SECONDS instead.
CASES ?= 10000
# Where figures take their results from: those of the repository, or out/studies after `make studies`. Pictures of any
# but the committed results go into out/figures, unless FIGURES names another folder.
RESULTS ?= analysis/results
FIGURES ?= $(if $(filter analysis/results,$(patsubst %/,%,$(RESULTS))),figures,out/figures)
VENV := .venv
BIN := $(VENV)/bin

# One BLAS thread: the matrices are small, and several threads on few cores only wait for each other.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help demo test faults hunt bench repro studies figures docs docs-test docs-serve lint clean

help:  ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/stamp  ## reconstruct a photograph through LeNet-O from its gradient, into out/demo
	$(BIN)/constraint-algebra reconstruct --model lenet-o --image $(IMAGE) --dtype float64 --out out/demo --force

test: $(VENV)/stamp  ## run all tests and doctests
	$(BIN)/python -m pytest -n 2

faults: $(VENV)/stamp  ## try damaged files, full disks, kills, second writers and bad commands, slow ones too, and count
	$(BIN)/python -m pytest -n 2 -m '' -p tests.faults.counts tests/faults

hunt: $(VENV)/stamp  ## search random networks for wrong verdicts: CASES=10000 in half an hour, or SECONDS=600; goes on where it was
	$(BIN)/python -m tests.hunt $(if $(SECONDS),--seconds $(SECONDS),--cases $(CASES)) --out out/hunt.jsonl

bench: $(VENV)/stamp  ## measure speed beside the published algorithm, accuracy, scaling and large layers, in minutes
	$(BIN)/python -m paper_repro.benchmarks.speed --quick
	$(BIN)/python -m paper_repro.benchmarks.accuracy --quick
	$(BIN)/python -m paper_repro.benchmarks.scaling --resolution 32 --resolution 64 --resolution 128
	$(BIN)/python -m paper_repro.benchmarks.large --case 'layer 128/2' --case 'layer 64/1' --case 'chain 2'

repro: $(VENV)/stamp  ## redo the paper: all runs, tables, figures and the report, into out/repro, in less than an hour
	$(BIN)/python -m paper_repro.run --processes 2

studies: $(VENV)/stamp  ## compute all studies anew, into out/studies: 40 minutes of CPU time
	$(BIN)/python -m analysis all --processes 2 --restart

figures: $(VENV)/stamp  ## draw all figures from the committed results, or from RESULTS=out/studies into out/figures
	$(BIN)/python -m figures all --results-dir $(RESULTS) --out-dir $(FIGURES)

docs: $(VENV)/stamp-docs  ## build the course and the documentation into out/docs, every notebook executed
	$(BIN)/python -m sphinx --fail-on-warning --keep-going $(if $(MAKE_TERMOUT),,--quiet) -b html -d out/doctrees docs out/docs
	@echo "out/docs/index.html is its first page"

docs-test: $(VENV)/stamp-docs  ## try the explorer, and the site if it is built, in Chromium, if it is installed
	$(BIN)/python -m pytest -m browser tests/docs
	$(BIN)/python -m pytest tests/docs/test_build.py tests/docs/test_reference.py

docs-serve: docs  ## show them on http://127.0.0.1:8000
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory out/docs 8000

lint: $(VENV)/stamp  ## check format, style, types and the order of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -q -m slow tests/test_types.py

clean:  ## remove the environment and the results
	rm -rf $(VENV) out dist

# Once, and again when the dependencies change. Dependency groups need a newer pip than some Pythons bring.
$(VENV)/stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -m pip install --quiet --editable '.[torch,images]' --group test --group lint --group benchmarks
	touch $@

$(VENV)/stamp-docs: $(VENV)/stamp
	$(BIN)/python -m pip install --quiet --group docs
	touch $@
