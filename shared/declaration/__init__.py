"""What a handler declares by the types of its parameters, read when its service is imported."""
