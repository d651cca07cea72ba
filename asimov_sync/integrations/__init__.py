"""Connections to other engines. Each module needs an extra, and is imported by its full name."""
