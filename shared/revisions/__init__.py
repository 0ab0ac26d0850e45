"""The library's own tables, release by release: a migration of each service calls one, as `r0001.upgrade()`."""

from . import r0001, r0002, r0003, r0004

__all__ = ["r0001", "r0002", "r0003", "r0004"]
