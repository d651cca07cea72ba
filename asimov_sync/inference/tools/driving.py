"""Drives a tool loop: asks the model where its conversation wants a reply, and has the calls made, on threads."""

from typing import Any, Callable, Dict, Generator, Optional

from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.pool import WorkerPool
from asimov_sync.errors import InferenceError
from asimov_sync.inference.stream import ReplyStream
from asimov_sync.inference.tools.loop import Ask, Step, ToolRun, ToolRunDone
from asimov_sync.inference.tools.runner import calling
from asimov_sync.inference.tools.tool import Tool
from asimov_sync.messages import Event

__all__ = ["driven"]


def driven(
    steps: Generator[Step, Any, ToolRun],
    ask: Callable[[Ask], ReplyStream],
    tools: Dict[str, Tool],
    pool: WorkerPool,
    max_workers: Optional[int],
    cancellation: Cancellation,
) -> Generator[Optional[Event], None, None]:
    """The events of a conversation, after a first None once a status is good, or there are calls to be made.

    The last one is ToolRunDone. An InferenceError is raised with the history so far in its `.messages`: what it holds was
    answered, so going on from it calls nothing twice. ValueError where max_workers is negative.
    """
    if max_workers is not None and max_workers < 0:
        raise ValueError("max_workers is None, 0, or how many calls may be made at once; not {}".format(max_workers))
    opened = False
    happened: Any = None
    while True:
        try:
            step = steps.send(happened)
        except StopIteration as end:
            if not opened:  # nothing was to be done: every call of the history still waits for approval
                yield None
            yield ToolRunDone(end.value)
            return
        if isinstance(step, Ask):
            try:
                with ask(step) as stream:
                    if not opened:
                        opened = True
                        yield None
                    for event in stream:
                        yield event
                happened = stream.reply
            except InferenceError as error:
                error.messages = step.messages
                raise
        else:
            if not opened:
                opened = True
                yield None
            happened = yield from calling(step.calls, tools, pool, max_workers, cancellation)
