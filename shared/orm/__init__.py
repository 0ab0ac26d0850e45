"""What the session does with rows: it holds locks, orders a flush, and writes many rows at once."""
