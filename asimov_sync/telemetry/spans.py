"""Makes spans and metrics from instrumentation hooks. The only file that imports opentelemetry.

Each hook sets its span as the current one in the context that it runs in. That context belongs to
the observed operation and ends with it, so nothing has to be detached, even if a stream is read on
another thread.
"""

import contextvars
import functools
import re
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple
from urllib.parse import urlsplit

from opentelemetry import context, metrics, propagate, trace
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
from asimov_sync.inference.request import Request, System
from asimov_sync.inference.tools.loop import (
    WITHHELD,
    CalledTool,
    Redact,
    ToolRun,
    apply_redact,
)
from asimov_sync.inference.tools.tool import Tool, as_tools
from asimov_sync.instrumentation import Instrumentation, OnEnd
from asimov_sync.messages import ChatMessage, Reply, ToolCall, Usage
from asimov_sync.tasks import TaskStatus
from asimov_sync.telemetry import content, names
from asimov_sync.telemetry.metrics import Attributes, Metrics, input_tokens
from asimov_sync.telemetry.names import Generation
from asimov_sync.usage import Price, UsageCounter, cost_usd

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

OUTPUT_TYPES = {"json_schema": names.JSON, "json_object": names.JSON, "text": names.TEXT}
"""Maps the type of an output format in a request to that of the conventions."""


class _CallCounts:
    """Counts the requests and tool calls that an agent makes itself. Lists: append is atomic."""

    def __init__(self) -> None:
        self.requests: List[None] = []
        self.tool_calls: List[None] = []


_conversation_id: "contextvars.ContextVar[Optional[str]]" = contextvars.ContextVar(
    "asimov_telemetry_conversation", default=None
)
"""The id of the conversation of the innermost agent that was given one."""

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

    def end(
        self,
        error: Optional[BaseException],
        attributes: Attributes,
        redact: Optional[Redact] = None,
    ) -> float:
        """End the span, as failed if there is an error. Returns its duration in seconds.

        redact: changes the text of the error; None changes nothing.
        """
        elapsed = time.perf_counter_ns() - self._started
        self.span.set_attributes(attributes)
        if error is not None:
            # The error's message may quote prompts, replies or data of a handler.
            message = _redact(format_error(error), redact) if self._capture_content else None
            self.span.set_status(Status(StatusCode.ERROR, message))
        self.span.end(self._start_time + elapsed)
        return elapsed / 1e9


def _inject() -> Dict[str, str]:
    """Return the current trace context as text, in the format of the global propagator."""
    carrier: Dict[str, str] = {}
    propagate.inject(carrier)
    return carrier


def _attach(carrier: Mapping[str, str]) -> None:
    """Make the span of another process, as `_inject` described it there, the current one."""
    context.attach(propagate.extract(carrier))


class Spans:
    """Makes spans and metrics in one generation of the conventions.

    tracer_provider: makes the spans, or None for OpenTelemetry's global provider.
    meter_provider: makes the metrics, or None for OpenTelemetry's global provider.
    generation: the names to use.
    capture_content: whether spans record messages, tool arguments and error messages.
    openinference: whether spans also have the attributes of OpenInference, and costs.
    """

    def __init__(
        self,
        tracer_provider: Optional[TracerProvider],
        meter_provider: Optional[MeterProvider],
        generation: Generation,
        capture_content: bool,
        openinference: bool = False,
    ) -> None:
        self._openinference = openinference
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
            _inject,
            _attach,
        )

    # Instrumentation: each starts a span and returns the function that ends it

    def _start_run(self, run_id: str, name: Optional[str]) -> OnEnd:
        attributes: Attributes = {
            names.OPERATION_NAME: names.INVOKE_WORKFLOW,
            names.RUN_ID: run_id,
        }
        labels: Attributes = {} if name is None else {names.WORKFLOW_NAME: name}
        attributes.update(self._kind(names.CHAIN), **labels)
        active = self._start(_span_name(names.INVOKE_WORKFLOW, name), attributes)

        def on_end(
            result: Optional[RunResult],
            error: Optional[BaseException],
            chunk_times: Sequence[float],
        ) -> None:
            attributes: Attributes = {}
            if result is not None:
                attributes[names.RUN_STATUS] = result.status.name
                if self._records_values(active):
                    attributes.update(_output_value(result.results))
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
        attributes.update(self._kind(names.CHAIN))
        active = self._start(_span_name(names.TASK, task.name), attributes)
        if self._records_values(active):
            active.span.set_attributes(_input_value(_task_input(task)))

        def on_end(
            status: Optional[TaskStatus],
            error: Optional[BaseException],
            chunk_times: Sequence[float],
        ) -> None:
            attributes = {names.TASK_STATUS: (status or TaskStatus.FAILED).name}
            if status in (TaskStatus.COMPLETE, TaskStatus.PARTIAL) and self._records_values(active):
                attributes.update(_output_value(task.node.task.result))
            active.end(error, dict(attributes, **_error_attributes(error)))

        return on_end

    def _start_agent(
        self,
        agent: Agent,
        messages: List[ChatMessage],
        options: Mapping[str, Any],
        conversation_id: Optional[str],
    ) -> OnEnd:
        labels: Attributes = {names.REQUEST_MODEL: agent.client.model}
        if agent.name is not None:
            labels[names.AGENT_NAME] = agent.name
        attributes = dict(labels, **{names.OPERATION_NAME: names.INVOKE_AGENT})
        attributes.update(self._kind(names.AGENT))
        merged: Dict[str, Any] = dict(agent.client.options)
        merged.update(agent.options)
        merged.update(options)
        attributes.update(self._option_attributes(merged))
        if agent.output is not None:
            attributes[names.OUTPUT_TYPE] = names.JSON
        if conversation_id is not None:
            _conversation_id.set(conversation_id)
        attributes.update(_conversation())
        if self._generation.agent_provider:
            attributes[names.PROVIDER_NAME] = _provider_name(agent.client)
        active = self._start(_span_name(names.INVOKE_AGENT, agent.name), attributes)
        if self._captures_content(active):
            active.span.set_attributes(_agent_content(agent, messages))
            if self._openinference:
                given = content.message_value(messages[-1]) if messages else ""
                active.span.set_attributes(_input_value(given))
        counts, meter = _CallCounts(), UsageCounter()
        _call_counts.set(counts)
        scope.extend(usage_counter=meter)

        def on_end(
            run: Optional[ToolRun], error: Optional[BaseException], chunk_times: Sequence[float]
        ) -> None:
            attributes = self._usage_attributes(
                meter.usage_or_none, self._generation.agent_provider
            )
            if run is not None:
                attributes.update(self._finish_reasons(run.reply))
                if self._captures_content(active):
                    attributes[names.OUTPUT_MESSAGES] = content.output_messages(run.reply)
                    if self._openinference:
                        answer = run.reply.text if run.parsed is None else run.parsed
                        attributes.update(_output_value(answer))
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
        attributes = dict(labels, **self._option_attributes(request.options))
        if request.streamed:
            attributes[names.REQUEST_STREAM] = True
        attributes.update(self._kind(names.LLM), **_conversation())
        active = self._start(_span_name(names.CHAT, request.model), attributes, SpanKind.CLIENT)
        if self._captures_content(active):
            active.span.set_attributes(_request_content(request))
            if self._openinference and request.messages:
                given = content.message_value(request.messages[-1])
                active.span.set_attributes(_input_value(given))
        prices = _known_prices(client) if self._openinference else None
        counts, meter = _call_counts.get(), UsageCounter()
        scope.extend(usage_counter=meter)
        if counts is not None:
            counts.requests.append(None)

        def on_end(
            reply: Optional[Reply], error: Optional[BaseException], chunk_times: Sequence[float]
        ) -> None:
            reply = reply if reply is not None else getattr(error, "partial", None)
            attributes = self._usage_attributes(meter.usage_or_none, with_cache=True)
            attributes.update(self._finish_reasons(reply))
            if prices is not None and meter.usage_or_none is not None:
                cost = cost_usd(meter.usage, request.model, client.provider, prices)
                if cost is not None:
                    attributes[names.USAGE_COST] = cost
            if not request.streamed:
                chunk_times = ()
            if chunk_times:
                attributes[names.RESPONSE_TIME_TO_FIRST_CHUNK] = chunk_times[0]
            if reply is not None:
                if reply.id is not None:
                    attributes[names.RESPONSE_ID] = reply.id
                if reply.model is not None:
                    attributes[names.RESPONSE_MODEL] = reply.model
                    labels[names.RESPONSE_MODEL] = reply.model
                if self._captures_content(active):
                    attributes[names.OUTPUT_MESSAGES] = content.output_messages(reply)
                    if self._openinference:
                        answer = content.message_value(reply.message)
                        attributes.update(_output_value(answer))
            failure = _error_attributes(error)
            seconds = active.end(error, dict(attributes, **failure))
            self._metrics.record_request(
                seconds, chunk_times, meter.usage_or_none, dict(labels, **failure)
            )

        return on_end

    def _start_tool_call(
        self, call: ToolCall, tool: Optional[Tool], redact: Optional[Redact]
    ) -> OnEnd:
        # The model invents the names of unknown tools: as labels they would be unbounded.
        tool_name = tool.name if tool is not None else names.OTHER
        labels: Attributes = {names.TOOL_NAME: tool_name}
        attributes = {
            names.OPERATION_NAME: names.EXECUTE_TOOL,
            names.TOOL_CALL_ID: call.id,
            names.TOOL_TYPE: names.FUNCTION,
        }
        attributes.update(self._kind(names.TOOL))
        if tool is not None and tool.description:
            attributes[names.TOOL_DESCRIPTION] = tool.description
        active = self._start(_span_name(names.EXECUTE_TOOL, tool_name), dict(attributes, **labels))
        if self._captures_content(active):
            arguments = content.tool_call_arguments(call.arguments)
            active.span.set_attribute(names.TOOL_CALL_ARGUMENTS, arguments)
            if self._openinference:
                active.span.set_attributes(_input_value(call.arguments))
        counts = _call_counts.get()
        if counts is not None:
            counts.tool_calls.append(None)

        def on_end(
            called: Optional[CalledTool],
            error: Optional[BaseException],
            chunk_times: Sequence[float],
        ) -> None:
            error = error if called is None else called.exception
            failure = _error_attributes(error)
            attributes: Attributes = dict(failure)
            if called is not None and self._captures_content(active):
                text = _redact(called.text, redact)
                result = content.tool_call_result(text, self._generation.object_results)
                attributes[names.TOOL_CALL_RESULT] = result
                if self._openinference:
                    attributes.update(_output_value(text))
            seconds = active.end(error, attributes, redact)
            self._metrics.record_tool_call(seconds, dict(labels, **failure))

        return on_end

    def _start(
        self, name: str, attributes: Attributes, kind: SpanKind = SpanKind.INTERNAL
    ) -> _ActiveSpan:
        return _ActiveSpan(self._tracer, name, kind, attributes, self._capture_content)

    # Attributes

    def _captures_content(self, active: _ActiveSpan) -> bool:
        return self._capture_content and active.span.is_recording()

    def _kind(self, kind: str) -> Attributes:
        """Return OpenInference's kind of a span, if the user opted in."""
        return {names.SPAN_KIND: kind} if self._openinference else {}

    def _records_values(self, active: _ActiveSpan) -> bool:
        return self._openinference and self._captures_content(active)

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

    def _option_attributes(self, given: Mapping[str, Any]) -> Attributes:
        attributes: Attributes = {}
        output_type = _output_type(given)
        if output_type is not None:
            attributes[names.OUTPUT_TYPE] = output_type
        options = dict(OPTIONS, top_k=(names.REQUEST_TOP_K, self._generation.top_k))
        for option, (name, convert) in options.items():
            if given.get(option) is not None:
                try:
                    attributes[name] = convert(given[option])
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


def _redact(text: str, redact: Optional[Redact]) -> str:
    try:
        return apply_redact(text, redact)
    except Exception:  # the tool loop logs it
        return WITHHELD


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
    return _content(request.messages, request.system, request.tools)


def _agent_content(agent: Agent, messages: List[ChatMessage]) -> Attributes:
    definitions = [tool.definition for tool in as_tools(agent.tools).values()]
    return _content(messages, agent.system, definitions)


def _content(
    messages: List[ChatMessage], system: System, tools: List[Dict[str, Any]]
) -> Attributes:
    attributes = {
        names.INPUT_MESSAGES: content.input_messages(messages),
        names.SYSTEM_INSTRUCTIONS: content.system_instructions(system),
        names.TOOL_DEFINITIONS: content.tool_definitions(tools),
    }
    return {name: value for name, value in attributes.items() if value is not None}


def _output_type(options: Mapping[str, Any]) -> Optional[str]:
    """Return the type of the output format that a request asks for; None if it asks for none."""
    config = options.get("output_config")
    form = options.get("response_format")
    if form is None and isinstance(config, Mapping):
        form = config.get("format")
    kind = form.get("type") if isinstance(form, Mapping) else None
    return OUTPUT_TYPES.get(kind) if isinstance(kind, str) else None


def _conversation() -> Attributes:
    """Return the id of the conversation of the enclosing agent, if there is one."""
    conversation_id = _conversation_id.get()
    return {} if conversation_id is None else {names.CONVERSATION_ID: conversation_id}


def _known_prices(client: InferenceClient) -> Dict[str, Price]:
    """Return the prices of the budgets that apply to a request, by model."""
    prices: Dict[str, Price] = {}
    own = () if client.budget is None else (client.budget,)
    for budget in scope.current().budgets + own:
        prices.update(budget.prices)
    return prices


def _task_input(attempt: Attempt) -> Dict[str, Any]:
    task = attempt.node.copy_task()
    parts = {"objective": task.objective, "params": task.params, "inputs": attempt.inputs}
    return {name: part for name, part in parts.items() if part}


def _input_value(value: Any) -> Attributes:
    text, mime_type = content.value(value)
    return {names.INPUT_VALUE: text, names.INPUT_MIME_TYPE: mime_type}


def _output_value(value: Any) -> Attributes:
    text, mime_type = content.value(value)
    return {names.OUTPUT_VALUE: text, names.OUTPUT_MIME_TYPE: mime_type}
