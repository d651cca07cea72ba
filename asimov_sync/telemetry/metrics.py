"""Records the metrics of one generation of the conventions on an OpenTelemetry meter."""

import inspect
from typing import Any, Dict, Optional, Sequence

from asimov_sync.messages import Usage
from asimov_sync.telemetry import names
from asimov_sync.telemetry.names import Generation, Metric

__all__ = ["Metrics", "input_tokens"]

Attributes = Dict[str, Any]


def input_tokens(usage: Usage) -> int:
    """Count input tokens as the conventions do, with those read from and written to the cache."""
    return usage.input_tokens + usage.cache_read_input_tokens + usage.cache_write_input_tokens


class Metrics:
    """The instruments of one generation. Values that it has no instrument for are not recorded.

    meter: an OpenTelemetry meter.
    generation: the names and buckets to use.
    """

    def __init__(self, meter: Any, generation: Generation) -> None:
        # OpenTelemetry accepts bucket boundaries since 1.29. Before, the SDK or a view sets them.
        takes_boundaries = (
            "explicit_bucket_boundaries_advisory"
            in inspect.signature(meter.create_histogram).parameters
        )

        def histogram(metric: Optional[Metric]) -> Any:
            if metric is None:
                return None
            advice = (
                {"explicit_bucket_boundaries_advisory": metric.boundaries}
                if takes_boundaries
                else {}
            )
            return meter.create_histogram(metric.name, metric.unit, metric.description, **advice)

        self._duration = histogram(generation.duration)
        self._first_chunk = histogram(generation.first_chunk)
        self._later_chunk = histogram(generation.later_chunk)
        self._usage = histogram(generation.usage)
        self._tokens = [histogram(metric) for metric in generation.tokens]
        self._counters = [
            meter.create_counter(metric.name, metric.unit, metric.description)
            for metric in generation.usage_counters
        ]
        self._agent_duration = histogram(generation.agent_duration)
        self._agent_requests = histogram(generation.agent_requests)
        self._agent_tools = histogram(generation.agent_tools)
        self._tool_duration = histogram(generation.tool_duration)
        self._workflow_duration = histogram(generation.workflow_duration)

    def record_request(
        self,
        seconds: float,
        chunk_times: Sequence[float],
        usage: Optional[Usage],
        attributes: Attributes,
    ) -> None:
        """Record a finished model request.

        seconds: its duration.
        chunk_times: seconds until each chunk of a stream; empty for other requests.
        usage: the tokens it used, or None if the provider reported none.
        attributes: the attributes of the data points, with error.type if it failed.
        """
        self._duration.record(seconds, attributes)
        without_error = _without_error(attributes)
        if chunk_times:
            self._first_chunk.record(chunk_times[0], without_error)
        for previous, current in zip(chunk_times, chunk_times[1:]):
            self._later_chunk.record(current - previous, without_error)
        reported = usage if usage is not None else Usage()
        tokens_in, tokens_out = input_tokens(reported), reported.output_tokens
        if self._usage is not None and usage is not None:
            self._usage.record(tokens_in, dict(without_error, **{names.TOKEN_TYPE: names.INPUT}))
            self._usage.record(tokens_out, dict(without_error, **{names.TOKEN_TYPE: names.OUTPUT}))
        if names.ERROR_TYPE not in attributes:
            for instrument, count in zip(self._tokens, (tokens_in, tokens_out)):
                instrument.record(count, attributes)
        # Providers do not report how many tokens are text and how many are images.
        with_modality = dict(without_error, **{names.TOKEN_MODALITY: names.UNKNOWN})
        counts = (
            tokens_in,
            tokens_out,
            reported.cache_read_input_tokens,
            reported.cache_write_input_tokens,
            reported.reasoning_tokens,
        )
        for counter, count in zip(self._counters, counts):
            counter.add(count, with_modality)

    def record_agent(
        self, seconds: float, requests: int, tool_calls: int, attributes: Attributes
    ) -> None:
        """Record a finished agent run and the number of its own requests and tool calls."""
        if self._agent_duration is not None:
            self._agent_duration.record(seconds, attributes)
            without_error = _without_error(attributes)
            self._agent_requests.record(requests, without_error)
            self._agent_tools.record(tool_calls, without_error)

    def record_tool_call(self, seconds: float, attributes: Attributes) -> None:
        """Record a finished tool call."""
        if self._tool_duration is not None:
            self._tool_duration.record(seconds, attributes)

    def record_run(self, seconds: float, attributes: Attributes) -> None:
        """Record a finished run."""
        if self._workflow_duration is not None:
            self._workflow_duration.record(seconds, attributes)


def _without_error(attributes: Attributes) -> Attributes:
    return {name: value for name, value in attributes.items() if name != names.ERROR_TYPE}
