"""AgentTranscript: keeps what an agent does in a durable run, step by step."""

import hashlib
from typing import Any, Dict, List, NoReturn, Optional, Tuple

from asimov_sync.errors import CacheValueError
from asimov_sync.graph.context import Entries, TaskContext
from asimov_sync.graph.journal import Wait
from asimov_sync.inference.tools.approvals import Approval, Approved
from asimov_sync.inference.tools.loop import AskForApproval, CalledTool, KeptCall
from asimov_sync.inference.tools.tool import Tool
from asimov_sync.inference.tools.transcript import Transcript
from asimov_sync.messages import Block, Reply, ToolCall, Usage
from asimov_sync.runs.approvals import decode_decision

__all__ = ["AgentTranscript"]


class AgentTranscript(Transcript):
    """Keeps each reply, summary and tool result in a list of the run, and reads them again.

    An entry of the list is a dict with one of these keys:

    reply: a reply; `after` is the number of replies before it. The first reply of a conversation
        also has a digest of the `question`.
    summary: a summary; `after` is the number of replies before it.
    call: the key of a call, with its `block`, `usage` and `seconds`.
    discarded: True; the last reply or summary does not count.

    entries: the list.
    context: the context of the handler.
    question: what the agent is asked. If it has changed since an earlier drive, the conversation
        begins anew.
    """

    def __init__(self, entries: Entries, context: TaskContext, question: str) -> None:
        self._entries = entries
        self._context = context
        self._question = hashlib.sha256(question.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        self._asked: Optional[str] = None  # the question of the entries so far
        self._conversations = 0
        self._undecided: List[Wait] = []
        for entry in entries.read():
            self._add(entry)
        self._begin(self._question)

    def _begin(self, question: Optional[str]) -> None:
        """Begin a new conversation if the question is another one."""
        if question == self._asked:
            return
        self._asked = question
        self._conversations += 1
        self._replies: List[Reply] = []
        self._summaries: Dict[int, Reply] = {}  # by the number of replies before them
        self._calls: Dict[str, Tuple[Block, float, Usage]] = {}  # by the keys of the calls
        self._sent = 0  # the number of requests that were answered in this drive

    def _add(self, entry: Any) -> None:
        try:
            self._begin(entry.get("question", self._asked))
            if "reply" in entry:
                # An attempt that has timed out may have written one more reply.
                del self._replies[entry["after"] :]
                self._replies.append(Reply.model_validate(entry["reply"]))
            elif "summary" in entry:
                self._summaries[entry["after"]] = Reply.model_validate(entry["summary"])
            elif "call" in entry:
                usage = Usage(**entry["usage"])
                self._calls[entry["call"]] = (dict(entry["block"]), float(entry["seconds"]), usage)
            elif self._summaries.pop(len(self._replies), None) is None:
                self._replies.pop()
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise CacheValueError(
                f"what is stored of the agent of {self._context.name!r} is not in the form in "
                "which it was written: redact= and serializer= of the store must keep the form"
            ) from error

    def _append(self, entry: Dict[str, Any]) -> None:
        self._add(self._entries.append(entry))

    @property
    def operation(self) -> Tuple[str, ...]:
        """A name for this conversation, if the visit has several: models reuse the ids of calls."""
        numbers = (self._entries.number, self._conversations)
        return () if numbers == (1, 1) else (".".join(map(str, numbers)),)

    # Replies and summaries

    def find_reply(self) -> Optional[Reply]:
        """Return the reply to the next request, if it was kept."""
        if self._sent == len(self._replies):
            return None
        self._sent += 1
        return self._replies[self._sent - 1]

    def keep_reply(self, reply: Reply) -> Reply:
        """Keep the reply to the next request, before this returns."""
        entry: Dict[str, Any] = {"reply": _dump_reply(reply), "after": self._sent}
        if not self._replies:
            entry["question"] = self._question
        self._append(entry)
        self._sent += 1
        return self._replies[-1]

    def find_summary(self) -> Optional[Reply]:
        """Return the summary that was made before the next request, if it was kept."""
        return self._summaries.get(self._sent)

    def keep_summary(self, reply: Reply) -> Reply:
        """Keep a summary, before this returns."""
        self._append({"summary": _dump_reply(reply), "after": self._sent})
        return self._summaries[self._sent]

    def discard_reply(self) -> None:
        """Forget the last reply or summary, because the loop cannot continue with it."""
        self._append({"discarded": True})

    # Calls

    def find_call(self, key: str, call: ToolCall) -> Optional[KeptCall]:
        """Return the outcome of a call, if it was kept."""
        if key not in self._calls:
            return None
        block, seconds, usage = self._calls[key]
        return KeptCall(call, None, None, seconds, usage, block)

    def keep_call(self, key: str, called: CalledTool, block: Block) -> KeptCall:
        """Keep the outcome of a call, before this returns."""
        usage = {name: number for name, number in dict(called.usage).items() if number}
        self._append({"call": key, "block": block, "usage": usage, "seconds": called.seconds})
        outcome = (called.result, called.exception, called.seconds, called.usage)
        return KeptCall(called.call, *outcome, block=self._calls[key][0])

    # Approvals

    def find_approvals(self, step: AskForApproval) -> List[Optional[Approval]]:
        """Return the decision about each call, None without one."""
        calls = zip(step.keys, step.calls, step.tools)
        waits = [self._wait(key, call, tool) for key, call, tool in calls]
        answers = self._entries.find_answers(waits)
        decisions: List[Optional[Approval]] = []
        self._undecided = []
        for key, wait, answer in zip(step.keys, waits, answers):
            if key in self._calls:  # made when the tool needed no approval for it
                decisions.append(Approved())
            elif answer is not None:
                decisions.append(decode_decision(answer.message))
            else:
                decisions.append(None)
                self._undecided.append(wait)
        return decisions

    def _wait(self, key: str, call: ToolCall, tool: Tool) -> Wait:
        context = self._context
        return Wait(
            context.run_id,
            context.name,
            "@".join((key,) + self.operation),
            context.visit,
            f"May {context.name!r} call {call.name}?",
            type=tool.input_schema,
            call=call,
        )

    def park(self) -> NoReturn:
        """End the handler until one of the calls that wait for approval is decided."""
        self._entries.park(self._undecided)


def _dump_reply(reply: Reply) -> Dict[str, Any]:
    return reply.model_dump(mode="json", exclude={"parsed"}, exclude_defaults=True)
