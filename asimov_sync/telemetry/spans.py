"""Spans, as hooks: the only file that imports opentelemetry.

A hook makes its span the current one of the context in which it is called, which belongs to what is watched and is never
left: so there is nothing to detach, whoever reads a stream, and on whatever thread.
"""

import contextvars
import functools
import time
from typing import Any, Callable, Dict, List, Optional, Tuple
from urllib.parse import urlsplit

from opentelemetry import context, metrics, trace
from opentelemetry.metrics import MeterProvider as MeterProvider
from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider as TracerProvider

import asimov_sync
from asimov_sync.agents.agent import Agent
from asimov_sync.errors import RunFailed, described
from asimov_sync.graph.attempt import Attempt
from asimov_sync.graph.results import RunResult
from asimov_sync.hooks import Ended, Hooks
from asimov_sync.inference.contract import InferenceClient
from asimov_sync.inference.request import Request
from asimov_sync.inference.tool_loop import CalledTool, ToolRun
from asimov_sync.inference.tools import Tool
from asimov_sync.messages import ChatMessage, Reply, ToolCall, Usage
from asimov_sync.metering import METERS, Meter
from asimov_sync.tasks import TaskStatus
from asimov_sync.telemetry import content, names
from asimov_sync.telemetry.errors import error_type
from asimov_sync.telemetry.metrics import Attributes, Metrics, input_tokens
from asimov_sync.telemetry.names import Generation

__all__ = ["Spans"]

PROVIDERS = {"bedrock": names.AWS_BEDROCK}
"""What the conventions call a provider, where that is not its name here."""

OPTIONS: Dict[str, Tuple[str, Callable[[Any], Any]]] = {
    "frequency_penalty": (names.REQUEST_FREQUENCY_PENALTY, float),
    "max_tokens": (names.REQUEST_MAX_TOKENS, int),
    "presence_penalty": (names.REQUEST_PRESENCE_PENALTY, float),
    "seed": (names.REQUEST_SEED, int),
    "stop_sequences": (names.REQUEST_STOP_SEQUENCES, lambda told: [told] if isinstance(told, str) else list(told)),
    "temperature": (names.REQUEST_TEMPERATURE, float),
    "top_p": (names.REQUEST_TOP_P, float),
}


class _Calls:
    """How many requests and tool calls of its own an agent has made."""

    def __init__(self) -> None:
        self.requests: List[None] = []  # lists, since threads may append to them at once
        self.tools: List[None] = []


_CALLS: "contextvars.ContextVar[Optional[_Calls]]" = contextvars.ContextVar("asimov_telemetry_calls", default=None)
"""Those of the innermost agent of this context."""


class _Operation:
    """A span from its start to its end, with its duration: for metrics it is to be the same to the nanosecond."""

    def __init__(self, tracer: trace.Tracer, name: str, kind: SpanKind, attributes: Attributes, telling: bool) -> None:
        self._start = time.time_ns()
        self._begun = time.perf_counter_ns()
        self._telling = telling
        self.span = tracer.start_span(name, kind=kind, attributes=attributes, start_time=self._start)
        context.attach(trace.set_span_in_context(self.span))

    def end(self, error: Optional[BaseException], attributes: Attributes) -> float:
        """End the span, with an error if there was one, and return its seconds."""
        elapsed = time.perf_counter_ns() - self._begun
        self.span.set_attributes(attributes)
        if error is not None:
            # The message may quote what was said, or whatever a handler put into it.
            self.span.set_status(Status(StatusCode.ERROR, described(error) if self._telling else None))
        self.span.end(self._start + elapsed)
        return elapsed / 1e9


class Spans:
    """Spans and metrics in one generation of the conventions; content: whether spans tell what was said."""

    def __init__(
        self, tracer: Optional[TracerProvider], meter: Optional[MeterProvider], generation: Generation, content: bool
    ) -> None:
        self._tracer = trace.get_tracer("asimov_sync", asimov_sync.__version__, tracer, generation.schema_url)
        self._metrics = _metrics(meter, generation)
        self._generation = generation
        self._content = content

    @property
    def hooks(self) -> Hooks:
        """What is to be installed."""
        return Hooks(self._run, self._task, self._agent, self._request, self._tool)

    def _begin(self, name: str, attributes: Attributes, kind: SpanKind = SpanKind.INTERNAL) -> _Operation:
        return _Operation(self._tracer, name, kind, attributes, self._content)

    def _run(self, run_id: str, name: Optional[str]) -> Ended:
        attributes: Attributes = {names.OPERATION_NAME: names.INVOKE_WORKFLOW, names.RUN_ID: run_id}
        known: Attributes = {} if name is None else {names.WORKFLOW_NAME: name}
        operation = self._begin(_named(names.INVOKE_WORKFLOW, name), dict(attributes, **known))

        def ended(result: Optional[RunResult], error: Optional[BaseException], first: Optional[float]) -> None:
            told: Attributes = {}
            if result is not None:
                told[names.RUN_STATUS] = result.status.name
                if result.status is TaskStatus.FAILED:
                    error = next(iter(result.exceptions.values()), RunFailed("no task brought a result"))
            failed = _failed(error)
            self._metrics.workflow(operation.end(error, dict(told, **failed)), dict(known, **failed))

        return ended

    def _task(self, task: Attempt) -> Ended:
        attributes = {
            names.RUN_ID: task.run_id,
            names.TASK_NAME: task.name,
            names.TASK_TYPE: task.node.task.type,
            names.TASK_ID: str(task.node.task.id),
            names.TASK_ATTEMPT: task.number,
            names.TASK_VISIT: task.visit,
        }
        operation = self._begin(_named(names.TASK, task.name), attributes)

        def ended(status: Optional[TaskStatus], error: Optional[BaseException], first: Optional[float]) -> None:
            told = {names.TASK_STATUS: (status or TaskStatus.FAILED).name}
            operation.end(error, dict(told, **_failed(error)))

        return ended

    def _agent(self, agent: Agent, messages: List[ChatMessage]) -> Ended:
        known: Attributes = {names.REQUEST_MODEL: agent.client.model}
        if agent.name is not None:
            known[names.AGENT_NAME] = agent.name
        attributes = dict(known, **{names.OPERATION_NAME: names.INVOKE_AGENT})
        if self._generation.agent_provider:
            attributes[names.PROVIDER_NAME] = _provider(agent.client)
        operation = self._begin(_named(names.INVOKE_AGENT, agent.name), attributes)
        if self._tells(operation):
            operation.span.set_attribute(names.INPUT_MESSAGES, content.input_messages(messages))
        calls, meter = _Calls(), Meter()
        _CALLS.set(calls)
        METERS.set(METERS.get() + (meter,))

        def ended(run: Optional[ToolRun], error: Optional[BaseException], first: Optional[float]) -> None:
            told = self._usage(meter.told, cached=self._generation.agent_provider)
            if run is not None:
                told.update(self._finish_reasons(run.reply))
                if self._tells(operation):
                    told[names.OUTPUT_MESSAGES] = self._output(run.reply)
            failed = _failed(error)
            seconds = operation.end(error, dict(told, **failed))
            self._metrics.agent(seconds, len(calls.requests), len(calls.tools), dict(known, **failed))

        return ended

    def _request(self, client: InferenceClient, request: Request) -> Ended:
        known: Attributes = {
            names.OPERATION_NAME: names.CHAT,
            names.PROVIDER_NAME: _provider(client),
            names.REQUEST_MODEL: request.model,
        }
        known.update(_server(client))
        attributes = dict(known, **self._options(request))
        operation = self._begin(_named(names.CHAT, request.model), attributes, SpanKind.CLIENT)
        if self._tells(operation):
            operation.span.set_attributes(_request_content(request))
        calls, meter = _CALLS.get(), Meter()
        METERS.set(METERS.get() + (meter,))
        if calls is not None:
            calls.requests.append(None)

        def ended(reply: Optional[Reply], error: Optional[BaseException], first: Optional[float]) -> None:
            reply = reply if reply is not None else getattr(error, "partial", None)
            told = self._usage(meter.told, cached=True)
            told.update(self._finish_reasons(reply))
            if not request.streamed:
                first = None
            if first is not None:
                told[names.RESPONSE_TIME_TO_FIRST_CHUNK] = first
            if reply is not None:
                if reply.id is not None:
                    told[names.RESPONSE_ID] = reply.id
                if reply.model is not None:
                    told[names.RESPONSE_MODEL] = known[names.RESPONSE_MODEL] = reply.model
                if self._tells(operation):
                    told[names.OUTPUT_MESSAGES] = self._output(reply)
            failed = _failed(error)
            seconds = operation.end(error, dict(told, **failed))
            self._metrics.request(seconds, first, meter.told, dict(known, **failed))

        return ended

    def _tool(self, call: ToolCall, tool: Optional[Tool]) -> Ended:
        # A name that is no tool's is the model's own invention.
        known: Attributes = {names.TOOL_NAME: tool.name if tool is not None else names.OTHER}
        attributes = {names.OPERATION_NAME: names.EXECUTE_TOOL, names.TOOL_CALL_ID: call.id, names.TOOL_TYPE: names.FUNCTION}
        if tool is not None and tool.description:
            attributes[names.TOOL_DESCRIPTION] = tool.description
        operation = self._begin(_named(names.EXECUTE_TOOL, known[names.TOOL_NAME]), dict(attributes, **known))
        if self._tells(operation):
            # Its result is in the next request, as `redact=` left it.
            operation.span.set_attribute(names.TOOL_CALL_ARGUMENTS, content.arguments(call.arguments))
        calls = _CALLS.get()
        if calls is not None:
            calls.tools.append(None)

        def ended(made: Optional[CalledTool], error: Optional[BaseException], first: Optional[float]) -> None:
            failed = _failed(error if made is None else made.exception)
            self._metrics.tool(operation.end(error if made is None else made.exception, failed), dict(known, **failed))

        return ended

    # What attributes are made of

    def _tells(self, operation: _Operation) -> bool:
        return self._content and operation.span.is_recording()

    def _output(self, reply: Reply) -> str:
        return content.output_messages(reply, self._generation.message_finish_reason)

    def _finish_reasons(self, reply: Optional[Reply]) -> Attributes:
        """Why it stopped, in the provider's own words."""
        reason = (reply.raw_stop_reason or reply.stop_reason) if reply is not None else None
        reasons = [reason] if reason is not None else self._generation.given_up
        return {names.RESPONSE_FINISH_REASONS: reasons} if reasons else {}

    def _usage(self, usage: Optional[Usage], cached: bool) -> Attributes:
        if usage is None:
            return {}
        told: Attributes = {names.USAGE_INPUT_TOKENS: input_tokens(usage), names.USAGE_OUTPUT_TOKENS: usage.output_tokens}
        if cached:
            applicable = {
                names.USAGE_CACHE_READ_INPUT_TOKENS: usage.cache_read_input_tokens,
                self._generation.cache_write_input_tokens: usage.cache_write_input_tokens,
                names.USAGE_REASONING_OUTPUT_TOKENS: usage.reasoning_tokens,
            }
            told.update({name: count for name, count in applicable.items() if count})
        return told

    def _options(self, request: Request) -> Attributes:
        told: Attributes = {names.REQUEST_STREAM: True} if request.streamed else {}
        for option, (name, kind) in dict(OPTIONS, top_k=(names.REQUEST_TOP_K, self._generation.top_k)).items():
            if option in request.options:
                try:
                    told[name] = kind(request.options[option])
                except (ArithmeticError, TypeError, ValueError):
                    pass  # the provider will have its own say on it
        return told


@functools.lru_cache(maxsize=8)
def _metrics(meter: Optional[MeterProvider], generation: Generation) -> Metrics:
    """The same ones where it is installed again: OpenTelemetry 1.22 complains of what is made twice."""
    made = metrics.get_meter("asimov_sync", asimov_sync.__version__, meter, generation.schema_url)
    return Metrics(made, generation)


def _named(operation: str, name: Optional[str]) -> str:
    return operation if name is None else "{} {}".format(operation, name)


def _failed(error: Optional[BaseException]) -> Dict[str, str]:
    return {} if error is None else {names.ERROR_TYPE: error_type(error)}


def _provider(client: InferenceClient) -> str:
    return PROVIDERS.get(client.provider, client.provider)


def _server(client: InferenceClient) -> Attributes:
    """The host and port of a client that has an address of its own."""
    try:
        address = urlsplit(getattr(client, "api_url", ""))
        port = address.port or (443 if address.scheme == "https" else 80)
    except ValueError:  # which whoever connects will be told
        return {}
    return {names.SERVER_ADDRESS: address.hostname, names.SERVER_PORT: port} if address.hostname else {}


def _request_content(request: Request) -> Attributes:
    told = {
        names.INPUT_MESSAGES: content.input_messages(request.messages),
        names.SYSTEM_INSTRUCTIONS: content.system_instructions(request.system),
        names.TOOL_DEFINITIONS: content.tool_definitions(request.tools),
    }
    return {name: value for name, value in told.items() if value is not None}
