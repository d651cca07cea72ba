"""The data that a tool loop is to end with: which reply is it, and what is said to a model that has not given it. Pure.

Beside the tools the model has one more, whose arguments are the answer. It calls it when it is done, so that most loops take
no more requests than they would for a text; only a model that ends with words is asked again, and made to give the data.
"""

from typing import Any, Dict, List, Optional

from asimov_sync.errors import OutputInvalid
from asimov_sync.inference.output.schema import CUT_SHORT, Output
from asimov_sync.inference.tools.history import answer, not_made
from asimov_sync.messages import Block, ChatMessage, ChatRole, Reply, ToolCall

__all__ = ["FinalAnswer"]


class FinalAnswer:
    """What is known of the answer while a loop goes on.

    insist: whether the next request makes the model give it. So does every one where it has no tools that it could call first.
    """

    def __init__(self, output: Output, provider: str, tools: bool) -> None:
        self._output = output
        self._provider = provider
        self._tools = tools
        self._corrected = False
        self.insist = not tools

    @property
    def definition(self) -> Dict[str, Any]:
        """The tool by which the answer is given, beside tools that do something."""
        told = self._output.definition
        return dict(told, description=told["description"] + " Call this to give the final answer.")

    def given_by(self, call: ToolCall) -> bool:
        """Whether a call is no call of a tool, but the answer."""
        return call.name == self._output.name

    def put_off(self, given: List[ToolCall]) -> List[Block]:
        """Where calls of tools are made: the model goes on with their results, whatever was insisted on before.

        given: answers that came beside these calls; their results are returned.
        """
        self.insist = not self._tools
        text = "not taken: give the answer once you have seen the results of the other calls"
        return [_result(call, text, is_error=True) for call in given]

    def taken_from(self, reply: Reply, history: List[ChatMessage]) -> Optional[Reply]:
        """The reply with its data in `.parsed`, its calls answered in the history; None where it is to be asked for (again).

        history: ends with the reply; what is to be said to the model is added. OutputInvalid if it was corrected before, or
        the reply was cut short; the history is then as it was with its calls answered.
        """
        try:
            filled = self._output.filled(reply)
        except ValueError as error:
            wrong = str(error)
        else:
            answer(history, [self._received(call, reply) for call in reply.tool_calls])
            return filled
        cut = reply.stop_reason in CUT_SHORT
        told = self._output.correction(reply, wrong)[-1]
        if not cut and not reply.tool_calls and not self.insist:
            told = ChatMessage(role=ChatRole.USER, content="Give this answer in the form of {}.".format(self._output.name))
            self.insist = True
        elif cut or self._corrected:
            if reply.tool_calls:
                answer(history, told.blocks)
            raise OutputInvalid(
                "the reply is no {}: {} (it stopped with {})".format(self._output.name, wrong, reply.stop_reason),
                provider=self._provider,
                partial=reply,
                messages=history,
            )
        else:
            self.insist = self._corrected = True
        if told.role is ChatRole.TOOL_RESULT:
            answer(history, told.blocks)
        else:
            if not reply.message.blocks:  # a message without content is one that no provider takes
                history.pop()
            history.append(told)
        return None

    def _received(self, call: ToolCall, reply: Reply) -> Block:
        return _result(call, "received") if self.given_by(call) else not_made(call, reply.stop_reason)


def _result(call: ToolCall, text: str, **more: Any) -> Dict[str, Any]:
    return dict({"type": "tool_result", "tool_use_id": call.id, "content": text}, **more)
