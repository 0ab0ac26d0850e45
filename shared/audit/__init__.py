"""The command `audit`: compares the database with the topics."""
