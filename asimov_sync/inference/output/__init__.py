"""Structured output: replies that are instances of a pydantic model."""
