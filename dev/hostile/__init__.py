"""A hostile producer: it may write to a topic, and sends what no client of this library would."""
