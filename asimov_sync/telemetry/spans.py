"""Makes spans and metrics from instrumentation hooks. The only file that imports opentelemetry.

Each hook sets its span as the current one in the context that it runs in. That context belongs to
the observed operation and ends with it, so nothing has to be detached, even if a stream is read on
another thread.
"""

import contextvars
import functools
import re
import time
from typing import Any, Callable, Dict, List, Optional, Tuple
from urllib.parse import urlsplit

from opentelemetry import context, metrics, trace
from opentelemetry.metrics import MeterProvider as MeterProvider
from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider as TracerProvider

import asimov_sync
from asimov_sync._json import format_error
from asimov_sync.agents.agent import Agent
from asimov_sync.concurrency import scope
from asimov_sync.errors import InferenceError, RunFailed
from asimov_sync.graph.attempt import Attempt
from asimov_sync.graph.results import RunResult
from asimov_sync.inference.client import InferenceClient
from asimov_sync.inference.request import Request
from asimov_sync.inference.tools.loop import CalledTool, ToolRun
from asimov_sync.inference.tools.tool import Tool
from asimov_sync.instrumentation import Instrumentation, OnEnd
from asimov_sync.messages import ChatMessage, Reply, ToolCall, Usage
from asimov_sync.tasks import TaskStatus
from asimov_sync.telemetry import content, names
from asimov_sync.telemetry.metrics import Attributes, Metrics, input_tokens
from asimov_sync.telemetry.names import Generation
from asimov_sync.usage import UsageCounter

__all__ = ["Spans"]

PROVIDERS = {"bedrock": names.AWS_BEDROCK}
"""The conventions' name of each provider whose name differs from ours."""

OPTIONS: Dict[str, Tuple[str, Callable[[Any], Any]]] = {
    "frequency_penalty": (names.REQUEST_FREQUENCY_PENALTY, float),
    "max_tokens": (names.REQUEST_MAX_TOKENS, int),
    "presence_penalty": (names.REQUEST_PRESENCE_PENALTY, float),
    "seed": (names.REQUEST_SEED, int),
    "stop_sequences": (
        names.REQUEST_STOP_SEQUENCES,
        lambda value: [value] if isinstance(value, str) else list(value),
    ),
    "temperature": (names.REQUEST_TEMPERATURE, float),
    "top_p": (names.REQUEST_TOP_P, float),
}
"""Maps a request's option to its attribute and to the function that converts its value."""


class _CallCounts:
    """Counts the requests and tool calls that an agent makes itself. Lists: append is atomic."""

    def __init__(self) -> None:
        self.requests: List[None] = []
        self.tool_calls: List[None] = []


_call_counts: "contextvars.ContextVar[Optional[_CallCounts]]" = contextvars.ContextVar(
    "asimov_telemetry_calls", default=None
)
"""The counts of the innermost agent of this context."""


class _ActiveSpan:
    """A started span, set as the current one. Metrics use its duration, to the nanosecond."""

    def __init__(
        self,
        tracer: trace.Tracer,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        capture_content: bool,
    ) -> None:
        self._start_time = time.time_ns()
        self._started = time.perf_counter_ns()
        self._capture_content = capture_content
        self.span = tracer.start_span(
            name, kind=kind, attributes=attributes, start_time=self._start_time
        )
        context.attach(trace.set_span_in_context(self.span))

    def end(self, error: Optional[BaseException], attributes: Attributes) -> float:
        """End the span, as failed if there is an error. Returns its duration in seconds."""
        elapsed = time.perf_counter_ns() - self._started
        self.span.set_attributes(attributes)
        if error is not None:
            # The error's message may quote prompts, replies or data of a handler.
            message = format_error(error) if self._capture_content else None
            self.span.set_status(Status(StatusCode.ERROR, message))
        self.span.end(self._start_time + elapsed)
        return elapsed / 1e9


class Spans:
    """Makes spans and metrics in one generation of the conventions.

    tracer_provider: makes the spans, or None for OpenTelemetry's global provider.
    meter_provider: makes the metrics, or None for OpenTelemetry's global provider.
    generation: the names to use.
    capture_content: whether spans record messages, tool arguments and error messages.
    """

    def __init__(
        self,
        tracer_provider: Optional[TracerProvider],
        meter_provider: Optional[MeterProvider],
        generation: Generation,
        capture_content: bool,
    ) -> None:
        self._tracer = trace.get_tracer(
            "asimov_sync", asimov_sync.__version__, tracer_provider, generation.schema_url
        )
        self._metrics = _get_metrics(meter_provider, generation)
        self._generation = generation
        self._capture_content = capture_content

    @property
    def hooks(self) -> Instrumentation:
        """The hooks to install."""
        return Instrumentation(
            self._start_run,
            self._start_task,
            self._start_agent,
            self._start_request,
            self._start_tool_call,
        )

    # Instrumentation: each starts a span and returns the function that ends it

    def _start_run(self, run_id: str, name: Optional[str]) -> OnEnd:
        attributes: Attributes = {
            names.OPERATION_NAME: names.INVOKE_WORKFLOW,
            names.RUN_ID: run_id,
        }
        labels: Attributes = {} if name is None else {names.WORKFLOW_NAME: name}
        active = self._start(_span_name(names.INVOKE_WORKFLOW, name), dict(attributes, **labels))

        def on_end(
            result: Optional[RunResult],
            error: Optional[BaseException],
            first_chunk: Optional[float],
        ) -> None:
            attributes: Attributes = {}
            if result is not None:
                attributes[names.RUN_STATUS] = result.status.name
                if result.status is TaskStatus.FAILED:
                    no_result = RunFailed("no task produced a result")
                    error = next(iter(result.exceptions.values()), no_result)
            failure = _error_attributes(error)
            seconds = active.end(error, dict(attributes, **failure))
            self._metrics.record_run(seconds, dict(labels, **failure))

        return on_end

    def _start_task(self, task: Attempt) -> OnEnd:
        attributes = {
            names.RUN_ID: task.run_id,
            names.TASK_NAME: task.name,
            names.TASK_TYPE: task.node.task.type,
            names.TASK_ID: str(task.node.task.id),
            names.TASK_ATTEMPT: task.number,
            names.TASK_VISIT: task.visit,
        }
        active = self._start(_span_name(names.TASK, task.name), attributes)

        def on_end(
            status: Optional[TaskStatus],
            error: Optional[BaseException],
            first_chunk: Optional[float],
        ) -> None:
            attributes = {names.TASK_STATUS: (status or TaskStatus.FAILED).name}
            active.end(error, dict(attributes, **_error_attributes(error)))

        return on_end

    def _start_agent(self, agent: Agent, messages: List[ChatMessage]) -> OnEnd:
        labels: Attributes = {names.REQUEST_MODEL: agent.client.model}
        if agent.name is not None:
            labels[names.AGENT_NAME] = agent.name
        attributes = dict(labels, **{names.OPERATION_NAME: names.INVOKE_AGENT})
        if self._generation.agent_provider:
            attributes[names.PROVIDER_NAME] = _provider_name(agent.client)
        active = self._start(_span_name(names.INVOKE_AGENT, agent.name), attributes)
        if self._captures_content(active):
            active.span.set_attribute(names.INPUT_MESSAGES, content.input_messages(messages))
        counts, meter = _CallCounts(), UsageCounter()
        _call_counts.set(counts)
        scope.extend(usage_counter=meter)

        def on_end(
            run: Optional[ToolRun], error: Optional[BaseException], first_chunk: Optional[float]
        ) -> None:
            attributes = self._usage_attributes(
                meter.usage_or_none, self._generation.agent_provider
            )
            if run is not None:
                attributes.update(self._finish_reasons(run.reply))
                if self._captures_content(active):
                    attributes[names.OUTPUT_MESSAGES] = self._output_messages(run.reply)
            failure = _error_attributes(error)
            seconds = active.end(error, dict(attributes, **failure))
            self._metrics.record_agent(
                seconds, len(counts.requests), len(counts.tool_calls), dict(labels, **failure)
            )

        return on_end

    def _start_request(self, client: InferenceClient, request: Request) -> OnEnd:
        labels: Attributes = {
            names.OPERATION_NAME: names.CHAT,
            names.PROVIDER_NAME: _provider_name(client),
            names.REQUEST_MODEL: request.model,
        }
        labels.update(_server_attributes(client))
        attributes = dict(labels, **self._option_attributes(request))
        active = self._start(_span_name(names.CHAT, request.model), attributes, SpanKind.CLIENT)
        if self._captures_content(active):
            active.span.set_attributes(_request_content(request))
        counts, meter = _call_counts.get(), UsageCounter()
        scope.extend(usage_counter=meter)
        if counts is not None:
            counts.requests.append(None)

        def on_end(
            reply: Optional[Reply], error: Optional[BaseException], first_chunk: Optional[float]
        ) -> None:
            reply = reply if reply is not None else getattr(error, "partial", None)
            attributes = self._usage_attributes(meter.usage_or_none, with_cache=True)
            attributes.update(self._finish_reasons(reply))
            if not request.streamed:
                first_chunk = None
            if first_chunk is not None:
                attributes[names.RESPONSE_TIME_TO_FIRST_CHUNK] = first_chunk
            if reply is not None:
                if reply.id is not None:
                    attributes[names.RESPONSE_ID] = reply.id
                if reply.model is not None:
                    attributes[names.RESPONSE_MODEL] = reply.model
                    labels[names.RESPONSE_MODEL] = reply.model
                if self._captures_content(active):
                    attributes[names.OUTPUT_MESSAGES] = self._output_messages(reply)
            failure = _error_attributes(error)
            seconds = active.end(error, dict(attributes, **failure))
            self._metrics.record_request(
                seconds, first_chunk, meter.usage_or_none, dict(labels, **failure)
            )

        return on_end

    def _start_tool_call(self, call: ToolCall, tool: Optional[Tool]) -> OnEnd:
        # The model invents the names of unknown tools: as labels they would be unbounded.
        tool_name = tool.name if tool is not None else names.OTHER
        labels: Attributes = {names.TOOL_NAME: tool_name}
        attributes = {
            names.OPERATION_NAME: names.EXECUTE_TOOL,
            names.TOOL_CALL_ID: call.id,
            names.TOOL_TYPE: names.FUNCTION,
        }
        if tool is not None and tool.description:
            attributes[names.TOOL_DESCRIPTION] = tool.description
        active = self._start(_span_name(names.EXECUTE_TOOL, tool_name), dict(attributes, **labels))
        if self._captures_content(active):
            # The tool's result is an input of the next request, after `redact=` changed it.
            arguments = content.tool_call_arguments(call.arguments)
            active.span.set_attribute(names.TOOL_CALL_ARGUMENTS, arguments)
        counts = _call_counts.get()
        if counts is not None:
            counts.tool_calls.append(None)

        def on_end(
            called: Optional[CalledTool],
            error: Optional[BaseException],
            first_chunk: Optional[float],
        ) -> None:
            error = error if called is None else called.exception
            failure = _error_attributes(error)
            seconds = active.end(error, failure)
            self._metrics.record_tool_call(seconds, dict(labels, **failure))

        return on_end

    def _start(
        self, name: str, attributes: Attributes, kind: SpanKind = SpanKind.INTERNAL
    ) -> _ActiveSpan:
        return _ActiveSpan(self._tracer, name, kind, attributes, self._capture_content)

    # Attributes

    def _captures_content(self, active: _ActiveSpan) -> bool:
        return self._capture_content and active.span.is_recording()

    def _output_messages(self, reply: Reply) -> str:
        return content.output_messages(reply, self._generation.message_finish_reason)

    def _finish_reasons(self, reply: Optional[Reply]) -> Attributes:
        """Return the reply's finish reason as the provider names it."""
        reason = (reply.raw_stop_reason or reply.stop_reason) if reply is not None else None
        reasons = [reason] if reason is not None else self._generation.incomplete_reasons
        return {names.RESPONSE_FINISH_REASONS: reasons} if reasons else {}

    def _usage_attributes(self, usage: Optional[Usage], with_cache: bool) -> Attributes:
        if usage is None:
            return {}
        attributes: Attributes = {
            names.USAGE_INPUT_TOKENS: input_tokens(usage),
            names.USAGE_OUTPUT_TOKENS: usage.output_tokens,
        }
        if with_cache:
            counts = {
                names.USAGE_CACHE_READ_INPUT_TOKENS: usage.cache_read_input_tokens,
                self._generation.cache_write_input_tokens: usage.cache_write_input_tokens,
                names.USAGE_REASONING_OUTPUT_TOKENS: usage.reasoning_tokens,
            }
            attributes.update({name: count for name, count in counts.items() if count})
        return attributes

    def _option_attributes(self, request: Request) -> Attributes:
        attributes: Attributes = {names.REQUEST_STREAM: True} if request.streamed else {}
        options = dict(OPTIONS, top_k=(names.REQUEST_TOP_K, self._generation.top_k))
        for option, (name, convert) in options.items():
            if option in request.options:
                try:
                    attributes[name] = convert(request.options[option])
                except (ArithmeticError, TypeError, ValueError):
                    pass  # the provider reports the invalid value
        return attributes


@functools.lru_cache(maxsize=8)
def _get_metrics(meter_provider: Optional[MeterProvider], generation: Generation) -> Metrics:
    """Return a provider's metrics. Cached: OpenTelemetry 1.22 warns of duplicate instruments."""
    meter = metrics.get_meter(
        "asimov_sync", asimov_sync.__version__, meter_provider, generation.schema_url
    )
    return Metrics(meter, generation)


def _span_name(operation: str, name: Optional[str]) -> str:
    return operation if name is None else f"{operation} {name}"


def _error_type(error: BaseException) -> str:
    """Return the provider's error type if it is a single word, else the exception's class name.

    The attribute's cardinality must be low, so a free text of the provider is not used.
    """
    if isinstance(error, InferenceError):
        if re.match(r"[A-Za-z][A-Za-z0-9_.]{0,63}\Z", error.error_type or ""):
            return str(error.error_type)
    kind = type(error)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def _error_attributes(error: Optional[BaseException]) -> Dict[str, str]:
    return {} if error is None else {names.ERROR_TYPE: _error_type(error)}


def _provider_name(client: InferenceClient) -> str:
    return PROVIDERS.get(client.provider, client.provider)


def _server_attributes(client: InferenceClient) -> Attributes:
    """Return the host and port of a client with an `api_url`."""
    try:
        address = urlsplit(getattr(client, "api_url", ""))
        port = address.port or (443 if address.scheme == "https" else 80)
    except ValueError:  # an invalid URL is reported when the client connects
        return {}
    if not address.hostname:
        return {}
    return {names.SERVER_ADDRESS: address.hostname, names.SERVER_PORT: port}


def _request_content(request: Request) -> Attributes:
    attributes = {
        names.INPUT_MESSAGES: content.input_messages(request.messages),
        names.SYSTEM_INSTRUCTIONS: content.system_instructions(request.system),
        names.TOOL_DEFINITIONS: content.tool_definitions(request.tools),
    }
    return {name: value for name, value in attributes.items() if value is not None}
