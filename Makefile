# Tidings: `make run` starts a server, `make test` runs the tests, `make help` lists the rest.

PYTHON ?= python3
UV ?= .cache/uv/bin/uv
# `make lock UPGRADE=1` takes the newest versions; without it, only what must change does.
UPGRADE ?=

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

BIN := .venv/bin
STAMP := .venv/.installed
NODE_TESTS := tests/js/node_modules/.installed
PEERS := bench/peers/node_modules/.installed

WEB := server/tidings/static/index.html
WEB_PACKAGES := web/node_modules/.installed
# With the directories, so that a file that is gone counts as a change.
# The page is built on the library's source.
WEB_SOURCES := $(wildcard client_demo/tidings_chat/locale/*.po) web/index.html web/package.json web/tsconfig.json web/vite.config.ts \
	$(filter-out %/contract.gen.ts,$(shell find web/src web/public clients/javascript/src))

CLIENT := clients/javascript/dist/node.js
CLIENT_PACKAGES := clients/javascript/node_modules/.installed
CLIENT_SOURCES := $(addprefix clients/javascript/,package.json tsconfig.json tsconfig.build.json vite.config.ts) \
	$(filter-out %/contract.gen.ts,$(shell find clients/javascript/src))

# The machine's Node.js if Vite takes it and it has npm, otherwise the one that comes with the dev dependencies.
RECENT = [a, b] = process.versions.node.split('.'); process.exit(a > 22 || a == 22 && b > 11 || a == 20 && b > 18 ? 0 : 1)
NODE_OK = node -e "$(RECENT)" 2>/dev/null && command -v npm >/dev/null
WITH_NODE = if ! { $(NODE_OK); }; then PATH="$(CURDIR)/$(BIN):$$PATH"; export PATH; fi;

.PHONY: help
help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## Make .venv with the locked dependencies and the project, editable

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed; name one with: make setup PYTHON=..." >&2; exit 1; }
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(NODE_TESTS): tests/js/package-lock.json tests/js/package.json $(STAMP)
	@echo npm ci --prefix tests/js; $(WITH_NODE) npm ci --prefix tests/js --no-audit --no-fund --ignore-scripts
	@touch $@

$(WEB_PACKAGES): web/package-lock.json web/package.json | $(STAMP)
	@echo npm ci --prefix web; $(WITH_NODE) npm ci --prefix web --no-audit --no-fund --ignore-scripts
	@touch $@

.PHONY: web
web: $(WEB) ## Build the page, into server/tidings/static

$(WEB): $(WEB_SOURCES) $(WEB_PACKAGES)
	@echo npm run build --prefix web; $(WITH_NODE) npm run build --prefix web

$(CLIENT_PACKAGES): clients/javascript/package-lock.json clients/javascript/package.json | $(STAMP)
	@echo npm ci --prefix clients/javascript; $(WITH_NODE) npm ci --prefix clients/javascript --no-audit --no-fund --ignore-scripts
	@touch $@

.PHONY: client
client: $(CLIENT) ## Build the JavaScript client library, into clients/javascript/dist

$(CLIENT): $(CLIENT_SOURCES) $(CLIENT_PACKAGES)
	@echo npm run build --prefix clients/javascript; $(WITH_NODE) npm run build --prefix clients/javascript

.PHONY: run
run: $(STAMP) $(WEB) ## Start a server on http://127.0.0.1:8000
	$(BIN)/tidings serve

.PHONY: cluster
cluster: $(STAMP) $(WEB) ## Start two servers behind a load balancer, with a PostgreSQL and a Redis of their own
	@exec $(BIN)/python -m tests.cluster $(ARGS)

.PHONY: test
test: run-tests ## Run the tests that every change should pass, in some minutes

.PHONY: test-all
test-all: SUITE := --all
test-all: run-tests ## Run these and the long ones, as CI does

.PHONY: run-tests
run-tests: $(STAMP) $(NODE_TESTS) $(PEERS) $(WEB) $(CLIENT)
	@$(WITH_NODE) $(BIN)/python -m tests.suite $(SUITE) $(ARGS)

# The peers run on the Node.js of the dev dependencies, not on the machine's: so all measure the same one.
$(PEERS): bench/peers/package-lock.json bench/peers/package.json $(STAMP)
	@echo npm ci --prefix bench/peers; PATH="$(CURDIR)/$(BIN):$$PATH" npm ci --prefix bench/peers --no-audit --no-fund --ignore-scripts
	@touch $@

.PHONY: bench
bench: $(STAMP) $(PEERS) ## Measure the server beside others (ARGS="--only fanout-4 --rounds 1")
	$(BIN)/python -m bench $(ARGS)

.PHONY: check
check: $(STAMP) $(WEB_PACKAGES) $(CLIENT_PACKAGES) ## Lint, check the formatting, the types and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py
	@echo $(BIN)/python -m docs.catalogue --check; $(WITH_NODE) $(BIN)/python -m docs.catalogue --check
	@echo npm run check --prefix web; $(WITH_NODE) npm run check --prefix web
	@echo npm run check --prefix clients/javascript; $(WITH_NODE) npm run check --prefix clients/javascript

.PHONY: fmt
fmt: $(STAMP) $(WEB_PACKAGES) $(CLIENT_PACKAGES) ## Format, and mend what the linter can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	@echo npm run fmt --prefix web; $(WITH_NODE) npm run fmt --prefix web
	@echo npm run fmt --prefix clients/javascript; $(WITH_NODE) npm run fmt --prefix clients/javascript

.PHONY: docs
docs: $(STAMP) ## Make the generated parts of the documents again
	$(BIN)/python -m docs.generate
	$(BIN)/python -m docs.python_client

.PHONY: catalogue
catalogue: $(STAMP) $(WEB_PACKAGES) ## Bring the catalogues of translations up to date with the texts
	@$(WITH_NODE) $(BIN)/python -m docs.catalogue

.PHONY: screenshots
screenshots: $(WEB) ## Make the pictures of the web client again, in docs/
	@echo npm run screenshots --prefix web; $(WITH_NODE) npm run screenshots --prefix web

.PHONY: postman
postman: $(STAMP) $(NODE_TESTS) ## Make a Postman collection of the HTTP routes, in build/
	@$(WITH_NODE) $(BIN)/python -m docs.postman

.PHONY: lock
lock: $(UV) ## Make the lock files again (UPGRADE=1: with the newest versions)
	$(LOCK) --all-extras --output-file requirements.lock pyproject.toml
	$(LOCK) --constraints requirements.lock --no-annotate --output-file requirements-runtime.lock pyproject.toml
	printf 'hatchling\nnodejs-wheel\n' | $(LOCK) --constraints requirements.lock --no-annotate --output-file requirements-build.lock -

LOCK = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)

.cache/uv/bin/uv:
	$(PYTHON) -m venv --clear .cache/uv
	.cache/uv/bin/python -m pip install --quiet --disable-pip-version-check uv

.PHONY: clean
clean: ## Remove what the other targets made (never the data directory)
	rm -rf .venv .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist server/tidings/static
	rm -rf tests/js/node_modules bench/peers/node_modules web/node_modules
	rm -rf clients/javascript/node_modules clients/javascript/dist
	find server db client_demo clients tests bench examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
