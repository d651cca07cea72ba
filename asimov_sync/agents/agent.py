"""An agent: a model with a system prompt and tools, called directly or used as a task handler."""

import contextvars
import functools
from typing import Any, Callable, Iterable, List, Optional, TypeVar

from typing_extensions import Unpack

from asimov_sync import _drawing, instrumentation
from asimov_sync._json import format_error
from asimov_sync.agents.prompt import PromptTemplate, prompt
from asimov_sync.agents.transcript import AgentTranscript
from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency import scope
from asimov_sync.concurrency.log_context import get_logger
from asimov_sync.errors import CacheError, InferenceError, ToolDefinitionError, ToolError
from asimov_sync.graph.context import TaskContext, open_entries
from asimov_sync.graph.results import Partial
from asimov_sync.inference.client import InferenceClient
from asimov_sync.inference.options import RequestOptions
from asimov_sync.inference.request import System
from asimov_sync.inference.stream import ToolStream
from asimov_sync.inference.tools.approvals import Approvals
from asimov_sync.inference.tools.compaction import check_limit
from asimov_sync.inference.tools.loop import Redact, ToolRun
from asimov_sync.inference.tools.tool import AnyTool, Tool, as_tools, make_tool
from asimov_sync.instrumentation import Observation
from asimov_sync.messages import ChatMessage, Messages, as_messages
from asimov_sync.tasks import Task

__all__ = ["Agent", "require_client"]

logger = get_logger("asimov_sync.agents")

ResultT = TypeVar("ResultT", ToolRun, ToolStream)

COMPLETE_REASONS = ("end_turn", "stop_sequence")
"""The stop reasons of a complete answer."""

MAX_DEPTH = 5
"""The highest number of agents that are nested by calls of `as_tool`. The models decide about the
calls, and an agent may be its own tool, so without a limit the nesting might never end."""


class Agent:
    """A client, a system prompt and tools. It stores no conversation; threads may share it.

    `agent.run(question)` sends a question. As a handler, `TaskScheduler(handlers={"research":
    agent})`, it sends the task's objective with the params, the results of the dependencies, and
    the feedback of a loop. The task's result is the text of the answer, or the data described by
    `output`.

    client: the inference client that sends the requests.
    system: the system prompt (default: none).
    tools: the tools that the model may call (default: none).
    max_iterations: the maximum number of requests for one question (default: 10).
    max_workers: the maximum number of tools that run at the same time (see
        `InferenceClient.run_tools`).
    redact: a function that changes the result and exception text of every tool before the model
        reads it.
    output: a pydantic model that describes the answer; `run.parsed` is then an instance of it (see
        `InferenceClient.run_tools`).
    compact_at: the number of input tokens of a request above which a summary replaces old messages
        before the next request (default: no limit; see `InferenceClient.run_tools`).
    compact_with: the client that writes the summaries (default: the agent's own).
    keep_transcript: as a handler, store the messages of each task in the run's cache,
        `context.cache.with_prefix("transcript")`, under the task's name. The value is a list that
        `run(messages=…)` accepts. The transcript of a task that failed with an InferenceError is
        stored too; of several attempts, the last one is kept.
    prompt: as a handler, a text that replaces the task's objective, with the names of params in
        braces: "Digest this page: {item}". `{objective}` stands for the objective. The params that
        it names are not repeated below it (default: none).
    name: the agent's name in telemetry (see `asimov_sync.telemetry`).
    options: the options of this agent's requests, which override the client's (see
        `RequestOptions`). The total of a `timeout` bounds each run, with its tools.

    Raises TypeError if the client is not an InferenceClient, ToolDefinitionError or TypeError for
    invalid tools, and ValueError for an invalid prompt or compact_at.
    """

    def __init__(
        self,
        client: InferenceClient,
        *,
        system: System = None,
        tools: Iterable[AnyTool] = (),
        max_iterations: int = 10,
        max_workers: Optional[int] = None,
        redact: Optional[Redact] = None,
        output: Any = None,
        compact_at: Optional[int] = None,
        compact_with: Optional[InferenceClient] = None,
        keep_transcript: bool = False,
        prompt: Optional[str] = None,
        name: Optional[str] = None,
        **options: Unpack[RequestOptions],
    ) -> None:
        self.client = require_client(client, "Agent")
        self.system = system
        self.tools: List[Tool] = list(as_tools(tools).values())
        self.max_iterations = max_iterations
        self.max_workers = max_workers
        self.redact = redact
        self.output = output
        check_limit(compact_at, compact_with is not None)
        self.compact_at = compact_at
        self.compact_with = compact_with
        if compact_with is not None:
            require_client(compact_with, "compact_with=")
        self.keep_transcript = keep_transcript
        self.prompt = prompt
        self._template = PromptTemplate(prompt) if prompt is not None else None
        self.name = name
        self.options = options

    def run(
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
        """Send a question, run the tools that the model calls, and return the whole exchange.

        question: the new message or messages; may be empty if there are `approvals`.
        messages: the conversation so far, for example the `.messages` of an earlier run.
        approvals: the decisions about the calls that an earlier run stopped for (see
            `InferenceClient.run_tools`).
        trusted_history: whether unanswered calls at the end of `messages` that need no approval
            are made. By default (False) such messages are a ValueError.
        cancellation: ends the run; by default the current token does.
        conversation_id: your id of the conversation, for telemetry; None (the default) for none.
        options: options of this run, which override the agent's.

        Raises InferenceError if a request fails, and Cancelled if the token is cancelled.
        """
        history = self._history(question, messages)
        send = self._bind(
            self.client.run_tools, history, approvals, trusted_history, cancellation, options
        )
        installed = instrumentation.installed
        return (
            send()
            if installed is None
            else Observation(installed.agent, self, history, options, conversation_id).run(send)
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
    ) -> ToolStream:
        """Like `run`, but return an iterator over the events; `.run` is available after its end.

        Parameters and exceptions are those of `run`. An error of the first request is raised here.
        """
        history = self._history(question, messages)
        send = self._bind(
            self.client.stream_tools, history, approvals, trusted_history, cancellation, options
        )
        installed = instrumentation.installed
        if installed is None:
            return send()
        watch = Observation(installed.agent, self, history, options, conversation_id)
        stream = watch.run_step(send)
        stream.attach_observation(watch)
        return stream

    def as_tool(self, name: str, description: str) -> Tool:
        """Return a tool with which another agent asks this one.

        Its one argument is the question; its result is the text of the answer, or the data
        described by `output`. Each call is a conversation of its own. Cancellation, deadlines and
        budgets of the caller apply to it, and its usage is charged to the caller's run.

        The caller's model receives an error if the answer is incomplete, if a tool of this agent
        needs an approval, which nobody could give inside a call, or if more than 5 agents are
        nested.

        name: the tool's name for the caller's model.
        description: when to call it.

        Raises ToolDefinitionError if the name or the description is invalid.
        """
        if not isinstance(description, str) or not description.strip():
            raise ToolDefinitionError(
                "description= says when to call the agent: the model has nothing else to go by"
            )

        def ask(question: str) -> Any:
            depth = scope.current().agent_depth + 1
            if depth > MAX_DEPTH:
                raise ToolError(
                    f"{MAX_DEPTH} agents are nested already, which is the most: answer without "
                    f"{name}"
                )
            # A context of its own: the depth must not outlive this call.
            return contextvars.copy_context().run(self._answer_call, name, question, depth)

        return make_tool(ask, name, description)

    def _answer_call(self, name: str, question: str, depth: int) -> Any:
        """Answer a call of `as_tool`: return the answer, or raise ToolError."""
        scope.replace(agent_depth=depth)
        run = self.run(question)
        if run.pending:
            names = ", ".join(dict.fromkeys(call.name for call in run.pending))
            raise ToolError(
                f"{name} could not finish: it needs an approval for {names}, and cannot ask for one"
            )
        if run.parsed is not None:
            return run.parsed
        if run.stop_reason in COMPLETE_REASONS:
            return run.text
        raise ToolError(f"{name} stopped early ({run.stop_reason}): {run.text or 'no answer'}")

    def _bind(
        self,
        send: Callable[..., ResultT],
        history: List[ChatMessage],
        approvals: Optional[Approvals],
        trusted_history: bool,
        cancellation: Optional[Cancellation],
        options: RequestOptions,
    ) -> "functools.partial[ResultT]":
        """Bind the arguments of `run_tools` or `stream_tools`."""
        return functools.partial(
            send,
            history,
            self.tools,
            system=self.system,
            output=self.output,
            max_iterations=self.max_iterations,
            approvals=approvals,
            trusted_history=trusted_history,
            max_workers=self.max_workers,
            redact=self.redact,
            compact_at=self.compact_at,
            compact_with=self.compact_with,
            cancellation=cancellation,
            **dict(self.options, **options),
        )

    def _history(self, question: Messages, messages: Optional[Messages]) -> List[ChatMessage]:
        return as_messages(messages if messages is not None else []) + as_messages(question)

    def __call__(self, task: Task, context: TaskContext) -> Any:
        """Handle a task: return the text of the answer, or its data.

        The task is PARTIAL in three cases:
        - The model stopped before its answer was complete. The result is the text so far.
        - Tool calls wait for approval. The result is the ToolRun;
          `agent.run(messages=run.messages, approvals={call.id: True})` continues it, in any
          process.
        - The answer is complete, but the transcript could not be stored.

        The task is FAILED with the InferenceError if a request fails or the data is invalid.

        In a durable run, each reply and each tool result is stored when it is there. A task that is
        continued does not ask or call for it again. If tool calls wait for approval, the task is
        parked until `RunStore.approve`; a decision about other arguments than the shown ones is a
        ValueError.
        """
        question = prompt(task, context, self._template)
        entries = open_entries(context, "agent")
        transcript = None
        if entries is not None:
            transcript = AgentTranscript(entries, context, question)
        try:
            run = self.run(question) if transcript is None else self._run_kept(question, transcript)
        except InferenceError as error:
            if error.messages is not None:
                problem = self._store_transcript(context, error.messages)
                if problem is not None:  # logged, so that the task fails with its own error
                    logger.error("task %r: %s", context.name, problem)
            raise
        problem = self._store_transcript(context, run.messages)
        if run.pending and transcript is not None:
            transcript.park()
        result = self._result(run)
        if problem is None:
            return result
        if isinstance(result, Partial):
            return result._replace(error=f"{result.error}; {problem}")
        return Partial(result, problem)

    def _run_kept(self, question: str, transcript: AgentTranscript) -> ToolRun:
        """Run, or continue, the conversation that a transcript keeps."""
        context = contextvars.copy_context()
        operation = scope.current().operation + transcript.operation
        context.run(scope.replace, transcript=transcript, operation=operation)
        return context.run(self.run, question)

    def _result(self, run: ToolRun) -> Any:
        """Return the task's result for a run."""
        if run.pending:
            names = dict.fromkeys(call.name for call in run.pending)
            error = f"calls of these tools wait for approval: {', '.join(names)}"
            return Partial(run, error, waits_for="approval")
        if run.parsed is not None:
            return run.parsed
        if run.stop_reason in COMPLETE_REASONS:
            return run.text
        error = f"the model stopped early: {run.stop_reason}, after {run.iterations} requests"
        return Partial(run.text, error)

    def _store_transcript(self, context: TaskContext, messages: List[ChatMessage]) -> Optional[str]:
        """Store the messages if `keep_transcript` is set. Return an error text if that fails."""
        if self.keep_transcript:
            try:
                context.cache.with_prefix("transcript").set(context.name, messages)
            except CacheError as error:
                return f"the transcript could not be stored: {format_error(error)}"
        return None

    def __repr__(self) -> str:
        name = "" if self.name is None else f" {self.name!r}"
        tools = "1 tool" if len(self.tools) == 1 else f"{len(self.tools)} tools"
        return f"<Agent{name} of {self.client!r}, {tools}>"

    def _repr_html_(self) -> str:
        """Return the system prompt and the tools, for notebooks."""
        return _drawing.draw("notebook_html", self)


def require_client(client: Any, user: str) -> InferenceClient:
    """Return a client, or raise TypeError for anything else.

    user: the name of the class that needs the client.
    """
    if isinstance(client, InferenceClient):
        return client
    hint = ""
    if isinstance(client, str):
        hint = f": {user}(AnthropicInferenceClient(model={client!r}), …), for example"
    elif isinstance(getattr(client, "sync", None), InferenceClient):
        hint = f": {user}(client, …) takes the blocking client; use to_async() on the result"
    raise TypeError(f"{user} takes an InferenceClient, not {client!r}{hint}")
