"""Concurrency: fork safety, timers, worker pools, an interruptible event, fan-out, and scopes."""
