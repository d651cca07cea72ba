"""Stored approvals: a decision about a tool call, bound to the call that was shown."""

from typing import Any, Dict, Union

from asimov_sync.inference.tools.approvals import Approval, Approved, Refused, as_decision
from asimov_sync.messages import ToolCall

__all__ = ["decode_decision", "encode_decision"]


def encode_decision(approval: Approval, call: ToolCall) -> Dict[str, Any]:
    """Return a decision as a value that JSON can hold.

    call: the call that waits, as it was shown.

    Raises TypeError for a value that is not a decision, and ValueError for one about another call.
    """
    decision = as_decision(approval)
    if isinstance(decision, Refused):
        return {"approved": False, "reason": decision.reason}
    if decision.call is not None and decision.call != call:
        raise ValueError(
            f"the call {call.id!r} that waits is not the approved one: it has another name or "
            "other arguments. Show the call again, and have it approved anew"
        )
    return {
        "approved": True,
        "call": call.model_dump(mode="json"),
        "arguments": decision.arguments,
    }


def decode_decision(message: Any) -> Union[Approved, Refused]:
    """Return the decision of a stored answer. Anything but an approval is a refusal.

    Raises ValueError for an approval without the call that was shown.
    """
    if not isinstance(message, dict) or message.get("approved") is not True:
        reason = message.get("reason") if isinstance(message, dict) else ""
        return Refused(reason if isinstance(reason, str) else "")
    try:
        call = ToolCall.model_validate(message.get("call"))
    except ValueError:
        raise ValueError(
            "the stored approval does not say which call was shown; approve the call anew"
        ) from None
    return Approved(call, message.get("arguments"))
