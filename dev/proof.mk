# The targets of the proof: what shows that the library does what it says.

.PHONY: faults fuzz without-proof

faults: $(READY)  ## break the real thing and check the books (SCENARIO= RUNS= SEED=; PUBLISH=1 adds to docs/proof.md)
	@$(RUN) -m tests.faults $(call option,SCENARIO,scenario) $(call option,RUNS,runs) $(call option,SEED,seed) \
		$(if $(PUBLISH),--publish)

fuzz: $(READY)  ## records of every shape through a real worker (RECORDS= SEED=)
	@$(RUN) -m tests.faults.fuzzing $(call option,RECORDS,records) $(call option,SEED,seed)

without-proof: $(READY)  ## delete what proves the library, and the library's own tests; asks first (FORCE=1: does not)
	@$(RUN) -m dev.without proof $(if $(FORCE),--force)
