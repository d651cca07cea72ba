"""Agents: a client, a system prompt and tools, as one thing that can be asked, or be a task's handler."""

from asimov_sync.agents.agent import Agent

__all__ = ["Agent"]
