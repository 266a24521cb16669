# Two commands do everything on a fresh Debian machine with Python 3.11+: `make quickstart` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help venv quickstart bench-nn bench-training bench-serving fuzz chaos test lint format typecheck unit proto up down system-packages clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## create .venv from requirements.lock

$(STAMP): requirements.lock pyproject.toml tools/create_venv.sh
	@PYTHON=$(PYTHON) tools/create_venv.sh $(VENV)
	@touch $@

quickstart: $(STAMP) ## the whole service once, from training to serving, on this machine
	@$(BIN)/python examples/quickstart.py

test: $(STAMP) system-packages lint typecheck unit ## everything that CI checks

lint: $(STAMP) ## ruff, and whether generated code is fresh
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/python tools/generate_protos.py --check

typecheck: $(STAMP) ## mypy --strict
	@$(BIN)/mypy

# Most tests wait for processes more than they compute, so two files at a time take two thirds of the time. Those with a
# Ray cluster come after, one by one: in one of three runs beside other files a head never began an attempt, cause unknown.
TEST_WORKERS ?= 2
unit: $(STAMP) ## the tests, TEST_WORKERS=.. files at a time
	@$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile -m "not ray"
	@$(BIN)/python -m pytest -m ray

SECONDS ?= 300
fuzz: $(STAMP) ## wrong requests to an inference plane, SECONDS=.. for each transport
	@BATCHYARD_FUZZ_SECONDS=$(SECONDS) $(BIN)/python -m pytest -s -q tests/serving/test_fuzz.py

# HISTORIES on plain processes and RAY_HISTORIES on a Ray cluster, of seeds from 1; with SEED that one alone.
HISTORIES ?= 500
RAY_HISTORIES ?= 50
EXECUTOR ?= local
chaos: $(STAMP) ## the service broken in seeded ways, its promises checked; writes bench/results/chaos.json; SEED=.. replays one
	@$(BIN)/python -m tests.chaos $(if $(SEED),--only $(SEED) --executor $(EXECUTOR),--histories $(HISTORIES) --ray-histories $(RAY_HISTORIES))

bench-nn: $(STAMP) ## the BN library against its peers, side by side; writes bench/results/nn.json
	@$(BIN)/python -m bench.nn

bench-training: $(STAMP) ## the training engine against bare PyTorch loops; writes bench/results/training.json
	@$(BIN)/python -m bench.training

bench-serving: $(STAMP) system-packages ## the inference plane against Triton and MLServer; writes bench/results/serving.json
	@$(BIN)/python -m bench.serving

format: $(STAMP) ## rewrite sources in the house format
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .

proto: $(STAMP) ## regenerate the committed protobuf code
	@$(BIN)/python tools/generate_protos.py

system-packages: ## what the tests need beyond pip
	@tools/install_system_packages.sh chromium=chromium prometheus=promtool,prometheus nghttp2-client=h2load openssl=openssl postgresql=pg_ctlcluster tmux=tmux

up: $(STAMP) ## start the service and leave it running; data in ./batchyard-data
	@$(BIN)/batchyard up

down: $(STAMP) ## stop it
	@$(BIN)/batchyard down

clean: ## remove .venv and caches; never data
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis test-output
