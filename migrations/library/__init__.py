"""Where the library's revisions were at first, for migrations of services that import them from here."""

from shared.revisions import r0001, r0002, r0003, r0004, r0005, r0006, r0007, r0008

__all__ = ["r0001", "r0002", "r0003", "r0004", "r0005", "r0006", "r0007", "r0008"]
