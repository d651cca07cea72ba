"""The cache: one contract, kept in this process's memory or on a Redis server."""
