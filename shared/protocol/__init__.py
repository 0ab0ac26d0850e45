"""The order of the commits, and the two ports behind it. No clock, no client, no SQL."""
