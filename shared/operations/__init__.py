"""The operator's commands: what the two systems say, and what is decided where they disagree. See docs/operating.md."""
