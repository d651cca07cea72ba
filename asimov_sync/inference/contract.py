"""The contract of every inference client: what a request, a reply, a stream and a tool loop mean, whatever the provider.

A provider brings one method, `_attempt`: send a request once, check its status, hand on its events. Retries, folding,
tools and metering are done here, once.
"""

import abc
import copy
import time
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Dict, Generator, Iterable, Iterator, List, Optional, Tuple

from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import InferenceError
from asimov_sync.inference.request import Request, System, Timeout
from asimov_sync.inference.retry import retrying
from asimov_sync.inference.stream import ReplyStream
from asimov_sync.inference.tool_loop import Ask, ToolRun, call_tools, conversation
from asimov_sync.inference.tools import AnyTool, as_tools
from asimov_sync.messages import Event, Messages, Reply, ReplyDone, Usage, as_messages
from asimov_sync.metering import METERS, Meter
from asimov_sync.workers import WorkerPool

__all__ = ["InferenceClient"]


class InferenceClient(abc.ABC):
    """Asks a model. Safe from every thread, and in a forked child.

    max_retries: how often a failed request is sent again where that may help (2, so three attempts). timeout: a Timeout.
    options: sent with every request, unless the call gives its own; an option that is None is not sent.
    """

    provider: ClassVar[str]
    default_options: ClassVar[Dict[str, Any]] = {}
    """What the wire requires where the caller gives nothing."""

    def __init__(self, model: str, max_retries: int = 2, timeout: Optional[Timeout] = None, **options: Any) -> None:
        self.model = model
        self.max_retries = max_retries
        self.timeout = timeout if timeout is not None else Timeout()
        self.options = dict(self.default_options, **options)
        self._owner = True  # of the connections and workers, which its twins share
        self._meter = Meter()
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

    # Asking

    def generate(
        self,
        messages: Messages,
        system: System = None,
        tools: Iterable[AnyTool] = (),
        cancellation: Optional[Cancellation] = None,
        **options: Any,
    ) -> Reply:
        """Ask, and wait for the whole reply. A reply that is cut short on the way is asked for again.

        messages: a str, a message, or a list of these. tools: what the model may want called; nothing is called here
        (see `run_tools`). Raises an InferenceError, or Cancelled.
        """
        request = self._request(messages, system, tools, options)._replace(streamed=False)
        with self._stream(request, cancellation, early=False) as stream:
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
        return self._stream(self._request(messages, system, tools, options), cancellation, early=True)

    def run_tools(
        self,
        messages: Messages,
        tools: Iterable[AnyTool],
        max_iterations: int = 10,
        max_workers: Optional[int] = None,
        system: System = None,
        cancellation: Optional[Cancellation] = None,
        **options: Any,
    ) -> ToolRun:
        """Ask, call the tools that the model wants, tell it what came of that, and so on until it is done.

        max_iterations: how many requests may be made. max_workers: how many calls of one turn are made at once; None for
        all of them, 0 for one after the other on this thread. Whatever a tool raises is told to the model, and is in
        `.calls`. Raises an InferenceError where the model cannot be asked, or Cancelled.
        """
        named = as_tools(tools)
        cancellation = cancellation or Cancellation.current()
        loop = conversation(as_messages(messages), max_iterations)
        step = next(loop)
        while True:
            happened: Any
            if isinstance(step, Ask):
                happened = self.generate(step.messages, system, named.values(), cancellation, **options)
            else:
                happened = call_tools(step.calls, named, self._tool_workers, max_workers, cancellation)
            try:
                step = loop.send(happened)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

    def _request(self, messages: Messages, system: System, tools: Iterable[AnyTool], options: Dict[str, Any]) -> Request:
        merged = {name: value for name, value in dict(self.options, **options).items() if value is not None}
        definitions: List[Dict[str, Any]] = [tool.definition for tool in as_tools(tools).values()]
        return Request(self.model, as_messages(messages), system, definitions, merged)

    def _stream(self, request: Request, cancellation: Optional[Cancellation], early: bool) -> ReplyStream:
        deadline = None if self.timeout.total is None else time.monotonic() + self.timeout.total
        # A token of its own under the caller's, so that closing the stream frees its reader and nobody else.
        own = Cancellation(parent=cancellation or Cancellation.current())
        return ReplyStream(self._attempts(request, own, deadline, early), own)

    def _attempts(
        self, request: Request, cancellation: Cancellation, deadline: Optional[float], early: bool
    ) -> Generator[Optional[Event], None, None]:
        """The events of a reply, after a first None once a status is good; retries while nothing was handed on.

        early: whether events are handed on before the reply is whole.
        """
        meters = METERS.get()  # those of whoever asked: the events may be read elsewhere
        opened = handed_on = False
        for attempt in retrying(self.max_retries, cancellation, deadline, lambda: not (early and handed_on)):
            with attempt:
                try:
                    with self._attempt(request, cancellation, deadline) as events:
                        if not opened:
                            opened = True
                            yield None
                        for event in events:
                            handed_on = True
                            if isinstance(event, ReplyDone):
                                self._charge(meters, event.reply)
                            yield event
                except InferenceError as failed:
                    if failed.partial is not None and failed.partial.usage.total_tokens:
                        self._charge(meters, failed.partial)  # cut short, and billed all the same
                    raise

    def _charge(self, meters: Tuple[Meter, ...], reply: Reply) -> None:
        for meter in meters + (self._meter,):
            meter.add(reply.usage)

    # The client itself

    @property
    def usage(self) -> Usage:
        """The tokens of all replies that this client, and those made `with_options` of it, have received; those of replies
        that were cut short, as far as they were told.
        """
        return self._meter.usage

    def with_options(self, **options: Any) -> "InferenceClient":
        """This client with other options: the same connections, the same usage. None takes an option back."""
        twin = copy.copy(self)
        twin._owner = False
        for name in ("model", "max_retries", "timeout"):
            if name in options:
                setattr(twin, name, options.pop(name))
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
