"""The order of the commits, and the two ports it works through. No clock, no client, no SQL."""
