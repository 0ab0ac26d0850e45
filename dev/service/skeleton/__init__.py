"""The skeleton of a service; see `dev.service`."""
