"""The operator's commands: show both systems' state, and decide where they disagree. See docs/operating.md."""
