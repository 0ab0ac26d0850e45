"""The declarations in the types of a handler's parameters, read when its service is imported."""
