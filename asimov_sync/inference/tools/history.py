"""The end of a history: which calls are still open there, and how they get their results. Pure: no IO, no clock."""

from typing import Any, Counter, List, Optional, Tuple

from asimov_sync.messages import Block, ChatMessage, ChatRole, Reply, ToolCall

__all__ = ["answer", "not_made", "open_reply"]


def open_reply(history: List[ChatMessage]) -> Optional[Reply]:
    """The reply whose calls are still open at the end of a history, with just these; None where there are none."""
    last, answered = _last_turn(history)
    if last is None:
        return None
    left = Counter(answered)
    calls = []
    for block in last.blocks:
        if block.get("type") == "tool_use":
            if left[str(block.get("id"))]:
                left[str(block.get("id"))] -= 1
            else:
                calls.append(ToolCall.from_block(block))
    if not calls:
        return None
    return Reply(message=last, stop_reason="tool_use", raw_stop_reason="tool_use", tool_calls=calls)


def _last_turn(history: List[ChatMessage]) -> Tuple[Optional[ChatMessage], List[str]]:
    """The message of the assistant that a history ends with, and the ids of the calls that were answered after it."""
    answered: List[str] = []
    for message in reversed(history):
        if message.role is ChatRole.ASSISTANT:
            return message, answered
        results = [block for block in message.blocks if block.get("type") == "tool_result"]
        if not results:
            return None, []
        answered += [str(block.get("tool_use_id")) for block in results]
    return None, []


def answer(history: List[ChatMessage], results: List[Block]) -> None:
    """Add results to the history: one message for all calls of a turn, in the order of the calls."""
    if not results:
        return
    told = ChatMessage(role=ChatRole.TOOL_RESULT, content=[])
    if history[-1].role is not ChatRole.ASSISTANT:
        told = history.pop()
    order = [block.get("id") for block in history[-1].blocks if block.get("type") == "tool_use"]
    blocks = sorted(told.blocks + results, key=lambda block: _place(order, block.get("tool_use_id")))
    history.append(told.model_copy(update={"content": blocks}))


def _place(order: List[Any], wanted: Any) -> int:
    return order.index(wanted) if wanted in order else len(order)


def not_made(call: ToolCall, stop_reason: Optional[str]) -> Block:
    """The result of a call that came with a reply that did not stop for it."""
    text = "the call was not made, because the reply stopped with {}".format(stop_reason)
    return {"type": "tool_result", "tool_use_id": call.id, "content": text, "is_error": True}
