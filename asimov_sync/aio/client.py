"""Inference clients for coroutines: replies are awaited, streams are async iterators."""

from typing import Any, Iterable, Optional

from typing_extensions import Unpack

from asimov_sync.aio.streams import AsyncReplyStream, AsyncToolStream
from asimov_sync.aio.thread_bridge import ThreadBridge
from asimov_sync.cancellation import Cancellation
from asimov_sync.inference.client import InferenceClient
from asimov_sync.inference.options import ClientOptions, RequestOptions
from asimov_sync.inference.request import System
from asimov_sync.inference.tools.approvals import Approvals
from asimov_sync.inference.tools.loop import Redact, ToolRun
from asimov_sync.inference.tools.tool import AnyTool
from asimov_sync.messages import Messages, Reply, Usage

__all__ = ["AsyncInferenceClient"]


class AsyncInferenceClient:
    """`InferenceClient` for coroutines, with the same methods and arguments.

    Tools stay functions, which are called on threads.

    sync: the blocking client; it can be used at the same time.
    bridge: the threads of the facade.
    owner: whether `close` closes the client (default: True).
    """

    def __init__(self, sync: InferenceClient, bridge: ThreadBridge, owner: bool = True) -> None:
        self.sync = sync
        self._bridge = bridge
        self._owner = owner

    async def generate(
        self,
        messages: Messages,
        *,
        system: System = None,
        tools: Iterable[AnyTool] = (),
        output: Any = None,
        cancellation: Optional[Cancellation] = None,
        **options: Unpack[RequestOptions],
    ) -> Reply:
        """Send a request and return the whole reply. See `InferenceClient.generate`."""
        return await self._bridge.run_blocking(
            lambda: self.sync.generate(
                messages, system=system, tools=tools, output=output, **options
            ),
            cancellation=cancellation,
        )

    def stream(
        self,
        messages: Messages,
        *,
        system: System = None,
        tools: Iterable[AnyTool] = (),
        cancellation: Optional[Cancellation] = None,
        **options: Unpack[RequestOptions],
    ) -> AsyncReplyStream:
        """Return the events of a reply. Awaiting it sends the request. See
        `InferenceClient.stream`.
        """
        return AsyncReplyStream(
            self._bridge,
            lambda: self.sync.stream(messages, system=system, tools=tools, **options),
            cancellation,
        )

    async def run_tools(
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
        compact_with: Optional[InferenceClient] = None,
        cancellation: Optional[Cancellation] = None,
        **options: Unpack[RequestOptions],
    ) -> ToolRun:
        """Send a request and run tools until the model is done. See `InferenceClient.run_tools`."""
        return await self._bridge.run_blocking(
            lambda: self.sync.run_tools(
                messages,
                tools,
                system=system,
                output=output,
                max_iterations=max_iterations,
                approvals=approvals,
                trusted_history=trusted_history,
                max_workers=max_workers,
                redact=redact,
                compact_at=compact_at,
                compact_with=compact_with,
                **options,
            ),
            cancellation=cancellation,
        )

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
        compact_with: Optional[InferenceClient] = None,
        cancellation: Optional[Cancellation] = None,
        **options: Unpack[RequestOptions],
    ) -> AsyncToolStream:
        """Return the events of a tool loop. Awaiting it sends the first request. See
        `InferenceClient.stream_tools`.
        """
        return AsyncToolStream(
            self._bridge,
            lambda: self.sync.stream_tools(
                messages,
                tools,
                system=system,
                output=output,
                max_iterations=max_iterations,
                approvals=approvals,
                trusted_history=trusted_history,
                max_workers=max_workers,
                redact=redact,
                compact_at=compact_at,
                compact_with=compact_with,
                **options,
            ),
            cancellation,
        )

    async def count_tokens(
        self,
        messages: Messages,
        *,
        system: System = None,
        tools: Iterable[AnyTool] = (),
        cancellation: Optional[Cancellation] = None,
        **options: Unpack[RequestOptions],
    ) -> int:
        """Return the input tokens of a request, counted by the provider. See
        `InferenceClient.count_tokens`.
        """
        return await self._bridge.run_blocking(
            lambda: self.sync.count_tokens(messages, system=system, tools=tools, **options),
            cancellation=cancellation,
        )

    @property
    def usage(self) -> Usage:
        """The tokens of all replies so far. See `InferenceClient.usage`."""
        return self.sync.usage

    def with_options(
        self, *, model: Optional[str] = None, **options: Unpack[ClientOptions]
    ) -> "AsyncInferenceClient":
        """Return a copy of this client with other options. See `InferenceClient.with_options`.

        Not a coroutine, since it sends nothing.
        """
        sync = self.sync.with_options(model=model, **options)
        return AsyncInferenceClient(sync, self._bridge, owner=False)

    async def close(self) -> None:
        """Close the client and end all calls of this facade. Does nothing for a `with_options`
        client.
        """
        if self._owner:
            await self._bridge.close(self.sync.close)

    async def __aenter__(self) -> "AsyncInferenceClient":
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncInferenceClient of {self.sync!r}>"
