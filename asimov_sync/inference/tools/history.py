"""The end of a conversation's history: its unanswered calls, and their results.

Pure: no IO, no clock.
"""

from typing import Any, Counter, List, Optional, Tuple

from asimov_sync.messages import Block, ChatMessage, ChatRole, Reply, ToolCall

__all__ = ["append_results", "skipped_result", "unanswered_calls"]


def unanswered_calls(history: List[ChatMessage]) -> Optional[Reply]:
    """Return the last reply of a history with its unanswered calls; None if there are none."""
    last, answered = _last_turn(history)
    if last is None:
        return None
    remaining = Counter(answered)
    calls = []
    for block in last.blocks:
        if block.get("type") == "tool_use":
            call_id = str(block.get("id"))
            if remaining[call_id]:
                remaining[call_id] -= 1
            else:
                calls.append(ToolCall.from_block(block))
    if not calls:
        return None
    return Reply(message=last, stop_reason="tool_use", raw_stop_reason="tool_use", tool_calls=calls)


def _last_turn(history: List[ChatMessage]) -> Tuple[Optional[ChatMessage], List[str]]:
    """Return the last message of the assistant, and the ids of the calls answered after it."""
    answered: List[str] = []
    for message in reversed(history):
        if message.role is ChatRole.ASSISTANT:
            return message, answered
        results = [block for block in message.blocks if block.get("type") == "tool_result"]
        if not results:
            return None, []
        answered += [str(block.get("tool_use_id")) for block in results]
    return None, []


def append_results(history: List[ChatMessage], results: List[Block]) -> None:
    """Append results to a history.

    The results of one turn share one message, in the order of their calls. If the history ends with
    such a message, that one is extended.
    """
    if not results:
        return
    message = ChatMessage(role=ChatRole.TOOL_RESULT, content=[])
    if history[-1].role is not ChatRole.ASSISTANT:
        message = history.pop()
    call_ids = [block.get("id") for block in history[-1].blocks if block.get("type") == "tool_use"]
    blocks = sorted(
        message.blocks + results, key=lambda block: _index(call_ids, block.get("tool_use_id"))
    )
    history.append(message.model_copy(update={"content": blocks}))


def _index(call_ids: List[Any], call_id: Any) -> int:
    return call_ids.index(call_id) if call_id in call_ids else len(call_ids)


def skipped_result(call: ToolCall, stop_reason: Optional[str]) -> Block:
    """Return the error result of a call whose reply did not stop with "tool_use"."""
    text = f"the call was not made, because the reply stopped with {stop_reason}"
    return {"type": "tool_result", "tool_use_id": call.id, "content": text, "is_error": True}
