"""Tools for tests: a scripted client, a server that speaks the providers' APIs, and a clock."""

from asimov_sync.testing.clock import Clock
from asimov_sync.testing.request_log import ServedRequest
from asimov_sync.testing.script import (
    Answer,
    Answers,
    Failure,
    Fault,
    calls,
    last_text,
    tool_results,
)
from asimov_sync.testing.scripted_client import ScriptedInferenceClient
from asimov_sync.testing.server import ModelServer
from asimov_sync.testing.writer import BeforeEvent

__all__ = [
    "Answer",
    "Answers",
    "BeforeEvent",
    "Clock",
    "Failure",
    "Fault",
    "ModelServer",
    "ScriptedInferenceClient",
    "ServedRequest",
    "calls",
    "last_text",
    "tool_results",
]
