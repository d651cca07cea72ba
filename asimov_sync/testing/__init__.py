"""For tests, examples and users without a key: a scripted client, and a server that speaks the providers' wires."""

from asimov_sync.testing.script import Failure, Fault, calls, last_text, tool_results
from asimov_sync.testing.scripted import ScriptedInferenceClient
from asimov_sync.testing.served import ServedRequest
from asimov_sync.testing.server import ModelServer

__all__ = [
    "Failure",
    "Fault",
    "ModelServer",
    "ScriptedInferenceClient",
    "ServedRequest",
    "calls",
    "last_text",
    "tool_results",
]
