"""Tools for tests: a scripted client, a server that speaks the providers' APIs, a clock, probes."""

from asimov_sync.testing.clock import Clock
from asimov_sync.testing.context import RecordingContext, Report, task_context
from asimov_sync.testing.probes import count_callbacks, count_runs, count_threads
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
    "RecordingContext",
    "Report",
    "ScriptedInferenceClient",
    "ServedRequest",
    "calls",
    "count_callbacks",
    "count_runs",
    "count_threads",
    "last_text",
    "task_context",
    "tool_results",
]
