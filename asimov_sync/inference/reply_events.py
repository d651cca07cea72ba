"""The events of one reply: an opened response, the usage it costs, and its retries.

A source of events is open once it is made: the request was sent, and the response's status is good.
`read` then returns the events, and `close` releases the connection. Sources wrap each other:

    ReplyEvents      a provider's response: its events, and the reply so far
    AttemptEvents    records usage, and feeds text listeners
    RetriedEvents    sends the request again after a failure

A source never refers to its own reader, so that a stream that is dropped is closed at once, by the
reader's reference count.
"""

import abc
import logging
import time
from contextlib import AbstractContextManager
from typing import Any, Callable, Generator, Iterator, NamedTuple, Optional, Tuple, Union

from asimov_sync._json import format_error
from asimov_sync.concurrency.log_context import describe_error, get_logger
from asimov_sync.errors import Cancelled, InferenceError
from asimov_sync.inference.rate_limit import Reservation
from asimov_sync.inference.retry import RetryPolicy
from asimov_sync.instrumentation import StartReply, listen_to_reply
from asimov_sync.messages import Event, Reply, ReplyDone, Usage
from asimov_sync.spans import OpenSpan, SpanRecorder, open_span
from asimov_sync.usage import Budget, UsageCounter, reserve_request

__all__ = ["Accounts", "AttemptEvents", "EventSource", "Progress", "ReplyEvents", "RetriedEvents"]

logger = get_logger("asimov_sync.inference")

EventReader = Generator[Event, None, None]

Failure = Union[InferenceError, Cancelled]


class EventSource(abc.ABC):
    """Opened events: one caller reads them, and closes the source."""

    @abc.abstractmethod
    def read(self) -> EventReader:
        """Return a generator of the events. Closing it, once it was started, closes the source."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release the connection. For a source that nobody has started to read."""


class ReplyEvents(NamedTuple):
    """A provider's response that is being received.

    events: the events that the caller receives (no pings). They end with ReplyDone, or raise.
    partial: returns the reply as far as it has arrived; None if that is unknown.
    """

    events: Iterator[Event]
    partial: Callable[[], Optional[Reply]]


class Accounts(NamedTuple):
    """The counters and budgets that record the usage of one request.

    counters: the usage counters of the context of the request, and that of the client.
    budgets: the budgets of the context and of the client.
    model, provider: those of the request, for the budgets.
    recorders: the recorders of the context, which keep the time of each request.
    """

    counters: Tuple[UsageCounter, ...]
    budgets: Tuple[Budget, ...]
    model: str
    provider: str
    recorders: Tuple[SpanRecorder, ...] = ()

    def ensure_priced(self) -> None:
        """Raise ValueError if a budget limits dollars and the price of the model is unknown."""
        for budget in self.budgets:
            budget.ensure_priced(self.model, self.provider)

    def open_span(self) -> OpenSpan:
        """Begin the span of a request that is about to be sent."""
        return open_span("model", self.model, self.recorders)

    def check_budgets(self) -> None:
        """Raise BudgetExceeded if a budget is used up."""
        for budget in self.budgets:
            budget.check(self.provider)

    def reserve_request(self) -> None:
        """Count a request that is about to be sent. Raises BudgetExceeded as `check_budgets`."""
        reserve_request(self.budgets, self.provider)

    def record_usage(self, usage: Optional[Usage], reservation: Optional[Reservation]) -> None:
        """Add usage to all counters and budgets, and to the rate limit. None changes nothing."""
        if usage is None:
            return
        for counter in self.counters:
            counter.add(usage)
        for budget in self.budgets:
            budget.add(usage, self.model, self.provider)
        if reservation is not None:
            reservation.tokens = usage.total_tokens


class Progress:
    """Records whether an event of the reply was delivered to the caller."""

    __slots__ = ("delivered",)

    def __init__(self) -> None:
        self.delivered = False


class AttemptEvents(EventSource):
    """The events of one attempt. Records its usage, and passes its text to the listeners.

    sent: sends the request when it is entered, and closes the connection when it is left.
    accounts: what the usage is recorded in.
    reservation: the attempt's slot in the rate limit, or None.
    listeners: the text listeners.
    progress: updated at the first event.
    note_failure: called with the error of a failed attempt.

    Raises the error of the request.
    """

    def __init__(
        self,
        sent: "AbstractContextManager[ReplyEvents]",
        accounts: Accounts,
        reservation: Optional[Reservation],
        listeners: Tuple[StartReply, ...],
        progress: Progress,
        note_failure: Callable[[Failure], None],
    ) -> None:
        self._accounts = accounts
        self._reservation = reservation
        self._listeners = listeners
        self._progress = progress
        self._note_failure = note_failure
        self._sent: "Optional[AbstractContextManager[ReplyEvents]]" = sent
        self._listen: Optional[Callable[[Optional[Event]], None]] = None
        self._start = time.perf_counter()
        self._span = accounts.open_span()
        logger.debug("request to %s (%s)", accounts.model, accounts.provider)
        try:
            self._reply = sent.__enter__()
        except (InferenceError, Cancelled) as error:
            self._fail(error)
            raise
        except Exception as error:  # the request is invalid, and was not sent
            self._span.finish(error=format_error(error))
            raise

    def read(self) -> EventReader:
        """Return a generator of the events."""
        sent, self._sent = self._sent, None
        complete = False
        try:
            with _Entered(sent):
                progress = self._progress
                listen = self._listen = listen_to_reply(self._listeners)
                for event in self._reply.events:
                    progress.delivered = True
                    if listen is not None:
                        listen(event)
                    if isinstance(event, ReplyDone):
                        complete = True
                        self._span.finish(event.reply.usage)
                        self._accounts.record_usage(event.reply.usage, self._reservation)
                        self._log_reply(event.reply)
                    yield event
        except GeneratorExit:
            if not complete:
                partial = self._reply.partial()
                self._span.finish(None if partial is None else partial.usage)
                self._record_partial(partial)
            raise
        except (InferenceError, Cancelled) as error:
            self._fail(error)
            raise

    def withdraw_text(self) -> None:
        """Notify the listeners that the text of this attempt does not count."""
        if self._listen is not None:
            self._listen(None)

    def close(self) -> None:
        """Close the connection. Nothing was read, so there is no usage to record."""
        sent, self._sent = self._sent, None
        if sent is not None:
            self._span.finish()
            sent.__exit__(None, None, None)

    def _log_reply(self, reply: Reply) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            usage = reply.usage
            logger.debug(
                "reply of %s (%s) after %.3f s: %s, %d input and %d output tokens",
                self._accounts.model,
                self._accounts.provider,
                time.perf_counter() - self._start,
                reply.stop_reason,
                usage.total_tokens - usage.output_tokens,
                usage.output_tokens,
            )

    def _fail(self, error: Failure) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "request to %s (%s) failed after %.3f s: %s",
                self._accounts.model,
                self._accounts.provider,
                time.perf_counter() - self._start,
                describe_error(error),
            )
        usage = None if error.partial is None else error.partial.usage
        self._span.finish(usage, format_error(error))
        self._record_partial(error.partial)
        self._note_failure(error)

    def _record_partial(self, partial: Optional[Reply]) -> None:
        """Record the usage of an incomplete reply, which providers bill, if any was reported."""
        if partial is not None and partial.usage.total_tokens:
            self._accounts.record_usage(partial.usage, self._reservation)


class _Entered:
    """Leaves a context manager that was entered before."""

    def __init__(self, manager: "Optional[AbstractContextManager[ReplyEvents]]") -> None:
        self._manager = manager

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc_info: Any) -> "Optional[bool]":
        return None if self._manager is None else self._manager.__exit__(*exc_info)


class RetriedEvents(EventSource):
    """The events of a reply over all its attempts.

    open_attempt: sends the request once.
    retries: the policy; it must refuse a retry once the caller has received content.

    Raises the error of the last attempt.
    """

    def __init__(self, open_attempt: Callable[[], AttemptEvents], retries: RetryPolicy) -> None:
        self._open_attempt = open_attempt
        self._retries = iter(retries)
        self._open()

    def _open(self) -> None:
        for attempt in self._retries:
            with attempt:  # suppresses an error; the next iteration waits, or raises it
                self._attempt = self._open_attempt()
                self._retry_state = attempt.retry_state
                return

    def read(self) -> EventReader:
        """Return a generator of the events."""
        while True:
            try:
                yield from self._attempt.read()
                return
            except InferenceError as error:
                self._retry_state.set_exception((type(error), error, error.__traceback__))
            failed = self._attempt
            self._open()
            failed.withdraw_text()

    def close(self) -> None:
        """Close the connection of the current attempt."""
        self._attempt.close()
