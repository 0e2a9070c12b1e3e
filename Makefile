# Two commands do all the set-up:  make demo   and   make test
VENV   ?= .venv
PYTHON ?= python3
# The system's certificates: labs often sit behind a proxy with a certificate of its own.
UV      = UV_PROJECT_ENVIRONMENT=$(VENV) UV_SYSTEM_CERTS=1 $(VENV)/bin/uv
TASK   ?= pick_cube
OBS    ?=
ARGS   ?=
BUILDER ?= docker build

.PHONY: demo test lint format images clean

demo: $(VENV)/.ready
	$(VENV)/bin/serl demo --task $(TASK) $(if $(OBS),--obs $(OBS)) $(ARGS)

test: $(VENV)/.ready
	$(VENV)/bin/python -m pytest $(ARGS)

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright

format: $(VENV)/.ready
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# One environment for everything; uv.lock fixes every version. Offline once it is made.
$(VENV)/.ready: pyproject.toml uv.lock .ci/bootstrap.py
	$(PYTHON) .ci/bootstrap.py $(VENV)
	$(UV) sync --quiet --frozen --inexact --extra learner --extra sim --extra dashboard --extra dev
	touch $@

# Containers for the robot's computer and the workstation: docker/README.md
images:
	$(BUILDER) -f docker/Dockerfile -t serl-robot .
	$(BUILDER) -f docker/Dockerfile -t serl-learner --build-arg EXTRAS="learner hardware" .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
