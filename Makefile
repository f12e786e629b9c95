# Every target sets up what it needs. `make demo` and `make test` are all that a newcomer has to know.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV     := $(shell command -v uv 2>/dev/null)

.PHONY: demo test test-agents test-ray test-pipelines test-unprivileged check bench soak docs clean
.DELETE_ON_ERROR:

$(VENV)/.made: pyproject.toml
	@if [ -n "$(UV)" ]; then uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && uv pip install --quiet --python $(BIN)/python -e .; \
	else $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet --disable-pip-version-check -e .; fi
	@touch $@

$(VENV)/.made-dev: $(VENV)/.made
	@if [ -n "$(UV)" ]; then uv pip install --quiet --python $(BIN)/python -e '.[dev]'; \
	else $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'; fi
	@touch $@

demo: $(VENV)/.made  ## real experiments on this CPU: no key, no network
	@$(BIN)/overnight demo

check: $(VENV)/.made-dev  ## lint, format, types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

test: check  ## what CI runs
	@.ci/tests $(BIN)/python -n 2 -m "not slow"

test-unprivileged:  ## the same as an ordinary user, where root works on it
	@.ci/unprivileged -n 2 -m "not slow"

test-agents: $(VENV)/.made-dev  ## the real programs of ten coding agents, installed from npm and PyPI (2 GB)
	@PATH="$$(tests/install_agents.sh):$$PATH" $(BIN)/python -m pytest -n0 --timeout 600 tests/test_agents_real.py tests/test_mcp_real.py tests/test_plugin_real.py

test-ray: $(VENV)/.made-dev  ## the executor ray on a real Ray, installed into the user's cache (400 MB, ten minutes)
	@OVERNIGHT_TEST_RAY="$$(tests/install_ray.sh)" $(BIN)/python -m pytest -n0 tests/test_ray.py tests/contracts/test_executor.py tests/contracts/test_pipeline.py tests/contracts/test_pipeline_again.py -k "ray and not thousand"

test-pipelines: $(VENV)/.made-dev  ## the whole contract of pipelines over this machine, workers of a hub, Slurm and Ray, and two thousand kills (an hour)
	@OVERNIGHT_TEST_RAY="$$(tests/install_ray.sh)" $(BIN)/python -m pytest -n0 tests/contracts/test_pipeline.py tests/contracts/test_pipeline_again.py tests/test_dag.py tests/test_dag_hub.py tests/test_dag_kills.py

soak: $(VENV)/.made-dev  ## the long forms: minutes to hours
	@$(BIN)/python -m pytest -m slow

bench: $(VENV)/.made-dev  ## figures for docs/benchmarks.md
	@$(BIN)/python bench/overhead.py; $(BIN)/python bench/metrics.py; $(BIN)/python bench/supervisor.py
	@$(BIN)/python bench/workspace.py; $(BIN)/python bench/sandbox.py; $(BIN)/python bench/brief.py; $(BIN)/python bench/dag.py; $(BIN)/python bench/hub.py; $(BIN)/python bench/stores.py; $(BIN)/python bench/relay.py; $(BIN)/python bench/verifying.py; $(BIN)/python bench/agents.py; $(BIN)/python bench/deciding/run.py --tiers sim,early

docs: $(VENV)/.made  ## the reference pages, from the program's own tables
	@$(BIN)/python -m overnight.cli.reference docs

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
