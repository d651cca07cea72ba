"""InferenceClient: the contract of every inference client, whatever its provider.

A provider implements one method, `_send`: send a request once, check its status, return its events.
Retries, usage, budgets, tools and structured output are implemented here, once.
"""

import abc
import contextlib
import contextvars
import copy
import functools
import threading
from contextlib import AbstractContextManager
from typing import (
    Any,
    Callable,
    ClassVar,
    Dict,
    FrozenSet,
    Iterable,
    List,
    Mapping,
    NoReturn,
    Optional,
    TypeVar,
)

from typing_extensions import Unpack

from asimov_sync import instrumentation
from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency import scope
from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.pool import WorkerPool
from asimov_sync.concurrency.tracebacks import short_tracebacks
from asimov_sync.errors import (
    AsimovError,
    BudgetExceeded,
    ClosedError,
    DeadlineExceeded,
    InferenceError,
    InvalidRequestError,
    RateLimitError,
)
from asimov_sync.inference.error_hints import add_option_hint
from asimov_sync.inference.options import (
    ClientOptions,
    RequestOptions,
    check_names,
    check_values,
)
from asimov_sync.inference.output.final_answer import FinalAnswer
from asimov_sync.inference.output.schema import Output
from asimov_sync.inference.output.strategy import OutputStrategy
from asimov_sync.inference.prompt_cache import with_cache_markers
from asimov_sync.inference.rate_limit import (
    Pause,
    RateLimit,
    Reservation,
    estimate_tokens,
    wait_for_slot,
)
from asimov_sync.inference.reply_events import (
    Accounts,
    AttemptEvents,
    EventSource,
    Progress,
    ReplyEvents,
    RetriedEvents,
)
from asimov_sync.inference.request import (
    DEFAULT_MAX_RETRIES,
    Request,
    System,
    Timeout,
    as_timeout,
)
from asimov_sync.inference.retry import MAX_RETRY_AFTER, retrying
from asimov_sync.inference.stream import ReplyStream, ToolStream, observe
from asimov_sync.inference.tools.approvals import Approvals
from asimov_sync.inference.tools.compaction import SUMMARY_SYSTEM, check_limit
from asimov_sync.inference.tools.loop import (
    Redact,
    SendMessages,
    ToolRun,
    ToolRunDone,
    tool_loop,
)
from asimov_sync.inference.tools.runner import ToolLoopEvents
from asimov_sync.inference.tools.tool import AnyTool, as_tools
from asimov_sync.inference.tools.transcript import take_transcript
from asimov_sync.instrumentation import Observation
from asimov_sync.messages import Messages, Reply, ReplyDone, Usage, as_messages
from asimov_sync.usage import Budget, UsageCounter

__all__ = ["Client", "InferenceClient"]

Client = TypeVar("Client", bound="InferenceClient")


class InferenceClient(abc.ABC):
    """Sends requests to a model. Safe to use from every thread, and in a forked child.

    model: the provider's id of the model.
    max_retries: how often a failed request is sent again if its error is transient (2, which is
        three attempts).
    timeout: the limits of each call: a `Timeout` (default: `Timeout()`), or a number of seconds,
        which is `Timeout(total=…)`.
    budget: limits the cost of all requests; None for no limit.
    rate_limit: limits the requests and tokens per minute; None for no limit.
    options: sent with every request, unless the call passes another value (see `RequestOptions`).
        An option that is None is not sent.

    Raises TypeError for an unknown option or a value of the wrong type, and ValueError for a value
    out of range.
    """

    provider: ClassVar[str]
    default_options: ClassVar[Dict[str, Any]] = {}
    """Values of options that the provider requires."""

    _option_names: ClassVar[Optional[FrozenSet[str]]] = None
    """The request options that the provider has; None accepts any name."""

    _prefers_native_output: ClassVar[bool] = False
    """True if the provider's own structured output is tried before a forced tool."""

    def __init__(self, model: str, **options: Unpack[ClientOptions]) -> None:
        self.model = model
        self.max_retries = DEFAULT_MAX_RETRIES
        self.timeout = Timeout()
        self.budget: Optional[Budget] = None
        self.rate_limit: Optional[RateLimit] = None
        self.options = dict(self.default_options)
        self._set_options(options, type(self))
        self._owner = True  # whether close() closes the connections and workers; False in copies
        self._closed = threading.Event()
        self._meter = UsageCounter()
        self._pause = Pause()
        self._output_strategy = OutputStrategy(self.provider, self._prefers_native_output)
        self._tool_workers = WorkerPool(None, name="asimov-tool")

    def _set_options(self, options: Mapping[str, Any], function: Callable[..., Any]) -> None:
        """Check the options that were given to a function of the client, and set them."""
        check_names(options, self._option_names, function, of_client=True)
        check_values(options)
        changed = dict(options)
        if "max_retries" in changed:
            self.max_retries = _max_retries(changed.pop("max_retries"))
        if "timeout" in changed:
            self.timeout = as_timeout(changed.pop("timeout"))
        if "budget" in changed:
            self.budget = changed.pop("budget")
        if "rate_limit" in changed:
            self.rate_limit = changed.pop("rate_limit")
        self.options = dict(self.options, **changed)

    # Implemented by providers

    @abc.abstractmethod
    def _send(
        self, request: Request, cancellation: Cancellation, deadline: Optional[float]
    ) -> "AbstractContextManager[ReplyEvents]":
        """Return a context manager that sends a request once.

        Entering it sends the request, checks the status and returns the events. Leaving it releases
        the connection.
        """

    def _count_tokens(
        self, request: Request, cancellation: Cancellation, deadline: Optional[float]
    ) -> int:
        """Return the number of the request's input tokens, as the provider counts them."""
        raise InvalidRequestError(
            f"{self.provider} has no endpoint that counts tokens", provider=self.provider
        )

    def _native_output(self, name: str, schema: Dict[str, Any]) -> Dict[str, Any]:
        """Return the options of the provider's own structured output; empty if it has none."""
        return {}

    # Requests

    def generate(
        self,
        messages: Messages,
        *,
        system: System = None,
        tools: Iterable[AnyTool] = (),
        output: Any = None,
        cancellation: Optional[Cancellation] = None,
        **options: Unpack[RequestOptions],
    ) -> Reply:
        """Send a request, and return the complete reply.

        A reply that is cut short by the network is requested again.

        messages: a str, a message, or a list of these.
        system: the system prompt, or None.
        tools: what the model may ask to call. No tool is called here; see `run_tools`.
        output: a pydantic model for the data, which is then in `reply.parsed`. A reply that does
            not match is requested once more, with its problem.
        cancellation: ends the call; the current token if None.
        options: options of this call, which override the client's (see `RequestOptions`).

        Raises InferenceError, OutputInvalid if the second reply does not match either, Cancelled,
        or ClosedError.
        """
        request = self._request(messages, system, tools, options)
        with short_tracebacks:
            if output is None:
                return self._complete_reply(request, cancellation)
            output_type = Output(output, [definition["name"] for definition in request.tools])
            return self._output_strategy.reply(
                request,
                output_type,
                self._native_options(output_type),
                lambda changed: self._complete_reply(changed, cancellation),
            )

    def _native_options(self, output_type: Output) -> Dict[str, Any]:
        if output_type.has_free_form_objects:
            return {}
        return self._native_output(output_type.name, output_type.schema)

    def _complete_reply(self, request: Request, cancellation: Optional[Cancellation]) -> Reply:
        with self._stream(request._replace(streamed=False), cancellation) as stream:
            for _event in stream:
                pass
            return stream.reply

    def stream(
        self,
        messages: Messages,
        *,
        system: System = None,
        tools: Iterable[AnyTool] = (),
        cancellation: Optional[Cancellation] = None,
        **options: Unpack[RequestOptions],
    ) -> ReplyStream:
        """Send a request, check its status, and return an iterator over the reply's events.

        A failed request is sent again as long as none of its events was delivered. After that, the
        error is raised: StreamInterrupted if the stream ended before its final event.

        messages: a str, a message, or a list of these.
        system: the system prompt, or None.
        tools: what the model may ask to call. No tool is called here; see `stream_tools`.
        cancellation: ends the stream; the current token if None.
        options: options of this call, which override the client's (see `RequestOptions`).

        Raises InferenceError, Cancelled, or ClosedError.
        """
        with short_tracebacks:
            return self._stream(self._request(messages, system, tools, options), cancellation)

    def run_tools(
        self,
        messages: Messages,
        tools: Iterable[AnyTool],
        *,
        system: System = None,
        output: Any = None,
        max_iterations: int = 10,
        approvals: Optional[Approvals] = None,
        trusted_history: bool = False,
        max_workers: Optional[int] = None,
        redact: Optional[Redact] = None,
        compact_at: Optional[int] = None,
        compact_with: Optional["InferenceClient"] = None,
        cancellation: Optional[Cancellation] = None,
        **options: Unpack[RequestOptions],
    ) -> ToolRun:
        """Send requests and call the tools that the model asks for, until it is done.

        messages: a str, a message, or a list of these: the history.
        tools: the tools.
        system: the system prompt, or None.
        output: a type as for `generate`. `run.parsed` is then the data, and the stop reason is
            "end_turn". The model gives the data by calling one more tool. If it ends with text, it
            is asked for the data; if the data does not match, it is asked once more. These
            requests count as iterations, so a loop that reaches max_iterations may have no data.
        max_iterations: the highest number of requests, at least 1 (default: 10).
        approvals: decisions about calls at the end of the history, by call id: True or
            `Approved(…)`; or the reason for a refusal, as a str or `Refused(…)`, which the model
            receives.
        trusted_history: whether unanswered calls at the end of the history that need no approval
            are made. By default (False) such a history is a ValueError.
        max_workers: the most parallel calls of one turn; None for 100, 0 for calls one after the
            other on this thread.
        redact: a function from str to str, applied to every tool result and exception before the
            model receives it.
        compact_at: the number of input tokens of a request, cached ones included, above which a
            summary replaces old messages before the next request; None (the default) for no
            limit. The first question, the last one, and the last reply with its results are kept.
            For messages that were not sent yet, the number is estimated.
        compact_with: the client that writes the summaries; None (the default) for this one.
        cancellation: ends the loop; the current token if None.
        options: options of the requests, which override the client's (see `RequestOptions`). The
            total of a `timeout` bounds the whole loop, with its tools: those that run longer are
            cancelled, and count as failed. The client's own total bounds each request.

        An exception of a tool is sent to the model, and is in `run.calls`. A call of a tool that
        `requires_approval` ends the run with the stop reason "approval" and the call in
        `run.pending`. `run_tools(run.messages, …, approvals={call.id: True})` continues, in any
        process.

        Raises InferenceError, with the history so far in its `.messages`, OutputInvalid, Cancelled,
        or ClosedError.
        """
        token = cancellation or Cancellation.current()
        with short_tracebacks:
            source = self._tool_loop(
                messages,
                tools,
                system,
                output,
                max_iterations,
                approvals,
                trusted_history,
                max_workers,
                redact,
                compact_at,
                compact_with,
                token,
                options,
                streamed=False,
            )
            last = None
            # Ctrl-C between two events closes the loop at once, which cancels the running tools.
            with contextlib.closing(source), contextlib.closing(source.read()) as events:
                for event in events:
                    last = event
        assert isinstance(last, ToolRunDone)
        return last.run

    def stream_tools(
        self,
        messages: Messages,
        tools: Iterable[AnyTool],
        *,
        system: System = None,
        output: Any = None,
        max_iterations: int = 10,
        approvals: Optional[Approvals] = None,
        trusted_history: bool = False,
        max_workers: Optional[int] = None,
        redact: Optional[Redact] = None,
        compact_at: Optional[int] = None,
        compact_with: Optional["InferenceClient"] = None,
        cancellation: Optional[Cancellation] = None,
        **options: Unpack[RequestOptions],
    ) -> ToolStream:
        """Like `run_tools`, but return an iterator over the events; `.run` holds the outcome.

        The first request is sent, and its status checked, before this returns. The parameters and
        errors are those of `run_tools`.
        """
        # The stream's own token: closing the stream unblocks its reader, and nothing else.
        token = Cancellation(parent=cancellation or Cancellation.current())
        context = contextvars.copy_context()
        with short_tracebacks:
            source = context.run(
                self._tool_loop,
                messages,
                tools,
                system,
                output,
                max_iterations,
                approvals,
                trusted_history,
                max_workers,
                redact,
                compact_at,
                compact_with,
                token,
                options,
                streamed=True,
            )
        return ToolStream(source, token, context)

    def _tool_loop(
        self,
        messages: Messages,
        tools: Iterable[AnyTool],
        system: System,
        output: Any,
        max_iterations: int,
        approvals: Optional[Approvals],
        trusted_history: bool,
        max_workers: Optional[int],
        redact: Optional[Redact],
        compact_at: Optional[int],
        compact_with: Optional["InferenceClient"],
        cancellation: Cancellation,
        options: RequestOptions,
        streamed: bool,
    ) -> EventSource:
        transcript = take_transcript()
        check_limit(compact_at, compact_with is not None)
        named = as_tools(tools)
        request = self._request([], system, named.values(), options)._replace(streamed=streamed)
        output_type = Output(output, named) if output is not None else None
        final: Optional[FinalAnswer] = None
        if output_type is not None:
            final = FinalAnswer(output_type, self.provider, bool(named))
        steps = tool_loop(
            as_messages(messages),
            max_iterations,
            named,
            approvals,
            redact,
            final,
            trusted_history,
            compact_at,
            lambda history: estimate_tokens(request._replace(messages=history)),
            transcript is not None,
        )
        if final is not None and named:
            request = request._replace(tools=request.tools + [final.definition])

        def send(step: SendMessages) -> ReplyStream:
            self._require_open()
            with_history = request._replace(messages=step.messages)
            if output_type is None or not step.force_output:
                return self._stream(with_history, cancellation)
            _method, stream = self._output_strategy.send_first_accepted(
                with_history,
                output_type,
                self._native_options(output_type),
                lambda changed: self._stream(changed, cancellation),
            )
            return stream

        deadline = request.deadline

        def summarize(prompt: str) -> Reply:
            # A context of its own: the summary is not part of the answer that listeners receive.
            context = contextvars.copy_context()
            context.run(scope.replace, text_listeners=())
            limits: RequestOptions = {}
            if deadline is not None:
                left = max(0.0, deadline - clock.monotonic())
                limits = {"timeout": request.timeout._replace(total=left)}
            generate = functools.partial((compact_with or self).generate, prompt, **limits)
            return context.run(generate, system=SUMMARY_SYSTEM, cancellation=cancellation)

        return ToolLoopEvents(
            steps,
            send,
            summarize,
            named,
            self._tool_workers,
            max_workers,
            cancellation,
            deadline,
            redact,
            transcript,
        )

    def count_tokens(
        self,
        messages: Messages,
        *,
        system: System = None,
        tools: Iterable[AnyTool] = (),
        cancellation: Optional[Cancellation] = None,
        **options: Unpack[RequestOptions],
    ) -> int:
        """Return the number of a request's input tokens, as the provider counts them.

        Nothing is generated. The parameters are those of `generate`.

        Raises InvalidRequestError if the provider has no endpoint for it, another InferenceError,
        Cancelled, or ClosedError.
        """
        request = self._with_cache_markers(self._request(messages, system, tools, options))
        deadline = _deadline(request)
        token = Cancellation(parent=cancellation or Cancellation.current())
        with short_tracebacks:
            for attempt in retrying(request.max_retries, token, deadline, lambda: True):
                with attempt:
                    wait_for_slot(self._pause, None, 0, token, deadline, self.provider)
                    try:
                        return self._count_tokens(request, token, deadline)
                    except InferenceError as error:
                        self._note_failure(error, request)
                        raise
        raise AssertionError("the retries ended without a result or an error")

    # Sending

    def _require_open(self) -> None:
        if self._closed.is_set():
            raise ClosedError(f"{self!r} was closed: make a new client")

    def _request(
        self,
        messages: Messages,
        system: System,
        tools: Iterable[AnyTool],
        options: RequestOptions,
    ) -> Request:
        """Check the arguments of a call, and return its request."""
        self._require_open()
        check_names(options, self._option_names, self.generate)
        check_values(options)
        given: Dict[str, Any] = dict(options)
        timeout, max_retries, deadline = self.timeout, self.max_retries, None
        if "timeout" in given:
            timeout = as_timeout(given.pop("timeout"))
            if timeout.total is not None:
                deadline = clock.monotonic() + timeout.total
        if "max_retries" in given:
            max_retries = _max_retries(given.pop("max_retries"))
        merged = {
            name: value for name, value in dict(self.options, **given).items() if value is not None
        }
        definitions: List[Dict[str, Any]] = [tool.definition for tool in as_tools(tools).values()]
        return Request(
            self.model,
            as_messages(messages),
            system,
            definitions,
            merged,
            timeout=timeout,
            max_retries=max_retries,
            deadline=deadline,
        )

    def _with_cache_markers(self, request: Request) -> Request:
        """Apply the prompt_cache option."""
        if "prompt_cache" not in request.options:
            return request
        options = {name: value for name, value in request.options.items() if name != "prompt_cache"}
        return with_cache_markers(request._replace(options=options))

    def _stream(self, request: Request, cancellation: Optional[Cancellation]) -> ReplyStream:
        # The stream's own token: closing the stream unblocks its reader, and nothing else.
        token = Cancellation(parent=cancellation or Cancellation.current())
        marked = self._with_cache_markers(request)
        deadline = _deadline(request)
        installed = instrumentation.installed
        if installed is None:
            source: EventSource = self._send_with_retries(marked, token, deadline)
        else:
            source = observe(
                lambda: self._send_with_retries(marked, token, deadline),
                Observation(installed.request, self, request),
                ReplyDone,
            )
        return ReplyStream(source, token)

    def _send_with_retries(
        self, request: Request, cancellation: Cancellation, deadline: Optional[float]
    ) -> RetriedEvents:
        """Send a request until a status is good; return its events.

        Failures are retried until an event was delivered, or to the end if the caller receives only
        the complete reply.
        """
        # Taken from the caller's context: another thread may read the events.
        listeners = scope.current().text_listeners
        own_budgets = (self.budget,) if self.budget is not None else ()
        budgets = tuple(dict.fromkeys(scope.current().budgets + own_budgets))
        accounts = Accounts(
            scope.current().usage_counters + (self._meter,),
            budgets,
            request.model,
            self.provider,
            scope.current().span_recorders,
        )
        accounts.ensure_priced()
        progress = Progress()

        def open_attempt() -> AttemptEvents:
            if deadline is not None and clock.monotonic() >= deadline:
                raise DeadlineExceeded(
                    f"the call took longer than timeout.total, {request.timeout.total} s: "
                    "the request was not sent",
                    provider=self.provider,
                )
            accounts.check_budgets()  # fails before the wait for a slot
            reservation = self._wait_for_slot(request, cancellation, deadline)
            try:
                accounts.reserve_request()
            except BudgetExceeded:  # another thread has sent the last request meanwhile
                if self.rate_limit is not None and reservation is not None:
                    self.rate_limit.give_back(reservation)
                raise
            return AttemptEvents(
                self._send(request, cancellation, deadline),
                accounts,
                reservation,
                listeners,
                progress,
                lambda error: self._note_failure(error, request),
            )

        retries = retrying(
            request.max_retries,
            cancellation,
            deadline,
            lambda: not (request.streamed and progress.delivered),
        )
        return RetriedEvents(open_attempt, retries)

    def _wait_for_slot(
        self, request: Request, cancellation: Cancellation, deadline: Optional[float]
    ) -> Optional[Reservation]:
        limit = self.rate_limit
        tokens = 0
        if limit is not None and limit.tokens_per_minute is not None:
            tokens = estimate_tokens(request)
        return wait_for_slot(self._pause, limit, tokens, cancellation, deadline, self.provider)

    def _note_failure(self, error: AsimovError, request: Request) -> None:
        """Pause the client after a Retry-After; name a rejected option in the message."""
        if isinstance(error, RateLimitError):
            seconds = error.retry_after
            if seconds and seconds <= MAX_RETRY_AFTER:
                self._pause.extend(clock.monotonic() + seconds)
        if isinstance(error, InvalidRequestError):
            add_option_hint(error, request)

    # The client itself

    @property
    def usage(self) -> Usage:
        """The tokens of all replies of this client and its `with_options` copies.

        Includes incomplete replies, as far as their usage was reported.
        """
        return self._meter.usage

    def with_options(
        self: Client, *, model: Optional[str] = None, **options: Unpack[ClientOptions]
    ) -> Client:
        """Return a copy with other options, which shares the connections and the usage.

        model: the provider's id of the model; that of this client if None.
        options: max_retries, timeout, budget, rate_limit, and options of requests (see
            `RequestOptions`). None resets an option.
        """
        twin = copy.copy(self)
        twin._owner = False
        if model is not None:
            twin.model = model
        twin._set_options(options, self.with_options)
        return twin

    def __copy__(self: Client) -> Client:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a client is not pickled, because its key must not travel: make the "
            f"{type(self).__name__} in the process that uses it, at the top level of a module"
        )

    def close(self) -> None:
        """Close the idle connections. Every later call of the client or a copy raises ClosedError.

        Requests that are under way end normally. Does nothing for a `with_options` copy, or the
        second time.
        """
        if self._owner:
            self._closed.set()
            self._tool_workers.shutdown(wait=False)

    def __enter__(self: Client) -> Client:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.model}>"


def _max_retries(value: Optional[int]) -> int:
    return DEFAULT_MAX_RETRIES if value is None else value


def _deadline(request: Request) -> Optional[float]:
    """Return the `clock.monotonic()` deadline of a request that starts now, or None."""
    if request.deadline is not None or request.timeout.total is None:
        return request.deadline
    return clock.monotonic() + request.timeout.total
