"""The PostgreSQL port: one transaction with inbox, outbox, positions and dead letters."""
