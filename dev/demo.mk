# The targets of the demo.

.PHONY: demo demo-compose e2e bench without-demo

demo: $(READY)  ## orders flow while workers are killed; ends with the balance sheet (ORDERS= SECONDS= KILLS= FREEZES= SEED=; HOSTILE=1; PICTURE=file.svg)
	@$(RUN) -m dev.demo $(call option,ORDERS,orders) $(call option,SECONDS,seconds) $(call option,KILLS,kills) \
		$(call option,FREEZES,freezes) $(call option,SEED,seed) $(if $(HOSTILE),--hostile) $(call option,PICTURE,picture)

demo-compose: $(READY)  ## the demo in docker compose, where a broker and PostgreSQL are killed too (takes what demo takes)
	@$(RUN) -m dev.demo --compose $(call option,ORDERS,orders) $(call option,SECONDS,seconds) $(call option,KILLS,kills) \
		$(call option,FREEZES,freezes) $(call option,SEED,seed)

e2e: $(READY)  ## tests of the whole system in its own processes
	$(RUN) -m pytest $(wildcard tests/e2e) $(ARGS)

bench: $(READY)  ## measure throughput and latency (ARGS= goes to the benchmark)
	@$(RUN) -m dev.bench $(ARGS)

without-demo: $(READY)  ## delete order, inventory, payment and everything about them; asks first (FORCE=1: does not)
	@$(RUN) -m dev.without demo $(if $(FORCE),--force)
