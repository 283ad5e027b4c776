# Megalith. `make` says what there is.

PYTHON := .venv/bin/python
SOURCES := $(shell find crates -name '*.rs' -o -name '*.toml' -o -name '*.ld' 2>/dev/null) Cargo.toml Cargo.lock pyproject.toml
PICTURES := $(patsubst examples/%.py,build/examples/%.svg,$(wildcard examples/*.py))
GENOME ?= lambda
SECONDS ?= 60
MINUTES ?= 60

.DEFAULT_GOAL := help
.PHONY: help setup build demo docs test lint fuzz sanitize coverage audit soak bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing (Debian 12, as root): packages, cargo, .venv
	@scripts/setup.sh

build: setup .venv/built ## build the Rust half and install the package into .venv

.venv/built: $(SOURCES) scripts/build.sh scripts/requirements.txt docs/requirements.txt
	@scripts/build.sh

demo: ## assemble a genome on three hosts that are each too small (GENOME=lambda|plasmids|ecoli)
	@scripts/setup.sh build demo
	@$(MAKE) --no-print-directory .venv/built
	@.venv/bin/megalith demo --genome $(GENOME)

docs: build $(PICTURES) ## the documentation as a site, in build/docs; starts at index.html
	$(PYTHON) -m sphinx --quiet --fail-on-warning --keep-going --jobs auto docs build/docs

build/examples/%.svg: examples/%.py .venv/built
	$(PYTHON) $< --picture $@

test: lint docs ## everything that is checked, ending with pytest's summary
	cargo test --workspace --quiet
	$(PYTHON) -m pytest --quiet --doctest-modules python/megalith
	$(PYTHON) -m pytest

lint: build ## formatting, clippy, ruff, mypy
	cargo fmt --all --check
	@if cargo clippy --version >/dev/null 2>&1; then \
	    echo cargo clippy --workspace --all-targets -- -D warnings; \
	    cargo clippy --quiet --workspace --all-targets -- -D warnings; \
	else echo "lint: cargo clippy is not installed (Debian has none for its current cargo): NOT CHECKED"; fi
	.venv/bin/ruff check --quiet
	.venv/bin/ruff format --check --quiet
	.venv/bin/mypy
	MYPYPATH=tests:bench .venv/bin/mypy --explicit-package-bases --exclude tests/unit tests bench scripts
	.venv/bin/mypy examples docs/conf.py

fuzz: ## feed every parser what libFuzzer thinks of, SECONDS=60 each (needs a nightly compiler)
	@scripts/fuzz.sh $(SECONDS)

sanitize: ## run tests under loom, Miri, AddressSanitizer and ThreadSanitizer (needs a nightly compiler)
	@scripts/sanitize.sh

coverage: build ## lines that tests run, by crate and package (needs llvm-tools and coverage.py)
	@scripts/coverage.sh

audit: setup ## check what we depend on, without a network: licences, sources, advisories (needs cargo-deny)
	@$(PYTHON) scripts/audit.py

soak: build ## look for bugs at random with everything there is, MINUTES=60 in all (docs/reliability.md)
	@$(PYTHON) scripts/soak.py $(MINUTES)

bench: build ## measure; results in build/bench
	@mkdir -p build/bench
	$(PYTHON) -m bench

clean: ## take away what was built
	rm -rf fuzz/corpus fuzz/artifacts fuzz/logs
	rm -rf target build dist .pytest_cache .mypy_cache .ruff_cache .venv/built
	find python tests bench -name __pycache__ -prune -exec rm -rf {} +
	rm -f python/megalith/*.so
