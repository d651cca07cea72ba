"""For tests, examples and users without a key: a scripted client, and a server that speaks a provider's wire."""

from asimov_sync.testing.script import Failure, calls, last_text, tool_results
from asimov_sync.testing.scripted import ScriptedInferenceClient
from asimov_sync.testing.server import ModelServer, ServedRequest

__all__ = [
    "Failure",
    "ModelServer",
    "ScriptedInferenceClient",
    "ServedRequest",
    "calls",
    "last_text",
    "tool_results",
]
