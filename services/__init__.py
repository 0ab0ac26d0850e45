"""The services. None imports another; each has its own database and its own migrations."""
