# Every target makes .venv when it is missing or older than what it is made from.
# Choose another interpreter with `make PYTHON=python3.12 test`.

PYTHON ?= python3
BIN := .venv/bin
# Modules are compiled when first imported, not when installed (below). Where the environment forbids
# to keep that, as images of containers do, every process would compile anew: 7 of its first 11 s.
export PYTHONDONTWRITEBYTECODE :=
INSTALLED := .venv/installed
DEVELOPED := .venv/developed

# The pages are built from a copy: beside .venv the generator waits forever for its own queue.
PAGES := README.md CHANGELOG.md CONTRIBUTING.md LICENSE docs examples zensical.toml
define BUILD_SITE
rm -rf build/pages
mkdir -p build/pages
cp -R $(PAGES) build/pages
cd build/pages && ../../$(BIN)/zensical build --strict
endef

.PHONY: demo maze sorting test test-all lint docs bench

demo: $(INSTALLED)
	$(BIN)/ambient-curate demo

maze: $(DEVELOPED)
	$(BIN)/python -m examples.maze --out ambient_maze

sorting: $(DEVELOPED)
	$(BIN)/python -m examples.sorting --out ambient_sorting

test: $(DEVELOPED)
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

test-all: $(DEVELOPED)
	$(BIN)/pytest -m ""

lint: $(DEVELOPED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BUILD_SITE)

docs: $(DEVELOPED)
	$(BUILD_SITE)
	@echo "open build/pages/site/index.html"

bench: $(DEVELOPED)
	for each in tests/benchmarks/bench_*.py; do echo "$$each"; $(BIN)/python $$each || exit 1; done

# torch comes first and by its exact version: left to a resolver it may cost gigabytes. Compiling
# everything takes longer than installing it, and most of it is never imported.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --no-compile -c constraints.txt torch==2.13.0
	$(BIN)/pip install --no-compile -c constraints.txt -e .
	touch $@

# what the suite, the checks and the studies need besides: planners, browsers, linters
$(DEVELOPED): $(INSTALLED)
	$(BIN)/pip install --no-compile -c constraints.txt -e '.[dev]'
	touch $@
