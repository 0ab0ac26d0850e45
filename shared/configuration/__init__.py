"""The sources of settings, and the spelling of commands in messages."""
