"""A hostile producer: whoever may write to a topic, and sends what no client of ours would."""
