"""Structured output: replies that are validated against a pydantic model."""
