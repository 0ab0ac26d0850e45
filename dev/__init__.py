"""For people who work on this repository: embedded servers, demo, benchmarks. Never part of an image."""
