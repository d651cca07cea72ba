"""Builds HTTP responses from a script's answers: status, headers, body and faults. Pure."""

from typing import Any, Dict, Mapping, NamedTuple, Optional, Sequence

from asimov_sync.messages import Reply
from asimov_sync.testing.script import Failure, Fault
from asimov_sync.testing.wires import Wire
from asimov_sync.testing.wires.wire import dump_json

__all__ = ["Response", "count_response", "failure_response", "reply_response"]


class Response(NamedTuple):
    """A response to send.

    status: the HTTP status.
    headers: the headers, without those of the framing.
    pieces: the body; of a stream, one piece for each event.
    fault: the fault to carry out while sending.
    framing: "chunked", "close", or None to send a Content-Length.
    error_event: the event to send for the fault's `error_at`. None if this is not a stream.
    faults: faults that the response already contains, as the request logs them.
    """

    status: int
    headers: Mapping[str, str]
    pieces: Sequence[bytes]
    fault: Fault
    framing: Optional[str] = None
    error_event: Optional[bytes] = None
    faults: Sequence[str] = ()


def failure_response(
    wire: Wire, failure: Failure, request_id: str, fault: Optional[Fault] = None
) -> Response:
    """Build an error response in the wire's format.

    fault: the script's fault, or None if the server itself rejects the request. A failure that the
        script asked for is logged as a fault.
    """
    status = wire.failure_status(failure)
    headers = dict(wire.failure_headers(failure), **failure.headers)
    body = wire.failure_body(failure, request_id)
    faults = [f"status={status}"] if fault is not None else []
    response = _whole_response(wire, status, headers, body, request_id, fault or Fault(failure))
    return response._replace(faults=faults)


def count_response(wire: Wire, tokens: int, request_id: str) -> Response:
    """Build the response to a request that counts tokens."""
    return _whole_response(wire, 200, {}, wire.count_body(tokens), request_id, Fault(""))


def reply_response(
    wire: Wire,
    reply: Reply,
    body: Mapping[str, Any],
    request_id: str,
    fault: Fault,
    framing: str,
) -> Response:
    """Build the response for a reply.

    body: the request's Messages body. The reply is streamed if its `stream` is true.
    framing: the framing of a stream, unless the fault sets one.

    Raises ValueError if the wire cannot express the reply.
    """
    if not body.get("stream"):
        return _whole_response(wire, 200, {}, wire.reply_body(reply, body), request_id, fault)
    newline = fault.newline or "\n"
    return Response(
        status=200,
        headers=dict(wire.stream_headers, **{wire.request_id_header: request_id}),
        pieces=[wire.encode(event, newline) for event in wire.reply_events(reply, body)],
        fault=fault,
        framing=fault.framing or framing,
        error_event=wire.encode(wire.error_event(fault.error), newline),
        faults=[f"newline={newline!r}"] if fault.newline is not None and wire.uses_sse else [],
    )


def _whole_response(
    wire: Wire,
    status: int,
    headers: Mapping[str, str],
    body: Dict[str, Any],
    request_id: str,
    fault: Fault,
) -> Response:
    """Build a response with a JSON body in one piece."""
    json_headers = {"content-type": "application/json", wire.request_id_header: request_id}
    data = dump_json(body).encode("utf-8")
    return Response(status, dict(headers, **json_headers), [data], fault, fault.framing)
