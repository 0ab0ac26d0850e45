"""Spans of OpenTelemetry around the two ports, requests and calls. None of it is imported while traces are off."""
