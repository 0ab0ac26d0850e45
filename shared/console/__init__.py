"""The console: one page over all services, in a process of its own."""
