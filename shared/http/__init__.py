"""The HTTP side of a service: the same answers, limits and keys for every API. A worker imports nothing of it."""
