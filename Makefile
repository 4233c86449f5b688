# What a person types. `.ci/run` calls these same targets.
# .venv lives in the checkout; its interpreter is one that every user of the machine may execute.

PYTHON := .venv/bin/python
# Where nothing may be skipped, more is installed.
STAMP := .venv/.installed$(if $(EKA_TEST_REQUIRE_ALL),-all)

.PHONY: setup demo test lint bench schemas clean

setup:
	@.ci/setup packages
	@$(MAKE) --no-print-directory $(STAMP)

$(STAMP): pyproject.toml .ci/setup
	@.ci/setup venv
	@touch $@

demo: setup
	@examples/demo $(DEMO)

test: setup
	$(PYTHON) -m pytest -n 2 --dist worksteal $(TESTS)

lint: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

bench: setup
	@.ci/setup peers
	$(PYTHON) -m tests.bench $(BENCH)

schemas: setup
	$(PYTHON) -m eka_runtime.oci.schema
	$(PYTHON) -m eka.script.schema
	$(PYTHON) -m eka.atom.schema

clean:
	chmod -R u+w .demo 2>/dev/null || true
	rm -rf .demo .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
