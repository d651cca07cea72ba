"""The contract of every inference client: what a request, a reply, a stream and a tool loop mean, whatever the provider.

A provider brings one method, `_attempt`: send a request once, check its status, hand on its events. Retries, folding,
tools and metering are done here, once.
"""

import abc
import contextlib
import copy
import time
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Dict, Generator, Iterable, Iterator, List, Optional, Tuple, TypeVar

from asimov_sync import instrumentation
from asimov_sync.cancellation import Cancellation, require_number
from asimov_sync.concurrency import scope
from asimov_sync.concurrency.pool import WorkerPool
from asimov_sync.errors import AsimovError, Cancelled, InferenceError, InvalidRequestError, RateLimitError, StreamInterrupted
from asimov_sync.inference.error_hints import advise
from asimov_sync.inference.output.final_answer import FinalAnswer
from asimov_sync.inference.output.schema import Output
from asimov_sync.inference.output.strategy import OutputWays
from asimov_sync.inference.prompt_cache import with_cache_markers
from asimov_sync.inference.rate_limit import Pause, RateLimit, Slot, admitted, estimated_tokens
from asimov_sync.inference.request import Request, System, Timeout
from asimov_sync.inference.retry import LONGEST_RETRY_AFTER, retrying
from asimov_sync.inference.stream import ReplyStream, ToolStream, watched
from asimov_sync.inference.tools.driving import driven
from asimov_sync.inference.tools.loop import Approvals, Ask, Redact, ToolRun, ToolRunDone, conversation
from asimov_sync.inference.tools.tool import AnyTool, as_tools
from asimov_sync.instrumentation import Observation, listen_to_reply
from asimov_sync.messages import Event, Messages, Reply, ReplyDone, Usage, as_messages
from asimov_sync.usage import Budget, UsageCounter, reserve_request

__all__ = ["Client", "InferenceClient"]

Client = TypeVar("Client", bound="InferenceClient")


class InferenceClient(abc.ABC):
    """Asks a model. Safe from every thread, and in a forked child.

    max_retries: how often a failed request is sent again where that may help (2, so three attempts). timeout: a Timeout.
    options: sent with every request, unless the call gives its own; an option that is None is not sent.
    """

    provider: ClassVar[str]
    default_options: ClassVar[Dict[str, Any]] = {}
    """What the wire requires where the caller gives nothing."""

    _prefers_native_output: ClassVar[bool] = False
    """Whether the provider's own structured output is tried before a tool that the model is made to call."""

    def __init__(
        self,
        model: str,
        max_retries: int = 2,
        timeout: Optional[Timeout] = None,
        budget: Optional[Budget] = None,
        rate_limit: Optional[RateLimit] = None,
        **options: Any,
    ) -> None:
        self.model = model
        self.max_retries = max_retries
        self.timeout = timeout if timeout is not None else Timeout()
        _require_numbers(self.timeout)
        self.budget = budget
        self.rate_limit = rate_limit
        self.options = dict(self.default_options, **options)
        self._owner = True  # of the connections and workers, which its twins share
        self._meter = UsageCounter()
        self._pause = Pause()
        self._output_ways = OutputWays(self.provider, self._prefers_native_output)
        self._tool_workers = WorkerPool(None, name="asimov-tool")

    # What a provider brings

    @abc.abstractmethod
    def _attempt(
        self, request: Request, cancellation: Cancellation, deadline: Optional[float]
    ) -> "AbstractContextManager[Iterator[Event]]":
        """Send a request once.

        Entering sends it and checks its status; the iterator gives what reaches the caller (no pings), and ends with
        ReplyDone or raises. Leaving gives up the connection.
        """

    def _count(self, request: Request, cancellation: Cancellation, deadline: Optional[float]) -> int:
        """Ask the provider how many tokens the request's input has."""
        raise InvalidRequestError("{} has no endpoint that counts tokens".format(self.provider), provider=self.provider)

    def _native_output(self, name: str, schema: Dict[str, Any]) -> Dict[str, Any]:
        """The options that ask for the provider's own structured output; empty where it has none."""
        return {}

    # Asking

    def generate(
        self,
        messages: Messages,
        system: System = None,
        tools: Iterable[AnyTool] = (),
        output: Any = None,
        cancellation: Optional[Cancellation] = None,
        **options: Any,
    ) -> Reply:
        """Ask, and wait for the whole reply. A reply that is cut short on the way is asked for again.

        messages: a str, a message, or a list of these. tools: what the model may want called; nothing is called here
        (see `run_tools`). output: a pydantic model that the reply is to be; `reply.parsed` is then one. A reply that does
        not fit is asked for once more, with what was wrong; OutputInvalid if that does not help. Raises an InferenceError,
        or Cancelled.
        """
        request = self._request(messages, system, tools, options)
        if output is None:
            return self._whole_reply(request, cancellation)
        wanted = Output(output, [definition["name"] for definition in request.tools])
        native = self._native_options(wanted)
        return self._output_ways.reply(request, wanted, native, lambda asked: self._whole_reply(asked, cancellation))

    def _native_options(self, wanted: Output) -> Dict[str, Any]:
        return {} if wanted.open_ended else self._native_output(wanted.name, wanted.schema)

    def _whole_reply(self, request: Request, cancellation: Optional[Cancellation]) -> Reply:
        with self._stream(request._replace(streamed=False), cancellation) as stream:
            for _event in stream:
                pass
            return stream.reply

    def stream(
        self,
        messages: Messages,
        system: System = None,
        tools: Iterable[AnyTool] = (),
        cancellation: Optional[Cancellation] = None,
        **options: Any,
    ) -> ReplyStream:
        """Ask, check the status, and return the reply's events to iterate over, each handed on as it arrives.

        A request that fails is sent again as long as nothing of its reply has been handed on; after that a failure is
        raised as it is, StreamInterrupted where the stream just ended.
        """
        return self._stream(self._request(messages, system, tools, options), cancellation)

    def run_tools(
        self,
        messages: Messages,
        tools: Iterable[AnyTool],
        max_iterations: int = 10,
        approvals: Optional[Approvals] = None,
        max_workers: Optional[int] = None,
        system: System = None,
        redact: Optional[Redact] = None,
        cancellation: Optional[Cancellation] = None,
        output: Any = None,
        **options: Any,
    ) -> ToolRun:
        """Ask, call the tools that the model wants, tell it what came of that, and so on until it is done.

        max_iterations: how many requests may be made. max_workers: how many calls of one turn are made at once; None for
        all of them (a hundred at the most), 0 for one after the other on this thread. Whatever a tool raises is told to the
        model, and is in `.calls`; redact: what every result and exception text passes through before that.

        The call of a tool that `requires_approval` is not made: the run ends with the stop_reason "approval" and the call
        in `.pending`. `run_tools(run.messages, …, approvals={call.id: True})` goes on, in any process; a str in place of
        True is a refusal, and the reason that the model is told.

        output: a type as for `generate`; `run.parsed` is then one, and the stop_reason "end_turn". The model gives it by
        calling one more tool when it is done. If it ends with words instead, it is asked for the data; if that does not fit,
        it is told so once, and then it is an OutputInvalid. These requests count, too: at max_iterations there may be none.

        Raises an InferenceError where the model cannot be asked, with the history so far in its `.messages`, or Cancelled.
        """
        own = cancellation or Cancellation.current()
        loop = self._tool_loop(
            messages, tools, max_iterations, approvals, max_workers, system, redact, own, output, options, False
        )
        end = None
        # Closed at once where Ctrl-C strikes between two events: the tools are told then, and not when the traceback is gone.
        with contextlib.closing(loop):
            for event in loop:
                end = event
        assert isinstance(end, ToolRunDone)
        return end.run

    def stream_tools(
        self,
        messages: Messages,
        tools: Iterable[AnyTool],
        max_iterations: int = 10,
        approvals: Optional[Approvals] = None,
        max_workers: Optional[int] = None,
        system: System = None,
        redact: Optional[Redact] = None,
        cancellation: Optional[Cancellation] = None,
        output: Any = None,
        **options: Any,
    ) -> ToolStream:
        """As `run_tools`, but returns the events to iterate over, each handed on as it happens; `.run` after the end.

        The first request is sent, and its status checked, before it returns.
        """
        # A token of its own under the caller's, so that closing the stream frees its reader and nobody else.
        own = Cancellation(parent=cancellation or Cancellation.current())
        loop = self._tool_loop(
            messages, tools, max_iterations, approvals, max_workers, system, redact, own, output, options, True
        )
        return ToolStream(loop, own)

    def _tool_loop(
        self,
        messages: Messages,
        tools: Iterable[AnyTool],
        max_iterations: int,
        approvals: Optional[Approvals],
        max_workers: Optional[int],
        system: System,
        redact: Optional[Redact],
        cancellation: Cancellation,
        output: Any,
        options: Dict[str, Any],
        streamed: bool,
    ) -> Generator[Optional[Event], None, None]:
        named = as_tools(tools)
        guarded = {name for name, tool in named.items() if tool.requires_approval}
        request = self._request([], system, named.values(), options)._replace(streamed=streamed)
        wanted = Output(output, named) if output is not None else None
        final = FinalAnswer(wanted, self.provider, bool(named)) if wanted is not None else None
        steps = conversation(as_messages(messages), max_iterations, guarded, approvals, redact, final)
        if final is not None and named:
            request = request._replace(tools=request.tools + [final.definition])

        def ask(step: Ask) -> ReplyStream:
            asked = request._replace(messages=step.messages)
            if wanted is None or not step.insist:
                return self._stream(asked, cancellation)
            native = self._native_options(wanted)
            return self._output_ways.first(asked, wanted, native, lambda one: self._stream(one, cancellation))[1]

        return driven(steps, ask, named, self._tool_workers, max_workers, cancellation)

    def count_tokens(
        self,
        messages: Messages,
        system: System = None,
        tools: Iterable[AnyTool] = (),
        cancellation: Optional[Cancellation] = None,
        **options: Any,
    ) -> int:
        """How many tokens a request's input has, as the provider counts them; nothing is generated.

        InvalidRequestError where the provider has no endpoint for it.
        """
        request = self._cached(self._request(messages, system, tools, options))
        deadline = self._deadline()
        own = Cancellation(parent=cancellation or Cancellation.current())
        for attempt in retrying(self.max_retries, own, deadline, lambda: True):
            with attempt:
                admitted(self._pause, None, 0, own, deadline, self.provider)
                try:
                    return self._count(request, own, deadline)
                except InferenceError as error:
                    self._learn(error, request)
                    raise
        raise AssertionError("a retry that ends without a result or an error")

    # A request

    def _request(self, messages: Messages, system: System, tools: Iterable[AnyTool], options: Dict[str, Any]) -> Request:
        merged = {name: value for name, value in dict(self.options, **options).items() if value is not None}
        definitions: List[Dict[str, Any]] = [tool.definition for tool in as_tools(tools).values()]
        return Request(self.model, as_messages(messages), system, definitions, merged)

    def _cached(self, request: Request) -> Request:
        """The request with the cache markers that prompt_cache asks for."""
        if "prompt_cache" not in request.options:
            return request
        if request.options["prompt_cache"] != "auto":
            raise ValueError('prompt_cache is "auto", or not given; not {!r}'.format(request.options["prompt_cache"]))
        options = {name: value for name, value in request.options.items() if name != "prompt_cache"}
        return with_cache_markers(request._replace(options=options))

    def _deadline(self) -> Optional[float]:
        return None if self.timeout.total is None else time.monotonic() + self.timeout.total

    def _stream(self, request: Request, cancellation: Optional[Cancellation]) -> ReplyStream:
        # A token of its own under the caller's, so that closing the stream frees its reader and nobody else.
        own = Cancellation(parent=cancellation or Cancellation.current())
        events = self._attempts(self._cached(request), own, self._deadline())
        installed = instrumentation.installed
        if installed is not None:
            events = watched(events, Observation(installed.request, self, request), own)
        return ReplyStream(events, own)

    def _attempts(
        self, request: Request, cancellation: Cancellation, deadline: Optional[float]
    ) -> Generator[Optional[Event], None, None]:
        """The events of a reply, after a first None once a status is good; retries while nothing was handed on."""
        # Those of whoever asked: the events may be read elsewhere.
        meters = scope.current().usage_counters + (self._meter,)
        taps = scope.current().text_listeners
        budgets = tuple(dict.fromkeys(scope.current().budgets + ((self.budget,) if self.budget is not None else ())))
        reserve_request(budgets, request.model, self.provider)
        opened = handed_on = whole = False
        for attempt in retrying(self.max_retries, cancellation, deadline, lambda: not (request.streamed and handed_on)):
            with attempt:
                slot = self._admitted(request, cancellation, deadline)
                for budget in budgets:
                    budget.check(self.provider)
                try:
                    with self._attempt(request, cancellation, deadline) as events:
                        if not opened:
                            opened = True
                            yield None
                        tell = listen_to_reply(taps)
                        for event in events:
                            handed_on = True
                            if tell is not None:
                                tell(event)
                            if isinstance(event, ReplyDone):
                                whole = True
                                self._charge(event.reply.usage, request, meters, budgets, slot)
                            yield event
                except GeneratorExit:
                    if not whole:
                        self._charge(_figures(_so_far(events)), request, meters, budgets, slot)
                    raise
                except (InferenceError, Cancelled) as failed:
                    self._charge(_figures(failed.partial), request, meters, budgets, slot)
                    self._learn(failed, request)
                    raise

    def _admitted(self, request: Request, cancellation: Cancellation, deadline: Optional[float]) -> Optional[Slot]:
        limit = self.rate_limit
        tokens = estimated_tokens(request) if limit is not None and limit.tokens_per_minute is not None else 0
        return admitted(self._pause, limit, tokens, cancellation, deadline, self.provider)

    def _learn(self, error: AsimovError, request: Request) -> None:
        """What a failure says to this client's other threads, and to whoever reads it."""
        if isinstance(error, RateLimitError) and error.retry_after and error.retry_after <= LONGEST_RETRY_AFTER:
            self._pause.extend(time.monotonic() + error.retry_after)
        if isinstance(error, InvalidRequestError):
            advise(error, request)

    def _charge(
        self,
        usage: Optional[Usage],
        request: Request,
        meters: Tuple[UsageCounter, ...],
        budgets: Tuple[Budget, ...],
        slot: Optional[Slot],
    ) -> None:
        if usage is None:
            return
        for meter in meters:
            meter.add(usage)
        for budget in budgets:
            budget.add(usage, request.model, self.provider)
        if slot is not None:
            slot.tokens = usage.total_tokens

    # The client itself

    @property
    def usage(self) -> Usage:
        """The tokens of all replies that this client, and those made `with_options` of it, have received; those of replies
        that were cut short, as far as they were told.
        """
        return self._meter.usage

    def with_options(self: Client, **options: Any) -> Client:
        """This client with other options: the same connections, the same usage. None takes an option back."""
        twin = copy.copy(self)
        twin._owner = False
        for name in ("model", "max_retries", "timeout", "budget", "rate_limit"):
            if name in options:
                setattr(twin, name, options.pop(name))
        _require_numbers(twin.timeout)
        twin.options = dict(self.options, **options)
        return twin

    def close(self) -> None:
        """Close the connections that nobody uses, and take no more tool calls; nothing for a client made `with_options`."""
        if self._owner:
            self._tool_workers.shutdown(wait=False)

    def __enter__(self) -> "InferenceClient":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return "<{} of {}>".format(type(self).__name__, self.model)


def _so_far(events: Iterator[Event]) -> Optional[Reply]:
    """What had arrived of a reply whose reader has given it up; None where its events do not know."""
    given_up = StreamInterrupted("the reader has given it up")
    if isinstance(events, Generator):
        with contextlib.suppress(StreamInterrupted):
            events.throw(given_up)
    return given_up.partial


def _figures(cut: Optional[Reply]) -> Optional[Usage]:
    """What a reply that was cut short is charged with: it is billed all the same. None where it had told nothing yet."""
    return cut.usage if cut is not None and cut.usage.total_tokens else None


def _require_numbers(timeout: Timeout) -> None:
    """Raise ValueError if a limit is NaN."""
    for name, seconds in timeout._asdict().items():
        require_number(f"Timeout({name}=…)", seconds)
