"""Approvals: the decisions of a person about calls that wait for one.

Pure: no IO, no clock.
"""

import collections.abc
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Union

from asimov_sync.inference.tools.tool import Tool
from asimov_sync.messages import ChatMessage, ToolCall

__all__ = [
    "Approval",
    "Approvals",
    "Approved",
    "Decision",
    "Refused",
    "as_decision",
    "check_decision",
    "read_approvals",
]


@dataclass(frozen=True)
class Approved:
    """A call is approved.

    call: the ToolCall that was shown to the person; None (the default) for the one in the messages.
        If the messages have another name or other arguments for it, ValueError is raised.
    arguments: the arguments of the call in place of the model's; None (the default) for the
        model's. They are checked against the tool's schema, and reported to the model.
    """

    call: Optional[ToolCall] = None
    arguments: Optional[Dict[str, Any]] = None

    def apply(self, call: ToolCall) -> ToolCall:
        """Return the call with the arguments of this approval."""
        if self.arguments is None:
            return call
        return call.model_copy(update={"arguments": self.arguments})


@dataclass(frozen=True)
class Refused:
    """A call is refused.

    reason: the reason, which the model receives (default: none).
    """

    reason: str = ""


Approval = Union[bool, str, Approved, Refused]

Decision = Union[Approved, Refused]

Approvals = Mapping[str, Approval]
"""Decisions about calls that require approval, by call id: True, Approved(…), Refused(…), or the
reason for a refusal as a str. False is a refusal without a reason."""

MISTAKEN = ("yes", "true", "ok")
"""Texts that are not accepted as the reason for a refusal, in upper or lower case."""


def read_approvals(
    approvals: Approvals,
    history: List[ChatMessage],
    unanswered: List[ToolCall],
    tools: Mapping[str, Tool],
) -> Dict[str, Decision]:
    """Check decisions, and return each as an Approved or a Refused.

    approvals: the decisions.
    history: the messages that hold the calls.
    unanswered: the calls at their end without a result. A decision about another call of the
        history has no effect.
    tools: the tools by name.

    Raises TypeError for a value that is not a decision. Raises ValueError for an unknown call, a
    call other than the shown one, and for arguments that do not fit the tool.
    """
    if not isinstance(approvals, collections.abc.Mapping):
        raise TypeError(f"approvals= is a dict from call ids to decisions; not {approvals!r}")
    known = {
        block.get("id")
        for message in history
        for block in message.blocks
        if block.get("type") == "tool_use"
    }
    decisions = {}
    for call_id, approval in approvals.items():
        if call_id not in known:
            raise ValueError(f"there is no call {call_id!r} in the messages to be approved")
        decision = as_decision(approval)
        if isinstance(decision, Approved):
            calls = [call for call in unanswered if call.id == call_id]
            _check_shown(call_id, decision, calls)
            _check_arguments(call_id, decision, calls, tools)
        decisions[call_id] = decision
    return decisions


def check_decision(approval: Approval, call: ToolCall, tools: Mapping[str, Tool]) -> Decision:
    """Check the decision about a call, and return it as an Approved or a Refused.

    Raises the errors of `read_approvals`.
    """
    decision = as_decision(approval)
    if isinstance(decision, Approved):
        _check_shown(call.id, decision, [call])
        _check_arguments(call.id, decision, [call], tools)
    return decision


def as_decision(approval: Any) -> Decision:
    """Return a decision as an Approved or a Refused. Raises TypeError for anything else."""
    if isinstance(approval, (Approved, Refused)):
        _check_fields(approval)
        return approval
    if isinstance(approval, bool):
        return Approved() if approval else Refused()
    if isinstance(approval, str):
        if approval.strip().casefold() in MISTAKEN:
            raise TypeError(
                f"{approval!r} would be the reason for a refusal: pass True or Approved() to "
                "approve, or Refused(reason)"
            )
        return Refused(approval)
    raise TypeError(
        "an approval is True, or the reason for a refusal (a str), or Approved(…) or Refused(…); "
        f"not {approval!r}"
    )


def _check_fields(decision: Union[Approved, Refused]) -> None:
    if isinstance(decision, Refused):
        if not isinstance(decision.reason, str):
            raise TypeError(f"Refused(reason) takes a str, not {decision.reason!r}")
        return
    if decision.call is not None and not isinstance(decision.call, ToolCall):
        raise TypeError(f"Approved(call=) takes a ToolCall, not {decision.call!r}")
    if decision.arguments is not None and not isinstance(decision.arguments, dict):
        raise TypeError(
            f"Approved(arguments=) takes the arguments by name, a dict; not {decision.arguments!r}"
        )


def _check_shown(call_id: str, decision: Approved, calls: List[ToolCall]) -> None:
    shown = decision.call
    if shown is None:
        return
    for call in calls:
        same = (call.id, call.name) == (shown.id, shown.name)
        if not same or not _are_equal(call.arguments, shown.arguments):
            raise ValueError(
                f"the call {call_id!r} in the messages is not the approved one: it has another "
                "name or other arguments. Show the call again, and have it approved anew"
            )
    if shown.id != call_id:
        raise ValueError(f"the approval of {call_id!r} holds the call {shown.id!r}")


def _are_equal(one: Any, other: Any) -> bool:
    """Compare JSON values. Unlike in Python, True is not 1; as in JavaScript, 1.0 is 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_are_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_are_equal, one, other))
    return bool(one == other)


def _check_arguments(
    call_id: str, decision: Approved, calls: List[ToolCall], tools: Mapping[str, Tool]
) -> None:
    if decision.arguments is None or not calls:
        return
    if len(calls) > 1:
        raise ValueError(
            f"several calls have the id {call_id!r}: approve or refuse them as they are"
        )
    tool = tools.get(calls[0].name)
    if tool is None:
        raise ValueError(
            f"there is no tool named {calls[0].name!r} to check the arguments of {call_id!r}"
        )
    try:
        tool.check_arguments(decision.arguments)
    except ValueError as error:
        raise ValueError(f"the approval of {call_id!r}: {error}") from None
