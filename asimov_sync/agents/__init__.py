"""Agents and routers: a client with a system prompt and tools, and a model that chooses tasks."""

from asimov_sync.agents.agent import Agent
from asimov_sync.agents.model_router import Choice, Decision, ModelRouter

__all__ = ["Agent", "Choice", "Decision", "ModelRouter"]
