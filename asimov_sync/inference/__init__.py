"""Inference clients: one contract, one file a provider, and what they share."""
