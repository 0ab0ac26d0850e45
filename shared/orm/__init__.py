"""The session's work with rows: hold locks, order a flush, and write many rows at once."""
