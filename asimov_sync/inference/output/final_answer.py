"""Structured output at the end of a tool loop: recognizes the final answer, or asks for it.

Besides the caller's tools, the model has a tool whose arguments are the answer. It calls that tool
when it is done, so most loops take no more requests than they would for text. Only a model that
ends with text is asked again, with the tool forced.

Pure: no IO, no clock.
"""

from typing import Any, Dict, List, Optional

from asimov_sync.errors import OutputInvalid
from asimov_sync.inference.output.schema import TRUNCATED_REASONS, Output
from asimov_sync.inference.tools.history import append_results, skipped_result
from asimov_sync.messages import Block, ChatMessage, ChatRole, Reply, ToolCall

__all__ = ["FinalAnswer"]


class FinalAnswer:
    """The state of the final answer during a loop.

    output: the type of the answer.
    provider: the provider's name, for errors.
    tools: whether the model has other tools.

    force_output: whether the next request must make the model give the answer. Always True if the
        model has no other tool that it could call first.
    """

    def __init__(self, output: Output, provider: str, tools: bool) -> None:
        self._output = output
        self._provider = provider
        self._tools = tools
        self._corrected = False
        self.force_output = not tools

    @property
    def definition(self) -> Dict[str, Any]:
        """The definition of the tool whose arguments are the answer."""
        definition = self._output.definition
        description = definition["description"] + " Call this to give the final answer."
        return dict(definition, description=description)

    def is_answer(self, call: ToolCall) -> bool:
        """Return whether a call is the final answer, not a call of the caller's tools."""
        return call.name == self._output.name

    def defer(self, answer_calls: List[ToolCall]) -> List[Block]:
        """Defer the final answer, because other tools are called in this turn.

        answer_calls: the answers in the same turn. Returns their (error) results.
        """
        self.force_output = not self._tools
        text = "not accepted: give the answer after the results of the other calls"
        return [_result(call, text, is_error=True) for call in answer_calls]

    def extract(self, reply: Reply, history: List[ChatMessage]) -> Optional[Reply]:
        """Return the reply with its data in `.parsed`; None if the model has to be asked (again).

        reply: the last reply.
        history: ends with the reply. Results of its calls, or a request for the data, are appended.

        Raises OutputInvalid if the reply is cut short, or was already corrected once; the history
        then ends with the results of the reply's calls.
        """
        try:
            parsed = self._output.parse(reply)
        except ValueError as error:
            problem = str(error)
        else:
            append_results(history, [self._acknowledge(call, reply) for call in reply.tool_calls])
            return parsed
        truncated = reply.stop_reason in TRUNCATED_REASONS
        message = self._output.correction(reply, problem)[-1]
        if not truncated and not reply.tool_calls and not self.force_output:
            request = f"Give this answer in the form of {self._output.name}."
            message = ChatMessage(role=ChatRole.USER, content=request)
            self.force_output = True
        elif truncated or self._corrected:
            if reply.tool_calls:
                append_results(history, message.blocks)
            raise OutputInvalid(
                f"the reply is not a valid {self._output.name}: {problem} "
                f"(stop reason {reply.stop_reason})",
                provider=self._provider,
                partial=reply,
                messages=history,
            )
        else:
            self.force_output = self._corrected = True
        if message.role is ChatRole.TOOL_RESULT:
            append_results(history, message.blocks)
        else:
            if not reply.message.blocks:  # providers reject a message without content
                history.pop()
            history.append(message)
        return None

    def _acknowledge(self, call: ToolCall, reply: Reply) -> Block:
        if self.is_answer(call):
            return _result(call, "received")
        return skipped_result(call, reply.stop_reason)


def _result(call: ToolCall, text: str, **more: Any) -> Dict[str, Any]:
    return dict({"type": "tool_result", "tool_use_id": call.id, "content": text}, **more)
