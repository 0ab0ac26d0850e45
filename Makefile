# Everything here works on a machine that has only Python >= 3.11 and make. `make` alone prints what there is.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/ready
PACKAGES := $(wildcard shared services dev tests)
LINTED := $(PACKAGES) $(wildcard migrations)

# One option per variable that was given, so that the defaults live in one place: the program.
option = $(if $($(1)),--$(2) $($(1)))

# Runs a program from the index without installing it here: few need these, and they are large.
uvx = index=$$($(RUN) -m pip config get global.index-url 2>/dev/null); \
	UV_SYSTEM_CERTS=1 UV_DEFAULT_INDEX=$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$index}} $(VENV)/bin/uv tool run

.PHONY: help test check fix browser unit integration dev servers servers-down lock clean
.PHONY: service service-remove wheel
.PHONY: check-manifests audit-dependencies docs
.PHONY: up logs down compose-test .env

# A Kafka is always part of it; other profiles come on top.
comma := ,
traces = $(if $(findstring observe,$(PROFILES)),otlp,none)
profiles = $(if $(findstring cluster,$(PROFILES)),$(PROFILES),single$(if $(PROFILES),$(comma)$(PROFILES)))

help:  ## print this list (the default)
	@awk 'BEGIN {FS = ":.*## "} \
		/^[a-z0-9-]+:.*## / {line = sprintf("  make %-18s %s\n", $$1, $$2); if (/^without/) last = last line; else printf "%s", line} \
		END {printf "%s", last}' $(wildcard dev/demo.mk) Makefile $(wildcard dev/proof.mk)

# The targets of what a copy may leave behind: `make without-demo` and `make without-proof` delete the files.
include $(wildcard dev/demo.mk dev/proof.mk)

up: .env  ## start everything in docker compose, and wait until it is ready (PROFILES=cluster,ui,observe: any of them)
	@docker compose version >/dev/null || { echo "This needs Docker with its compose plugin." >&2; exit 1; }
	@umask 077 && { grep -Ev '^(COMPOSE_PROFILES|TRACES)=' .env; echo COMPOSE_PROFILES=$(profiles); echo TRACES=$(traces); } >.env.new && \
		mv .env.new .env
	TRACES=$(traces) COMPOSE_PROFILES=$(profiles) docker compose up --build --wait
	@echo "The console: http://$$(docker compose port console 8000)/  Its token: sed -n 's/^API_TOKEN=//p' .env"

logs:  ## show what the containers write (ARGS= goes to docker compose logs, such as --follow order-worker)
	@docker compose logs $(ARGS)

down:  ## stop and remove the containers; data and passwords stay (VOLUMES=1 removes the data too)
	docker compose --profile '*' down --remove-orphans $(if $(VOLUMES),--volumes)

# docker compose reads it. What is there already stays; who may read it reads the passwords.
.PHONY: .env
.env:
	@umask 077 && touch $@ && put() { grep -q "^$$1=" $@ || printf '\n%s=%s\n' "$$1" "$$2" >>$@; }; \
	random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }; \
	for name in POSTGRES_PASSWORD DATABASE_PASSWORD MIGRATION_PASSWORD API_TOKEN; do put $$name $$(random); done; \
	put API_TOKEN_SHA256 $$(sed -n 's/^API_TOKEN=//p' $@ | tr -d '\n' | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c1-64); \
	put COMPOSE_PROFILES single

# Tests wait more than they compute: on two cores, eight processes side by side. Those of tests/e2e take all there is.
# pytest ends with 5 where nothing is chosen.
BESIDE ?= 8
report = $(if $(JUNIT),--junitxml=$(JUNIT)/$(1).xml)
define tests
	@$(RUN) -m dev.servers fetch  # here rather than in the first test: it can be seen, and no test waits for it
	@# What one process of them has compiled, all the others use.
	@export PYTHONDONTWRITEBYTECODE=; result=0; run() { $(RUN) -m pytest -m "$(2)" "$$@" $(ARGS) || [ $$? -eq 5 ] || result=1; }; \
	run --ignore=tests/e2e --numprocesses=$(BESIDE) $(call report,$(1)); \
	$(if $(wildcard tests/e2e),run tests/e2e $(call report,$(1)-e2e);) exit $$result
endef

test: check  ## all checks, all parts on real servers, some faults of each kind: ten minutes (ARGS= goes to pytest; JUNIT= a folder)
	$(call tests,test,not proof)

check: $(READY)  ## lint, format, types and import contracts; changes nothing
	$(VENV)/bin/ruff check $(LINTED)
	$(VENV)/bin/ruff format --check $(LINTED)
	$(VENV)/bin/mypy $(PACKAGES)
	$(VENV)/bin/lint-imports

fix: $(READY)  ## format, and repair what the linter can repair
	$(VENV)/bin/ruff check --fix-only $(LINTED)
	$(VENV)/bin/ruff format $(LINTED)

browser:  ## install the Chromium that the tests of the console drive: Debian's (as root)
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit; done; \
	[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || \
		{ echo "This installs Debian's Chromium, as root. Elsewhere, install chromium or google-chrome your own way." >&2; exit 1; }; \
	apt-get update --quiet && apt-get install --yes --quiet --no-install-recommends chromium fonts-dejavu-core fonts-inter

unit: $(READY)  ## tests that need no Kafka; those of handlers start a PostgreSQL
	$(RUN) -m pytest $(wildcard tests/unit tests/simulation) $(ARGS)

integration: $(READY)  ## tests of single parts against the real servers, and all faults
	$(RUN) -m pytest --numprocesses=$(BESIDE) $(wildcard tests/dev tests/contract tests/integration tests/faults) $(ARGS)

compose-test: $(READY)  ## tests of the image and of docker compose; they need docker, and `test` leaves them out
	$(RUN) -m pytest tests/compose $(ARGS)

servers: $(READY)  ## start Kafka and PostgreSQL in the background, with topics and tables; writes .env.local
	@$(RUN) -m dev.servers up $(call option,KAFKA_PORT,kafka-port) $(call option,POSTGRES_PORT,postgres-port)

dev: $(READY)  ## work on the services: servers, all processes, one log, restarts on change (PORT=; SERVICE= DEBUG=1 for a breakpoint)
	@$(RUN) -m dev.develop $(call option,PORT,port) $(call option,KAFKA_PORT,kafka-port) \
		$(call option,POSTGRES_PORT,postgres-port) $(call option,SERVICE,service) $(if $(DEBUG),--debug)

servers-down: $(READY)  ## stop them and remove their data
	@$(RUN) -m dev.servers down

service: $(READY)  ## a new service: NAME=shipping FROM= another one, whose first event it consumes (CONSUMES= for another one)
	$(if $(HEARS),$(error HEARS is now called CONSUMES))@$(RUN) -m dev.service new "$(NAME)" --from "$(FROM)" $(call option,CONSUMES,consumes)

service-remove: $(READY)  ## take a service away again: NAME= (FORCE=1 also if git has not got it)
	@$(RUN) -m dev.service remove "$(NAME)" $(if $(FORCE),--force)

check-manifests: $(READY)  ## compare docs/kubernetes.yaml with the schemas of Kubernetes
	@$(uvx) --quiet --from kubernetes-validate==1.37.0 kubernetes-validate --strict -k 1.34 docs/kubernetes.yaml

# Zensical succeeds Material for MkDocs, whose support ended in November 2026. Later versions need a package that not
# every index has yet.
docs: $(READY)  ## build the site of docs/ into .site/html; a link that leads nowhere fails
	@$(RUN) -m dev.site
	@$(uvx) --quiet --from zensical==0.0.73 --with mkdocstrings-python==2.0.11 \
		zensical build --strict --config-file .site/zensical.toml
	@echo "The site is in .site/html; read it with: python -m http.server --directory .site/html"

audit-dependencies: $(READY)  ## ask PyPI's advisories about everything in requirements.lock; fails if it cannot
	@$(uvx) --quiet pip-audit==2.10.1 --strict --disable-pip --require-hashes -r requirements.lock

DIST ?= .dist
wheel: $(READY)  ## build the library as a wheel, to be installed instead of copied (DIST= a folder; docs/installing.md)
	@cd shared && $(abspath $(RUN)) -m hatchling build --target wheel --directory $(abspath $(DIST))

lock: $(READY)  ## resolve both pyproject.toml again into requirements.lock (UPGRADE=1 for the newest versions)
	$(VENV)/bin/uv pip compile $(wildcard pyproject.toml shared/pyproject.toml) --all-extras --group dev \
		--universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade) --quiet --output-file requirements.lock

clean: ## remove the environment and every cache inside the repository
	rm -rf $(VENV) .dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. pip installs uv (pinned by the same lock), which installs the rest in a fifth of the time that pip takes;
# where uv cannot (a platform without its wheel, an index that only pip knows), pip does it. Both check every hash.
# uv is told what pip was told: the index of pip.conf, and the certificates that the system trusts.
$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ found=$$($(PYTHON) --version 2>/dev/null) || found="not there"; \
		echo "This needs Python 3.11 or newer, and '$(PYTHON)' is $$found. Try: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(RUN) -m pip --version >/dev/null 2>&1 || { echo "Making $(VENV) ..."; $(PYTHON) -m venv --clear $(VENV); } || \
		{ echo "Python's venv module does not work here. Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@awk '/^uv==/ {found = 1} found {print} found && !/\\$$/ {exit}' requirements.lock >$(VENV)/uv.lock
	@echo "Installing what requirements.lock lists ..."
	@{ $(RUN) -m pip install --disable-pip-version-check --quiet --require-hashes -r $(VENV)/uv.lock && \
		index=$$($(RUN) -m pip config get global.index-url 2>/dev/null); \
		VIRTUAL_ENV=$(VENV) UV_SYSTEM_CERTS=1 UV_DEFAULT_INDEX=$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$index}} \
		$(VENV)/bin/uv pip sync --quiet --require-hashes requirements.lock; } || \
		{ echo "uv could not; trying pip ..."; \
		$(RUN) -m pip install --disable-pip-version-check --quiet --require-hashes -r requirements.lock; }
	@touch $@
