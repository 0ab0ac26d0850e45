"""exactly-once: the library under the services.

Read the modules in the order of a record's way: `events`, `consumer`, `positions`, `inbox`, `handling`, `outbox`,
`producer`, and then `cycle`, the one file that knows the order of the commits.
"""
