"""The services. None imports another; each has its own database and its own migrations."""

import shared.lean  # noqa: F401 - before any container imports what it keeps out
