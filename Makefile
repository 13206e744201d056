# Every target sets itself up from nothing: the environment is made once, in .venv.
PYTHON ?= python3
BIN := .venv/bin
# Compiled bytecode makes every later start several seconds faster.
unexport PYTHONDONTWRITEBYTECODE
export ZENML_ANALYTICS_OPT_IN := false
export TOKENIZERS_PARALLELISM := false

.PHONY: help quickstart compare promote rollback test check format ui bench torture fuzz sample clean

help:  ## list what can be made
	@sed -n 's/^\([a-z-]*\):.*  ## /  \1~/p' Makefile | awk -F '~' '{ printf "%-14s%s\n", $$1, $$2 }'

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable ".[check,test]" --constraint constraints.txt
	touch $@

quickstart: .venv/ready  ## distil the embedded teacher into the embedded student, about 4 minutes
	$(BIN)/distil stack
	$(BIN)/distil run

compare: .venv/ready  ## six ways of teaching x three seeds with controls and intervals, about 35 minutes
	$(BIN)/distil stack
	$(BIN)/distil compare

promote: .venv/ready  ## make the best student of the experiment the champion, if it passes the gate
	$(BIN)/distil stack
	$(BIN)/distil promote

rollback: .venv/ready  ## give the alias champion back to the version before
	$(BIN)/distil rollback

ui: .venv/ready  ## open MLflow on all runs
	$(BIN)/distil ui

# One thread in each of a few processes: small models gain nothing from more threads.
test: .venv/ready  ## run the whole test suite, about 11 minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses logical --maxprocesses 4 --dist loadfile

check: .venv/ready  ## lint, format, types, and known vulnerabilities of the pinned libraries
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	.ci/audit

format: .venv/ready  ## mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/ready  ## the figures of docs/benchmarks.md; about five hours on two cores, nothing beside it
	$(BIN)/python -m benchmarks.alignment --teacher distillation/sample/teacher --student distillation/sample/student README.md LICENSE docs/*.md
	$(BIN)/python -m benchmarks.loss_kernels
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.seeds
	$(BIN)/python -m benchmarks.cache
	$(BIN)/python -m benchmarks.objectives
	$(BIN)/python -m benchmarks.objectives --speed
	$(BIN)/pip install --quiet --editable ".[compare]" --constraint constraints.txt && $(BIN)/python -m benchmarks.gold

torture: .venv/ready  ## the table of docs/reliability.md: kills, full disks, dead servers, damage; an hour or two
	$(BIN)/python -m benchmarks.torture

fuzz: .venv/ready  ## 10,000 mutated inputs of each kind; hours
	$(BIN)/python -m benchmarks.fuzz

sample: .venv/ready  ## train the embedded pair anew into outputs/sample, about an hour on two cores
	$(BIN)/python -m distillation.sample.make outputs/sample

clean:  ## remove the environment and what was built
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
