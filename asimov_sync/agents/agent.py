"""An agent: a model with a system prompt and tools, to be asked directly or to handle the tasks of a graph."""

import functools
import logging
from typing import Any, Callable, Iterable, List, Optional, TypeVar

from asimov_sync import hooks
from asimov_sync.agents.prompt import prompt
from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import CacheError, InferenceError, described
from asimov_sync.graph.context import TaskContext
from asimov_sync.graph.results import Partial
from asimov_sync.hooks import Watch
from asimov_sync.inference.client import InferenceClient
from asimov_sync.inference.request import System
from asimov_sync.inference.stream import ToolStream
from asimov_sync.inference.tools.loop import Approvals, Redact, ToolRun
from asimov_sync.inference.tools.tool import AnyTool
from asimov_sync.messages import ChatMessage, Messages, as_messages
from asimov_sync.tasks import Task

__all__ = ["Agent"]

logger = logging.getLogger(__name__)

Asked = TypeVar("Asked", ToolRun, ToolStream)

WHOLE = ("end_turn", "stop_sequence")
"""The stop reasons of an answer that is all there."""


class Agent:
    """A client, a system prompt and tools. Holds no conversation: one agent may serve many threads.

    `agent.run(question)` asks it. As a handler, `TaskScheduler(handlers={"research": agent})`, it is asked a task's
    objective, with the params, the results of the task's dependencies, and the feedback of a loop; the task's result is the
    text of the answer, or the data that `output` asks for.

    redact: what every tool's result and exception text passes through before the model reads it. output: a pydantic model
    that the answer is to be; `run.parsed` is then one (see `InferenceClient.run_tools`). keep_transcript: as a handler, write
    the messages of each task to its run's cache, `context.cache.with_prefix("transcript")`, under the task's name: a list
    that `run(messages=…)` takes, also of a task that failed with an InferenceError; the last attempt's, if there are several.
    name: what it is called where it is watched (see `asimov_sync.telemetry`). options: sent with every request of this agent.
    """

    def __init__(
        self,
        client: InferenceClient,
        system: System = None,
        tools: Iterable[AnyTool] = (),
        max_iterations: int = 10,
        max_workers: Optional[int] = None,
        redact: Optional[Redact] = None,
        output: Any = None,
        keep_transcript: bool = False,
        name: Optional[str] = None,
        **options: Any,
    ) -> None:
        self.client = client
        self.system = system
        self.tools: List[AnyTool] = list(tools)
        self.max_iterations = max_iterations
        self.max_workers = max_workers
        self.redact = redact
        self.output = output
        self.keep_transcript = keep_transcript
        self.name = name
        self.options = options

    def run(
        self,
        question: Messages = (),
        messages: Optional[Messages] = None,
        approvals: Optional[Approvals] = None,
        cancellation: Optional[Cancellation] = None,
    ) -> ToolRun:
        """Ask, with the tools; `messages` is the conversation so far, the `.messages` of an earlier run, say.

        approvals: what was decided about the calls that a run stopped for; then there need be no question.
        """
        history = self._history(question, messages)
        ask = self._asking(self.client.run_tools, history, approvals, cancellation)
        installed = hooks.installed
        return ask() if installed is None else Watch(installed.agent, self, history).run(ask)

    def stream(
        self,
        question: Messages = (),
        messages: Optional[Messages] = None,
        approvals: Optional[Approvals] = None,
        cancellation: Optional[Cancellation] = None,
    ) -> ToolStream:
        """As `run`, but returns the events to iterate over, each handed on as it happens; `.run` after the end."""
        history = self._history(question, messages)
        ask = self._asking(self.client.stream_tools, history, approvals, cancellation)
        installed = hooks.installed
        if installed is None:
            return ask()
        watch = Watch(installed.agent, self, history)
        stream = watch.step(ask)
        stream.attach_observation(watch)
        return stream

    def _asking(
        self,
        ask: Callable[..., Asked],
        history: List[ChatMessage],
        approvals: Optional[Approvals],
        cancellation: Optional[Cancellation],
    ) -> "functools.partial[Asked]":
        return functools.partial(
            ask,
            history,
            self.tools,
            self.max_iterations,
            approvals,
            self.max_workers,
            self.system,
            self.redact,
            cancellation,
            self.output,
            **self.options,
        )

    def _history(self, question: Messages, messages: Optional[Messages]) -> List[ChatMessage]:
        return as_messages(messages if messages is not None else []) + as_messages(question)

    def __call__(self, task: Task, context: TaskContext) -> Any:
        """Handle a task: its result is the answer's text, or its data.

        PARTIAL where the model stopped before its answer was whole, with the text that there is; and where calls wait for
        approval, with the ToolRun: `agent.run(messages=run.messages, approvals={call.id: True})` goes on from it, in any
        process; and where the answer is there, but the cache did not take the transcript. FAILED with the InferenceError
        where the model cannot be asked, or gives no data that fits.
        """
        try:
            run = self.run(prompt(task, context))
        except InferenceError as error:
            lost = self._kept(context, error.messages) if error.messages is not None else None
            if lost is not None:  # why the task fails is not to be hidden by that
                logger.error("task %r: %s", context.name, lost)
            raise
        lost = self._kept(context, run.messages)
        result = self._result(run)
        if lost is None:
            return result
        if isinstance(result, Partial):
            return Partial(result.result, "{}; {}".format(result.error, lost))
        return Partial(result, lost)

    def _result(self, run: ToolRun) -> Any:
        if run.pending:
            waiting = dict.fromkeys(call.name for call in run.pending)
            return Partial(run, "calls of these tools wait for approval: {}".format(", ".join(waiting)))
        if run.parsed is not None:
            return run.parsed
        if run.stop_reason in WHOLE:
            return run.text
        return Partial(run.text, "the model stopped early: {}, after {} requests".format(run.stop_reason, run.iterations))

    def _kept(self, context: TaskContext, messages: List[ChatMessage]) -> Optional[str]:
        """Keep the transcript, if it is to be kept; why it could not be, if it could not."""
        if self.keep_transcript:
            try:
                context.cache.with_prefix("transcript").set(context.name, messages)
            except CacheError as error:
                return "the transcript could not be kept: {}".format(described(error))
        return None

    def __repr__(self) -> str:
        return "<Agent of {!r}, {} tools>".format(self.client, len(self.tools))
