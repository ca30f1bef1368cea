# Every target explains itself: `make help`. Variables a user may set: ARGS (passed on), PYTHON (3.11 or newer).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
BIN := .venv/bin
ARGS ?=
# Processes of `make test`; 0 runs the tests one after another.
JOBS ?= 2
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
PROTOS = $(shell find protos/kubegate -name '*.proto' | LC_ALL=C sort)
TMP = $(shell mktemp -d)

##@ Use

.PHONY: setup
setup: .venv/.installed  ## create or refresh .venv from requirements.lock (every extra, dev included)

.PHONY: run
run: setup  ## start the whole stack with an embedded cluster; ARGS='--port 9443 --kubeconfig FILE ...' go to `kubegate up`
	@exec $(BIN)/kubegate up $(ARGS)

.PHONY: help
help:  ## this list
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

##@ Test

.PHONY: test
test: setup  ## unit, contract and end-to-end tests (< 12 min on 2 cores); ARGS='-k name' narrows
	@$(BIN)/pytest -m 'not long' --numprocesses $(JOBS) --dist loadfile $(ARGS)

.PHONY: test-cluster
test-cluster: setup  ## the tools against your cluster: KUBECONFIG=FILE of an administrator; makes and removes its own namespaces
	@[ -n "$${KUBECONFIG:-}" ] || { echo "test-cluster: say which: make test-cluster KUBECONFIG=/path/to/kubeconfig"; exit 2; }
	@KUBEGATE_TEST_KUBECONFIG="$$(realpath "$$KUBECONFIG")" $(BIN)/pytest tests/cluster $(ARGS)

.PHONY: test-long
test-long: setup  ## what takes minutes: a fresh copy of the tree set up and run, the stack in containers, upgrades under load (< 45 min)
	@$(BIN)/pytest -m long $(ARGS)

.PHONY: compose-test
compose-test: setup  ## docker-compose.yml on an engine of its own, from Debian's packages alone (root; < 10 min); part of test-long
	@$(BIN)/pytest tests/compose $(ARGS)

.PHONY: check
check: check-style check-types check-walls check-protos check-locks  ## everything that judges the source without running it

.PHONY: check-style
check-style: setup  ## ruff: rules and format
	@$(BIN)/ruff check --quiet . || { echo "ruff: 'make fmt' fixes what can be fixed"; exit 1; }
	@$(BIN)/ruff format --quiet --check . || { $(BIN)/ruff format --check . ; echo "ruff: run 'make fmt'"; exit 1; }
	@echo "check: style ok"

.PHONY: check-types
check-types: setup  ## mypy --strict
	@$(BIN)/mypy --no-error-summary
	@echo "check: types ok"

.PHONY: check-walls
check-walls: setup  ## import-linter: who may import whom ([tool.importlinter] in pyproject.toml)
	@out=$$($(BIN)/lint-imports --no-cache 2>&1) || { echo "$$out"; exit 1; }
	@echo "check: walls ok"

.PHONY: check-protos
check-protos: setup  ## buf lint, format and breaking; protos/gen is what the protos give
	@$(BIN)/buf lint
	@$(BIN)/buf format --diff --exit-code || { echo "buf: run 'make fmt'"; exit 1; }
	@$(BIN)/buf breaking --against protos/image.binpb || { echo "buf: the contract is published; \
	add instead of changing. A break on purpose needs a CHANGELOG line under \"Breaking\" and 'make protos-image'"; exit 1; }
	@fresh=$(TMP); trap 'rm -rf "$$fresh"' EXIT; $(MAKE) --silent GEN="$$fresh" protos-into; \
	  diff -r --exclude=__pycache__ "$$fresh" protos/gen >/dev/null || { echo "protos/gen is stale: run 'make protos'"; exit 1; }
	@echo "check: protos ok"

.PHONY: check-locks
check-locks: setup  ## the lock files say what pyproject.toml asks for
	@fresh=$(TMP); trap 'rm -rf "$$fresh"' EXIT; cp --parents requirements.lock deploy/locks/*.lock "$$fresh"; \
	  $(MAKE) --silent LOCKS="$$fresh/" lock-into; \
	  for f in requirements.lock deploy/locks/*.lock; do \
	    diff "$$f" "$$fresh/$$f" >/dev/null || { echo "$$f is stale: run 'make lock'"; exit 1; }; done
	@echo "check: locks ok"

##@ Measure

.PHONY: bench
bench: setup  ## tools/call list_pods with everything on, c = 1, 8, 32; start and RSS; table, and JSON in bench/out (< 5 min)
	@$(BIN)/python -m bench.run $(ARGS)

.PHONY: bench-tools
bench-tools: setup  ## list_pods beside kubernetes-mcp-server where installed (PEER=path), requests to the cluster, 5,000 pods (< 5 min)
	@$(BIN)/python -m bench.tools $(if $(PEER),--peer $(PEER)) $(ARGS)

.PHONY: bench-edge
bench-edge: setup  ## tools/list, a trivial call and a denied one, over MCP and REST, c = 1, 8, 32; the SDK's share; table and JSON (< 5 min)
	@$(BIN)/python -m bench.edge $(ARGS)

.PHONY: bench-authz
bench-authz: setup  ## decisions in process and over mTLS with 10, 1,000 and 10,000 roles; table, and JSON in bench/out (< 5 min)
	@$(BIN)/python -m bench.authz $(ARGS)

.PHONY: bench-authn
bench-authn: setup  ## Authenticate for key, JWT and cached; client-credential grants: table, and JSON in bench/out (< 5 min)
	@$(BIN)/python -m bench.authn $(ARGS)

.PHONY: bench-audit
bench-audit: setup  ## durable events a second over mTLS, with 10^4 and 10^6 stored, and queries; table and JSON (< 5 min)
	@$(BIN)/python -m bench.audit $(ARGS)

.PHONY: bench-telemetry
bench-telemetry: setup  ## CPU a request with metrics and traces on and off, in turns; table, and JSON in bench/out (< 5 min)
	@$(BIN)/python -m bench.telemetry $(ARGS)

.PHONY: soak
soak: setup  ## an hour's load with memory watched, then `audit verify`; 1,000 kills of audit; audit with 10^7 events; ARGS='--seconds 600' shortens the first
	@$(BIN)/python -m bench.soak $(ARGS)
	@$(BIN)/python -m tests.fakes.crash_rounds --rounds 1000
	@$(BIN)/python -m bench.audit --stored 10000 10000000 --out bench/out/audit-soak.json

##@ Change

.PHONY: fmt
fmt: setup  ## format and fix what can be fixed
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format --quiet .
	@$(BIN)/buf format --write

.PHONY: protos
protos: setup  ## regenerate protos/gen from protos/kubegate
	@rm -rf protos/gen.new && $(MAKE) GEN=protos/gen.new protos-into && rm -rf protos/gen && mv protos/gen.new protos/gen

.PHONY: protos-image
protos-image: setup  ## publish the contract: what `buf breaking` compares with from now on
	@$(BIN)/buf build --exclude-source-info --output protos/image.binpb

.PHONY: dashboards
dashboards: setup  ## regenerate deploy/grafana/dashboards from deploy/grafana/generate.py
	@$(BIN)/python deploy/grafana/generate.py

.PHONY: lock
lock: setup  ## bring requirements.lock and deploy/locks in line with pyproject.toml, keeping pins; ARGS=--upgrade renews
	@$(MAKE) --silent LOCKS= lock-into

# --- behind the targets above ---

.venv/.installed: requirements.lock pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "setup: no Python 3.11 or newer found; install one or say 'make $(MAKECMDGOALS) PYTHON=/path/to/python3.11'"; exit 2; }
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { rm -rf .venv; \
	  $(PYTHON) -m venv .venv >/dev/null 2>&1 || { rm -rf .venv; \
	    echo "setup: $(PYTHON) cannot create a virtual environment; on Debian: apt-get install python3-venv"; exit 2; }; }
	@echo "setup: installing $$(grep -c '^[a-z].*==' requirements.lock) locked packages into .venv (a minute or two the first time)"
	@$(PIP) install --require-hashes --no-deps -r requirements.lock
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

.PHONY: protos-into
protos-into:
	@mkdir -p $(GEN)
	@$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=$(GEN) --grpc_python_out=$(GEN) \
	  --mypy_out=quiet:$(GEN) --mypy_grpc_out=quiet:$(GEN) \
	  --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
	  --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc $(PROTOS)

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --custom-compile-command 'make lock' $(ARGS) pyproject.toml
.PHONY: lock-into
lock-into:
	@$(COMPILE) --extra dev -o $(LOCKS)requirements.lock
	@mkdir -p $(LOCKS)deploy/locks
	@for extra in authn authz audit mcp-core dev-cluster cli; do \
	  $(COMPILE) --no-annotate --extra $$extra --constraints $(LOCKS)requirements.lock \
	    -o $(LOCKS)deploy/locks/$$extra.lock; done
	@printf 'hatchling\nuv\n' | $(COMPILE:pyproject.toml=-) --no-annotate --constraints $(LOCKS)requirements.lock \
	  -o $(LOCKS)deploy/locks/build.lock
