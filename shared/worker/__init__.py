"""The worker process: main loop, recovery, stops, health."""
