# The targets of the proof: what shows that the library does what it says.

.PHONY: proof faults fuzz pooler-test alerts-test without-proof

proof: $(READY)  ## the rest: all cells of all faults, storms, upgrades, new services: half an hour (takes what test takes)
	$(call tests,proof,proof)

faults: $(READY)  ## break the real thing and check the books (SCENARIO= RUNS= SEED=; PUBLISH=1 adds to docs/proof.md)
	@$(RUN) -m tests.faults $(call option,SCENARIO,scenario) $(call option,RUNS,runs) $(call option,SEED,seed) \
		$(if $(PUBLISH),--publish)

fuzz: $(READY)  ## records of every shape through a real worker (RECORDS= SEED=)
	@$(RUN) -m tests.faults.fuzzing $(call option,RECORDS,records) $(call option,SEED,seed)

alerts-test: $(READY)  ## see the alerts fire at the metrics of real workers, and the dashboard answered; where Prometheus is not installed, Debian's is downloaded
	@set -e; path=$$PATH; \
	if ! { command -v promtool && command -v prometheus; } >/dev/null; then \
		place=$$(mktemp -d); trap 'rm -rf "$$place"' EXIT; trap 'exit 130' INT TERM; chmod a+rx "$$place"; \
		(cd "$$place" && apt-get download --quiet prometheus && for package in *.deb; do dpkg -x "$$package" .; done); \
		path=$$path:$$place/usr/bin; \
	fi; \
	PATH=$$path $(RUN) -m pytest tests/unit/repository/test_alerts.py tests/integration/worker/test_observer.py \
		tests/integration/worker/test_brokers.py tests/integration/worker/test_prometheus.py \
		tests/integration/worker/test_paused.py::test_what_is_being_handled_is_finished_and_nothing_more \
		tests/integration/calls/test_caller.py::test_a_call_at_which_the_services_own_code_fails_is_an_alarm \
		$(wildcard tests/e2e/test_dashboard.py) $(ARGS)

ifneq ($(wildcard tests/integration/postgres/test_pooler.py),)  # behind it are services of the demo
pooler-test: $(READY)  ## tests behind PgBouncer; where it is not installed, Debian's is downloaded for them (ARGS= goes to pytest)
	@set -e; path=$$PATH libraries=$$LD_LIBRARY_PATH; \
	if ! command -v pgbouncer >/dev/null; then \
		place=$$(mktemp -d); trap 'rm -rf "$$place"' EXIT; trap 'exit 130' INT TERM; chmod a+rx "$$place"; \
		libraries=$$(apt-cache depends pgbouncer | sed -n 's/^ *Depends: \(lib.*\)/\1/p'); \
		needed=$$(for name in $$libraries; do dpkg -s "$$name" >/dev/null 2>&1 || echo "$$name"; done); \
		(cd "$$place" && apt-get download --quiet pgbouncer $$needed && for package in *.deb; do dpkg -x "$$package" .; done); \
		path=$$path:$$place/usr/sbin libraries=$$(echo "$$place"/usr/lib/*-linux-gnu*); \
	fi; \
	PATH=$$path LD_LIBRARY_PATH=$$libraries $(RUN) -m pytest tests/integration/postgres/test_pooler.py $(ARGS)
endif

without-proof: $(READY)  ## delete what proves the library, and the library's own tests; asks first (FORCE=1: does not)
	@$(RUN) -m dev.without proof $(if $(FORCE),--force)
