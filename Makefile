# The three commands: `make train`, `make md` and `make test`. `make help` lists the rest.
PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA ?= data
RUN ?= runs/ethanol
MINUTES ?= 3.5
JOBS ?= 2
export OMP_NUM_THREADS ?= 1
export DGLBACKEND ?= pytorch

.PHONY: help env train md test bench docs lint clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

env: $(STAMP) ## create .venv and install the project (editable) with its pinned requirements

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "farfield needs Python 3.11, '$(PYTHON)' is not; install it or give make PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

lint: env ## check the format (ruff format, 100 columns) and the rules of pyproject.toml
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

train: env ## preprocess the bundled ethanol frames, train the hybrid on them, print the test table (a second call continues or shows it again)
	$(BIN)/python -m preprocess.preprocess_md17 --sample --out $(DATA)/ethanol_sample
	$(BIN)/python -m train.train_md17 --data-path $(DATA)/ethanol_sample --run-dir $(RUN) --max-cpu-minutes $(MINUTES) \
	  $(if $(wildcard $(RUN)/config.yaml),--resume) $(ARGS)
	@echo "for the commands of the pages: source $(BIN)/activate"

md: env ## 10,000 steps of molecular dynamics with the potential of `make train` (a second call continues or shows it again)
	$(BIN)/python -m simulate.run_md --checkpoint $(RUN)/checkpoint_best.pt --run-dir $(RUN)_md $(if $(wildcard $(RUN)_md/state.npz),--resume) $(ARGS)

bench: env ## near field and Equiformer against equiformer-pytorch, basis cache, far field, training step (half an hour)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	$(BIN)/python -m benchmarks.speed.bench_near_field $(ARGS)
	$(BIN)/python -m benchmarks.speed.bench_equiformer
	$(BIN)/python -m benchmarks.speed.bench_basis_cache
	$(BIN)/python -m benchmarks.accuracy.bench_far_field_rotation
	$(BIN)/python -m benchmarks.speed.bench_far_field
	$(BIN)/python -m benchmarks.speed.bench_e2former_attention
	$(BIN)/python -m benchmarks.speed.bench_training_step

docs: env $(VENV)/.installed_docs ## build the pages of docs/ into site/ (open site/index.html)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(VENV)/.installed_docs: requirements-docs.txt $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	touch $@

clean: ## remove runs, generated data and built pages, keep the environment
	rm -rf runs site $(DATA)

test: env ## run the tests, in two processes (JOBS=0: in one)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
