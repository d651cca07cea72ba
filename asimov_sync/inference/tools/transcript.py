"""Transcript: the interface of what keeps a tool loop, so that it can be continued later."""

import abc
from typing import List, Optional

from asimov_sync.concurrency import scope
from asimov_sync.inference.tools.approvals import Approval
from asimov_sync.inference.tools.loop import AskForApproval, CalledTool, KeptCall
from asimov_sync.messages import Block, Reply, ToolCall

__all__ = ["Transcript", "take_transcript"]


class Transcript(abc.ABC):
    """Keeps the steps of one tool loop, and gives back those that an earlier loop has kept.

    A loop asks for what was kept before it carries out a step. It continues with what the methods
    return. It calls them one after the other.
    """

    @abc.abstractmethod
    def find_reply(self) -> Optional[Reply]:
        """Return the reply to the next request, if it was kept."""

    @abc.abstractmethod
    def keep_reply(self, reply: Reply) -> Reply:
        """Keep the reply to the next request, before this returns."""

    @abc.abstractmethod
    def find_summary(self) -> Optional[Reply]:
        """Return the summary that was made before the next request, if it was kept."""

    @abc.abstractmethod
    def keep_summary(self, reply: Reply) -> Reply:
        """Keep a summary, before this returns."""

    @abc.abstractmethod
    def discard_reply(self) -> None:
        """Forget the last reply or summary, because the loop cannot continue with it."""

    @abc.abstractmethod
    def find_call(self, key: str, call: ToolCall) -> Optional[KeptCall]:
        """Return the outcome of a call, if it was kept."""

    @abc.abstractmethod
    def keep_call(self, key: str, called: CalledTool, block: Block) -> KeptCall:
        """Keep the outcome of a call, before this returns.

        block: the result as the model reads it.
        """

    @abc.abstractmethod
    def find_approvals(self, step: AskForApproval) -> List[Optional[Approval]]:
        """Return the decision about each call, None without one."""


def take_transcript() -> Optional[Transcript]:
    """Return the transcript of the current context, and remove it there.

    It belongs to one loop, and not to those of the tools that the loop calls.
    """
    transcript: Optional[Transcript] = scope.current().transcript
    if transcript is not None:
        scope.replace(transcript=None)
    return transcript
