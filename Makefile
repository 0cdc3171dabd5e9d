# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
.PHONY: demo test quick smoke check bench slow mutants constraints clean

demo: $(STAMP)-core  ## train on the embedded digits, evaluate, draw the report
	$(BIN)/clearsight train digits --hidden 64,32 --epochs 30 --schedule cosine --weight-history

test: $(STAMP)-dev  ## all tests but the slow ones and the smoke
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

quick: $(STAMP)-dev  ## the tests that take no more than a blink, in under a minute
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder -m "not long and not slow and not smoke"

smoke: $(STAMP)-dev  ## the smallest case of every benchmark and recipe
	$(BIN)/python -m pytest --numprocesses auto -m smoke

check: $(STAMP)-dev  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

slow: $(STAMP)-dev  ## the published experiments
	$(BIN)/python -m pytest -m slow

mutants: $(STAMP)-dev  ## do the tests notice small mistakes? writes docs/mutants.md
	$(BIN)/python -m benchmarks.mutants --sample 120 --json docs/benchmarks/mutants.json --page docs/mutants.md

bench: $(STAMP)-dev  ## side by side with peers; writes docs/benchmarks.md
	$(BIN)/python -m benchmarks.dense --json docs/benchmarks/dense.json --table docs/benchmarks.md
	$(BIN)/python -m benchmarks.data --json docs/benchmarks/data.json --table docs/benchmarks.md
	$(BIN)/python -m benchmarks.conv --json docs/benchmarks/conv.json --table docs/benchmarks.md
	$(BIN)/python -m benchmarks.rates --rounds 10 --json docs/benchmarks/rates.json --table docs/benchmarks.md
	$(BIN)/python -m benchmarks.search --rounds 3 --json docs/benchmarks/search.json --table docs/benchmarks.md
	$(BIN)/python -m benchmarks.population --json docs/benchmarks/population.json --table docs/benchmarks.md
	$(BIN)/python -m benchmarks.labels --json docs/benchmarks/labels.json --table docs/benchmarks.md
	$(BIN)/python -m benchmarks.safety --rounds 2 --json docs/benchmarks/safety.json --table docs/benchmarks.md
	$(BIN)/python -m benchmarks.gpu --rounds 10 --json docs/benchmarks/gpu.json --table docs/benchmarks.md

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(STAMP)-core: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(STAMP)-dev: pyproject.toml constraints.txt $(STAMP)-core
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps timm  # its networks need no torchvision
	touch $@

constraints: $(STAMP)-dev  ## write the versions in use as the locked ones
	$(BIN)/pip freeze --exclude-editable | sort -f > constraints.txt

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
