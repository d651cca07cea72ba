"""What is measured: the metrics of one generation of the conventions, on somebody's meter."""

import inspect
from typing import Any, Dict, Optional

from asimov_sync.messages import Usage
from asimov_sync.telemetry import names
from asimov_sync.telemetry.names import Generation, Metric

__all__ = ["Metrics", "input_tokens"]

Attributes = Dict[str, Any]


def input_tokens(usage: Usage) -> int:
    """All that went in, as the conventions count it: what was read from the cache, and written to it, included."""
    return usage.input_tokens + usage.cache_read_input_tokens + usage.cache_write_input_tokens


class Metrics:
    """The instruments of a generation; what it has none for is not recorded."""

    def __init__(self, meter: Any, generation: Generation) -> None:
        # Buckets can be advised since OpenTelemetry 1.29; before that, they are the SDK's, or a view's.
        advisable = "explicit_bucket_boundaries_advisory" in inspect.signature(meter.create_histogram).parameters

        def histogram(metric: Optional[Metric]) -> Any:
            if metric is None:
                return None
            advice = {"explicit_bucket_boundaries_advisory": metric.boundaries} if advisable else {}
            return meter.create_histogram(metric.name, metric.unit, metric.description, **advice)

        self._duration = histogram(generation.duration)
        self._first_chunk = histogram(generation.first_chunk)
        self._usage = histogram(generation.usage)
        self._tokens = [histogram(metric) for metric in generation.tokens]
        self._counters = [
            meter.create_counter(metric.name, metric.unit, metric.description) for metric in generation.usage_counters
        ]
        self._agent_duration = histogram(generation.agent_duration)
        self._agent_requests = histogram(generation.agent_requests)
        self._agent_tools = histogram(generation.agent_tools)
        self._tool_duration = histogram(generation.tool_duration)
        self._workflow_duration = histogram(generation.workflow_duration)

    def request(self, seconds: float, first: Optional[float], usage: Optional[Usage], attributes: Attributes) -> None:
        """A request to a model ended. first: after how many seconds its stream began; usage: None where none was told."""
        self._duration.record(seconds, attributes)
        known = {name: value for name, value in attributes.items() if name != names.ERROR_TYPE}
        if first is not None:
            self._first_chunk.record(first, known)
        told = usage if usage is not None else Usage()
        went_in, came_out = input_tokens(told), told.output_tokens
        if self._usage is not None and usage is not None:
            self._usage.record(went_in, dict(known, **{names.TOKEN_TYPE: names.INPUT}))
            self._usage.record(came_out, dict(known, **{names.TOKEN_TYPE: names.OUTPUT}))
        for instrument, count in zip(self._tokens, (went_in, came_out)):
            instrument.record(count, attributes)
        # No provider says which of its tokens are text, and which are an image.
        counted = dict(known, **{names.TOKEN_MODALITY: names.UNKNOWN})
        figures = (went_in, came_out, told.cache_read_input_tokens, told.cache_write_input_tokens, told.reasoning_tokens)
        for instrument, count in zip(self._counters, figures):
            instrument.add(count, counted)

    def agent(self, seconds: float, requests: int, tools: int, attributes: Attributes) -> None:
        """An agent's run ended, with so many requests and tool calls of its own."""
        if self._agent_duration is not None:
            self._agent_duration.record(seconds, attributes)
            known = {name: value for name, value in attributes.items() if name != names.ERROR_TYPE}
            self._agent_requests.record(requests, known)
            self._agent_tools.record(tools, known)

    def tool(self, seconds: float, attributes: Attributes) -> None:
        """A tool call ended."""
        if self._tool_duration is not None:
            self._tool_duration.record(seconds, attributes)

    def workflow(self, seconds: float, attributes: Attributes) -> None:
        """A run ended."""
        if self._workflow_duration is not None:
            self._workflow_duration.record(seconds, attributes)
