"""Agents: a client, a system prompt and tools, as one thing that can be asked, or handle tasks; and models that route."""

from asimov_sync.agents.agent import Agent
from asimov_sync.agents.model_router import Choice, Decision, ModelRouter

__all__ = ["Agent", "Choice", "Decision", "ModelRouter"]
