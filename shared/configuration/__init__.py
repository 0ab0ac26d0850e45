"""Where settings come from, and how a command is spelled in messages."""
