"""The channel between a run and the processes that call its handlers, while they are called.

It is a cache that both share. Everything in it is JSON, expires by itself, and is distrusted:

===============  ==================================================================================
key              value
===============  ==================================================================================
call.0, .1 …     a part of the call's events, as lists [reply, text, fraction, data]
call.cancel      why the call is cancelled
call.request     {"id", "do", "args"}: what the call asks of the run
call.reply.id    {"value"} or {"error", "message"}: the reply of the run to a request
===============  ==================================================================================

An executor may make a call twice at once. Then each process repeats its request until it has the
reply, in case the other one has overwritten it.

A call is named by a random id. Without such a cache, events come with the report of the call, and
a handler is cancelled by its deadline only.
"""

import threading
import uuid
from typing import Any, Callable, Dict, List, Optional, Set

from asimov_sync._json import to_jsonable
from asimov_sync.cache.address import CacheAddress
from asimov_sync.cache.base import Cache
from asimov_sync.cache.opening import find_address, open_address
from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.event import InterruptibleEvent
from asimov_sync.concurrency.fork import ForkSafeLock, reset_after_fork
from asimov_sync.concurrency.log_context import describe_error, get_logger
from asimov_sync.errors import CacheError, CacheUnavailable, CacheValueError, Cancelled
from asimov_sync.graph.envelope import CallEvent
from asimov_sync.graph.journal import ErrorRecord
from asimov_sync.graph.stored_errors import describe_exception, rebuild_exception

__all__ = ["CallChannel", "RunChannel"]

logger = get_logger("asimov_sync.graph")

PREFIX = "remote"
"""The namespace of the channel in the scheduler's cache."""

PERIOD = 0.1
"""Seconds between two looks of either side."""

REQUEST_PERIOD = 0.02
"""Seconds between two looks for the reply to a request."""

REPEAT_LOOKS = 15
"""The number of looks after which a request is repeated."""

KEEP_SECONDS = 300.0
"""Seconds after which what was written expires."""

REPLY_SECONDS = 60.0
"""The longest wait for the reply to a request. The process of the run may be dead."""


# The side of the process that calls a handler


class CallChannel:
    """The channel of one call.

    address: that of the cache.
    call: the id of the call.
    events: the list to which the call appends its events.
    cancellation: the token of the attempt.
    """

    def __init__(
        self,
        address: CacheAddress,
        call: str,
        events: List[CallEvent],
        cancellation: Cancellation,
    ) -> None:
        self._cache = open_address(address).with_prefix(PREFIX)
        self._call = call
        self._events = events
        self._cancellation = cancellation
        self._sent = self._parts = 0
        self._sends = True
        self._requesting = threading.Lock()

    def __enter__(self) -> "CallChannel":
        _watcher.add(self)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        _watcher.remove(self)

    def look(self) -> None:
        """Send new events, and cancel the attempt if the run has cancelled the call."""
        events = self._events[self._sent :]
        if events and self._sends:
            part = [
                [event.reply, event.text, event.fraction, to_jsonable(event.data)]
                for event in events
            ]
            try:
                self._cache.set(f"{self._call}.{self._parts}", part, ttl=KEEP_SECONDS)
            except CacheValueError:  # data that JSON cannot hold, such as NaN
                self._sends = False  # it comes with the report
            self._sent += len(events)
            self._parts += 1
        reason = self._cache.get(f"{self._call}.cancel", None)
        if reason is not None:
            self._cancellation.cancel(str(reason))

    def ask(self, do: str, *args: Any) -> Any:
        """Ask the run to do something, and return its reply.

        do: the name of what to do; see `ActiveRun.answer_request`.
        args: values that JSON can hold.

        Raises CacheUnavailable if no reply arrives, Cancelled if the attempt is cancelled, and the
        error of the run, by the name of its class.
        """
        with self._requesting:  # tools may ask on several threads
            request = {"id": uuid.uuid4().hex, "do": do, "args": args}
            end = clock.real() + REPLY_SECONDS
            looks = 0
            while clock.real() < end:
                if looks % REPEAT_LOOKS == 0:
                    self._cache.set(f"{self._call}.request", request, ttl=KEEP_SECONDS)
                looks += 1
                if self._cancellation.wait(REQUEST_PERIOD):
                    raise Cancelled(self._cancellation.reason or "cancelled")
                reply = self._cache.get(f"{self._call}.reply.{request['id']}", None)
                if isinstance(reply, dict):
                    break
            else:
                raise CacheUnavailable(f"the run has not replied within {REPLY_SECONDS:.0f} s")
        if "error" in reply:
            record = ErrorRecord(str(reply["error"]), str(reply.get("message")), "")
            raise rebuild_exception(record)
        return reply.get("value")


def _pause(seconds: float) -> None:
    InterruptibleEvent().wait(seconds)


class _Watcher:
    """One thread of this process, which looks after the channels of the calls that run here."""

    def __init__(self) -> None:
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        """Forget the calls of the parent process; called in a forked child."""
        self._lock = threading.Lock()
        self._channels: List[CallChannel] = []
        self._wake = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def add(self, channel: CallChannel) -> None:
        with self._lock:
            self._channels.append(channel)
            if self._thread is None:
                name = "asimov-remote-call"
                self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
                self._thread.start()
        self._wake.set()

    def remove(self, channel: CallChannel) -> None:
        with self._lock:
            self._channels.remove(channel)
            if not self._channels:
                self._wake.clear()

    def _loop(self) -> None:
        while True:
            self._wake.wait()
            _pause(PERIOD)  # first: short calls end before they cost anything
            with self._lock:
                channels = list(self._channels)
            for channel in channels:
                try:
                    channel.look()
                except CacheError as error:  # what was not sent comes with the report
                    logger.info("the shared cache failed: %s", describe_error(error))
                except Exception:
                    logger.exception("a call could not be looked after")


_watcher = _Watcher()


# The side of the run


class _OpenCall:
    """A call that is in progress, as the process of its run sees it."""

    def __init__(
        self,
        replay: Callable[[List[CallEvent]], None],
        answer: Optional[Callable[[str, List[Any]], Any]],
    ) -> None:
        self.replay = replay
        self.answer = answer
        self.parts = self.events = 0
        self.requests: Set[str] = set()  # the ids of those that were taken
        # Held during the replay, so that what comes with the report is not published before.
        self.busy = threading.Lock()
        self.closed = False


class RunChannel:
    """The channel of a scheduler to the calls in progress.

    cache: the cache that it shares with other processes.
    call_in_background: calls a function that may block on another thread.
    """

    def __init__(self, cache: Cache, call_in_background: Callable[..., None]) -> None:
        self.address = find_address(cache)
        self._cache = cache.with_prefix(PREFIX)
        self._call_in_background = call_in_background
        self._guard = ForkSafeLock()
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        """Forget the calls of the parent process; called in a forked child."""
        self._calls: Dict[str, _OpenCall] = {}
        self._looking = False

    def open(
        self,
        call: str,
        replay: Callable[[List[CallEvent]], None],
        answer: Optional[Callable[[str, List[Any]], Any]],
    ) -> None:
        """Begin to look after a call.

        replay: publishes events of the call.
        answer: does what the call asks; None for a run that is not durable.
        """
        with self._guard.lock:
            self._calls[call] = _OpenCall(replay, answer)
            starts, self._looking = not self._looking, True
        if starts:
            name = "asimov-remote-run"
            threading.Thread(target=self._loop, name=name, daemon=True).start()

    def close(self, call: str) -> int:
        """End that. Return how many events of the call were published."""
        with self._guard.lock:
            opened = self._calls.pop(call, None)
        if opened is None:
            return 0
        if opened.requests:  # another process may make the call, too, and wait for a reply
            self._call_in_background(self.cancel, call, "the call has ended")
        with opened.busy:
            opened.closed = True
            return opened.events

    def cancel(self, call: str, reason: str) -> None:
        """Have a call cancelled. It may block."""
        try:
            self._cache.set(f"{call}.cancel", reason, ttl=KEEP_SECONDS)
        except CacheError as error:
            logger.info("a call could not be cancelled: %s", describe_error(error))

    def _loop(self) -> None:
        calls: Dict[str, _OpenCall] = {}
        while True:
            may_ask = any(opened.answer is not None for opened in calls.values())
            _pause(REQUEST_PERIOD if may_ask else PERIOD)
            with self._guard.lock:
                calls = dict(self._calls)
                if not calls:
                    self._looking = False
                    return
            try:
                self._look(calls)
            except CacheError as error:  # what was not read comes with the report
                logger.info("the shared cache failed: %s", describe_error(error))
            except Exception:
                logger.exception("the calls in other processes could not be looked after")

    def _look(self, calls: Dict[str, _OpenCall]) -> None:
        keys = {f"{call}.{opened.parts}": opened for call, opened in calls.items()}
        requests = {
            f"{call}.request": call for call, opened in calls.items() if opened.answer is not None
        }
        found = self._cache.get_many([*keys, *requests])
        for key, value in found.items():
            if key in keys:
                self._replay(keys[key], value)
            elif isinstance(value, dict):
                self._take_request(requests[key], calls[requests[key]], value)

    def _replay(self, opened: _OpenCall, part: Any) -> None:
        opened.parts += 1
        values = part if isinstance(part, list) else []
        events = [event for event in map(_read_event, values) if event is not None]
        with opened.busy:
            if not opened.closed:
                opened.events += len(events)
                opened.replay(events)

    def _take_request(self, call: str, opened: _OpenCall, request: Dict[str, Any]) -> None:
        name = request.get("id")
        if isinstance(name, str) and name not in opened.requests:
            opened.requests.add(name)
            self._call_in_background(self._reply, call, opened, request)

    def _reply(self, call: str, opened: _OpenCall, request: Dict[str, Any]) -> None:
        reply: Dict[str, Any] = {}
        try:
            assert opened.answer is not None
            reply["value"] = opened.answer(str(request.get("do")), list(request.get("args") or ()))
        except Exception as error:
            record = describe_exception(error)
            reply.update(error=record.type, message=record.message)
        try:
            self._cache.set(f"{call}.reply.{request['id']}", reply, ttl=KEEP_SECONDS)
        except CacheError as error:
            logger.info("a call could not be answered: %s", describe_error(error))


def _read_event(value: Any) -> Optional[CallEvent]:
    """Return the event of a JSON value; None for a value of another form."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    reply, text, fraction, data = value
    if type(reply) is not int or not isinstance(text, str):
        return None
    if fraction is not None and type(fraction) not in (int, float):
        return None
    return CallEvent(reply, text, fraction, data)
