"""Inference clients, and agents, for coroutines: whole replies are awaited, streams are async iterators."""

from typing import Any, Iterable, Optional

from asimov_sync.agents.agent import Agent
from asimov_sync.aio.streams import AsyncReplyStream, AsyncToolStream
from asimov_sync.aio.threads import Threads
from asimov_sync.cancellation import Cancellation
from asimov_sync.inference.client import InferenceClient
from asimov_sync.inference.request import System
from asimov_sync.inference.tools.loop import Approvals, Redact, ToolRun
from asimov_sync.inference.tools.tool import AnyTool
from asimov_sync.messages import Messages, Reply, Usage

__all__ = ["AsyncAgent", "AsyncInferenceClient"]


class AsyncInferenceClient:
    """`InferenceClient` for coroutines, with the same methods and arguments; tools are functions as ever, called on threads.

    sync: the client beneath, which may be used meanwhile.
    """

    def __init__(self, sync: InferenceClient, threads: Threads, owner: bool = True) -> None:
        self.sync = sync
        self._threads = threads
        self._owner = owner

    async def generate(
        self,
        messages: Messages,
        system: System = None,
        tools: Iterable[AnyTool] = (),
        output: Any = None,
        cancellation: Optional[Cancellation] = None,
        **options: Any,
    ) -> Reply:
        """Ask, and wait for the whole reply. See `InferenceClient.generate`."""
        return await self._threads.wait(
            lambda: self.sync.generate(messages, system, tools, output, **options), cancellation=cancellation
        )

    def stream(
        self,
        messages: Messages,
        system: System = None,
        tools: Iterable[AnyTool] = (),
        cancellation: Optional[Cancellation] = None,
        **options: Any,
    ) -> AsyncReplyStream:
        """The reply's events. Awaiting it sends the request and checks the status. See `InferenceClient.stream`."""
        return AsyncReplyStream(self._threads, lambda: self.sync.stream(messages, system, tools, **options), cancellation)

    async def run_tools(
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
        """Ask, call the tools that the model wants, and so on until it is done. See `InferenceClient.run_tools`."""
        return await self._threads.wait(
            lambda: self.sync.run_tools(
                messages, tools, max_iterations, approvals, max_workers, system, redact, output=output, **options
            ),
            cancellation=cancellation,
        )

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
    ) -> AsyncToolStream:
        """The events of a tool loop. Awaiting it sends the first request. See `InferenceClient.stream_tools`."""
        return AsyncToolStream(
            self._threads,
            lambda: self.sync.stream_tools(
                messages, tools, max_iterations, approvals, max_workers, system, redact, output=output, **options
            ),
            cancellation,
        )

    async def count_tokens(
        self,
        messages: Messages,
        system: System = None,
        tools: Iterable[AnyTool] = (),
        cancellation: Optional[Cancellation] = None,
        **options: Any,
    ) -> int:
        """How many tokens a request's input has, as the provider counts them. See `InferenceClient.count_tokens`."""
        return await self._threads.wait(
            lambda: self.sync.count_tokens(messages, system, tools, **options), cancellation=cancellation
        )

    @property
    def usage(self) -> Usage:
        """The tokens of all replies so far. See `InferenceClient.usage`."""
        return self.sync.usage

    def with_options(self, **options: Any) -> "AsyncInferenceClient":
        """This client with other options; no coroutine, since it asks nobody. See `InferenceClient.with_options`."""
        return AsyncInferenceClient(self.sync.with_options(**options), self._threads, owner=False)

    async def close(self) -> None:
        """Close the client beneath, and end what goes on through this facade; nothing for one made `with_options`."""
        if self._owner:
            await self._threads.close(self.sync.close)

    async def __aenter__(self) -> "AsyncInferenceClient":
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self.close()

    def __repr__(self) -> str:
        return "<AsyncInferenceClient of {!r}>".format(self.sync)


class AsyncAgent:
    """`Agent` for coroutines. As a handler of tasks use the agent itself. sync: the agent beneath."""

    def __init__(self, sync: Agent, threads: Threads) -> None:
        self.sync = sync
        self._threads = threads

    async def run(
        self,
        question: Messages = (),
        messages: Optional[Messages] = None,
        approvals: Optional[Approvals] = None,
        cancellation: Optional[Cancellation] = None,
    ) -> ToolRun:
        """Ask, with the tools. See `Agent.run`."""
        return await self._threads.wait(self.sync.run, question, messages, approvals, cancellation=cancellation)

    def stream(
        self,
        question: Messages = (),
        messages: Optional[Messages] = None,
        approvals: Optional[Approvals] = None,
        cancellation: Optional[Cancellation] = None,
    ) -> AsyncToolStream:
        """As `run`, but the events, each as it happens. See `Agent.stream`."""
        return AsyncToolStream(self._threads, lambda: self.sync.stream(question, messages, approvals), cancellation)

    def __repr__(self) -> str:
        return "<AsyncAgent of {!r}>".format(self.sync)
