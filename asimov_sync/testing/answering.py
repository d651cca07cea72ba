"""From what a script answers to a response on a wire: its status, its headers, and its body in the pieces to be sent. Pure."""

from typing import Any, Dict, Mapping, NamedTuple, Optional, Sequence

from asimov_sync.messages import Reply
from asimov_sync.testing.script import Failure, Fault
from asimov_sync.testing.wires import Wire
from asimov_sync.testing.wires.contract import as_json

__all__ = ["Response", "counted", "failed", "replied"]


class Response(NamedTuple):
    """A response to be sent.

    framing: "chunked", "close", or None to announce its length. error: of a stream, the piece that a fault's `error_at` asks
    for; None for a body in one piece. faults: what is noted of it before a byte is sent.
    """

    status: int
    headers: Mapping[str, str]
    pieces: Sequence[bytes]
    fault: Fault
    framing: Optional[str] = None
    error: Optional[bytes] = None
    faults: Sequence[str] = ()


def failed(wire: Wire, failure: Failure, request_id: str, fault: Optional[Fault] = None) -> Response:
    """A failure in the wire's own form; fault: given where the script asked for the failure, which is a fault then."""
    status = wire.failure_status(failure)
    headers = dict(wire.failure_headers(failure), **failure.headers)
    body = wire.failure_body(failure, request_id)
    noted = ["status={}".format(status)] if fault is not None else []
    return _in_one_piece(wire, status, headers, body, request_id, fault or Fault(failure))._replace(faults=noted)


def counted(wire: Wire, tokens: int, request_id: str) -> Response:
    """A count of tokens."""
    return _in_one_piece(wire, 200, {}, wire.count_body(tokens), request_id, Fault(""))


def replied(wire: Wire, reply: Reply, body: Mapping[str, Any], request_id: str, fault: Fault, framing: str) -> Response:
    """A reply, streamed if the request asks for that. ValueError where the wire has no words for it."""
    if not body.get("stream"):
        return _in_one_piece(wire, 200, {}, wire.reply_body(reply, body), request_id, fault)
    newline = fault.newline or "\n"
    return Response(
        status=200,
        headers=dict(wire.stream_headers, **{wire.request_id_header: request_id}),
        pieces=[wire.encode(event, newline) for event in wire.reply_events(reply, body)],
        fault=fault,
        framing=fault.framing or framing,
        error=wire.encode(wire.error_event(fault.error), newline),
        faults=["newline={!r}".format(newline)] if fault.newline is not None and wire.lines else [],
    )


def _in_one_piece(
    wire: Wire, status: int, headers: Mapping[str, str], body: Dict[str, Any], request_id: str, fault: Fault
) -> Response:
    told = dict(headers, **{"content-type": "application/json", wire.request_id_header: request_id})
    return Response(status, told, [as_json(body).encode("utf-8")], fault, fault.framing)
