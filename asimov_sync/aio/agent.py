"""Agents for coroutines."""

from typing import Any, Optional

from typing_extensions import Unpack

from asimov_sync.agents.agent import Agent
from asimov_sync.aio.streams import AsyncToolStream
from asimov_sync.aio.thread_bridge import ThreadBridge
from asimov_sync.cancellation import Cancellation
from asimov_sync.inference.options import RequestOptions
from asimov_sync.inference.tools.approvals import Approvals
from asimov_sync.inference.tools.loop import ToolRun
from asimov_sync.inference.tools.tool import Tool
from asimov_sync.messages import Messages

__all__ = ["AsyncAgent"]


class AsyncAgent:
    """`Agent` for coroutines. As a task handler, use the blocking agent.

    sync: the blocking agent.
    """

    def __init__(self, sync: Agent, bridge: ThreadBridge) -> None:
        self.sync = sync
        self._bridge = bridge

    async def run(
        self,
        question: Messages = (),
        *,
        messages: Optional[Messages] = None,
        approvals: Optional[Approvals] = None,
        trusted_history: bool = False,
        cancellation: Optional[Cancellation] = None,
        conversation_id: Optional[str] = None,
        **options: Unpack[RequestOptions],
    ) -> ToolRun:
        """Send a question, run the tools that the model calls, and return the whole exchange. See
        `Agent.run`.
        """
        return await self._bridge.run_blocking(
            lambda: self.sync.run(
                question,
                messages=messages,
                approvals=approvals,
                trusted_history=trusted_history,
                conversation_id=conversation_id,
                **options,
            ),
            cancellation=cancellation,
        )

    def stream(
        self,
        question: Messages = (),
        *,
        messages: Optional[Messages] = None,
        approvals: Optional[Approvals] = None,
        trusted_history: bool = False,
        cancellation: Optional[Cancellation] = None,
        conversation_id: Optional[str] = None,
        **options: Unpack[RequestOptions],
    ) -> AsyncToolStream:
        """Return the events of a run as they happen. See `Agent.stream`."""
        return AsyncToolStream(
            self._bridge,
            lambda: self.sync.stream(
                question,
                messages=messages,
                approvals=approvals,
                trusted_history=trusted_history,
                conversation_id=conversation_id,
                **options,
            ),
            cancellation,
        )

    def as_tool(self, name: str, description: str) -> Tool:
        """Return a tool with which another agent asks this one. See `Agent.as_tool`."""
        return self.sync.as_tool(name, description)

    async def close(self) -> None:
        """End all calls of this facade. The agent and its client stay open."""
        await self._bridge.close(_do_nothing)

    async def __aenter__(self) -> "AsyncAgent":
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncAgent of {self.sync!r}>"


def _do_nothing() -> None:
    """Close nothing: an agent has no resources of its own."""
