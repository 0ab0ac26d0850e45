"""The library's own tables, release by release: a migration of each service calls one, as `r0001.upgrade()`."""
