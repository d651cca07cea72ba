"""An agent: a model with a system prompt and tools, to be asked directly or to handle the tasks of a graph."""

import json
from typing import Any, Iterable, List, Optional, Union

from asimov_sync.cancellation import Cancellation
from asimov_sync.graph.context import TaskContext
from asimov_sync.graph.results import Partial
from asimov_sync.inference.contract import InferenceClient
from asimov_sync.inference.request import System
from asimov_sync.inference.stream import ToolStream
from asimov_sync.inference.tool_loop import Approvals, Redact, ToolRun
from asimov_sync.inference.tools import AnyTool
from asimov_sync.messages import ChatMessage, Messages, as_messages, jsonable
from asimov_sync.tasks import Task

__all__ = ["Agent"]

WHOLE = ("end_turn", "stop_sequence")
"""The stop reasons of an answer that is all there."""


class Agent:
    """A client, a system prompt and tools. Holds no conversation: one agent may serve many threads.

    `agent.run(question)` asks it. As a handler, `TaskScheduler(handlers={"research": agent})`, it is asked a task's
    objective, with the params and the results of the task's dependencies; the task's result is the text of the answer.
    redact: what every tool's result and exception text passes through before the model reads it. options: sent with every
    request of this agent.
    """

    def __init__(
        self,
        client: InferenceClient,
        system: System = None,
        tools: Iterable[AnyTool] = (),
        max_iterations: int = 10,
        max_workers: Optional[int] = None,
        redact: Optional[Redact] = None,
        **options: Any,
    ) -> None:
        self.client = client
        self.system = system
        self.tools: List[AnyTool] = list(tools)
        self.max_iterations = max_iterations
        self.max_workers = max_workers
        self.redact = redact
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
        return self.client.run_tools(
            history,
            self.tools,
            self.max_iterations,
            approvals,
            self.max_workers,
            self.system,
            self.redact,
            cancellation,
            **self.options,
        )

    def stream(
        self,
        question: Messages = (),
        messages: Optional[Messages] = None,
        approvals: Optional[Approvals] = None,
        cancellation: Optional[Cancellation] = None,
    ) -> ToolStream:
        """As `run`, but returns the events to iterate over, each handed on as it happens; `.run` after the end."""
        history = self._history(question, messages)
        return self.client.stream_tools(
            history,
            self.tools,
            self.max_iterations,
            approvals,
            self.max_workers,
            self.system,
            self.redact,
            cancellation,
            **self.options,
        )

    def _history(self, question: Messages, messages: Optional[Messages]) -> List[ChatMessage]:
        return as_messages(messages if messages is not None else []) + as_messages(question)

    def __call__(self, task: Task, context: TaskContext) -> Union[str, Partial]:
        """Handle a task: its result is the answer's text; PARTIAL where the model stopped before its answer was whole."""
        run = self.run(prompt(task, context))
        if run.stop_reason in WHOLE:
            return run.text
        return Partial(run.text, "the model stopped early: {}, after {} requests".format(run.stop_reason, run.iterations))

    def __repr__(self) -> str:
        return "<Agent of {!r}, {} tools>".format(self.client, len(self.tools))


def prompt(task: Task, context: TaskContext) -> str:
    """What an agent is asked for a task: the objective, the params, and what its dependencies brought or failed to bring."""
    parts = [task.objective]
    if task.params:
        parts.append(_part("params", "", task.params))
    parts += [_part("result", name, result) for name, result in context.inputs.items()]
    parts += [_part("failed", name, reason) for name, reason in context.failed.items()]
    return "\n\n".join(part for part in parts if part)


def _part(tag: str, name: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(jsonable(value), ensure_ascii=False)
    return "<{tag}{of}>\n{text}\n</{tag}>".format(tag=tag, of=' of="{}"'.format(name) if name else "", text=text)
