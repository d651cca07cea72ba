"""Anthropic: its client, and the wire of the Messages API."""
