"""Faults of a ModelServer, on every wire, as a plain socket sees them."""

import json
import re
import select
import socket
import sys
import time

import pytest
import requests

from asimov_sync import ChatMessage, ChatRole, Reply, Usage
from asimov_sync.testing import Failure, Fault, ModelServer, ScriptedInferenceClient
from asimov_sync.testing.wires.eventstream import decode

from ..tiers import positions, suite, within
from ..waiting import Background, wait_for
from .raw_http import post, send_request

HELLO = {"messages": [{"role": "user", "content": "hello"}]}
CONVERSE_HELLO = {"messages": [{"role": "user", "content": [{"text": "hello"}]}]}
STREAMED = {
    "messages": ("/v1/messages", dict(HELLO, stream=True)),
    "chat": ("/v1/chat/completions", dict(HELLO, stream=True)),
    "invoke": ("/model/m/invoke-with-response-stream", HELLO),
    "converse": ("/model/m/converse-stream", CONVERSE_HELLO),
}
IN_ONE_PIECE = {
    "messages": ("/v1/messages", HELLO),
    "chat": ("/v1/chat/completions", HELLO),
    "invoke": ("/model/m/invoke", HELLO),
    "converse": ("/model/m/converse", CONVERSE_HELLO),
}
WIRES = sorted(STREAMED)
# With a fixed id and model, the bytes are the same each time.
REPLY = Reply(
    message=ChatMessage(role=ChatRole.ASSISTANT, content="hi there"),
    stop_reason="end_turn",
    usage=Usage(input_tokens=3, output_tokens=2),
    model="m",
    id="msg_1",
)


def logged_faults(server):
    """Return the faults of the last request, after the server finished it."""
    assert server.requests[-1].finished.wait(20)
    return server.requests[-1].faults


def body_without_fault(path, body):
    with ModelServer([REPLY]) as server:
        response = post(server, path, body)
        assert (response.status, response.whole, logged_faults(server)) == (200, True, [])
        return response.body


# Cuts


@suite
@pytest.mark.parametrize("framing", ["chunked", "close"])
@pytest.mark.parametrize("wire", WIRES)
def test_cut_stream_at_each_byte(wire, framing):
    """The connection ends after n bytes of the body. The reply does not count as sent whole."""
    path, body = STREAMED[wire]
    whole = body_without_fault(path, body)
    cuts = positions(len(whole))
    with ModelServer((Fault(REPLY, cut_at=cut) for cut in cuts), framing=framing) as server:
        for cut in cuts:
            response = post(server, path, body)
            assert (response.status, response.body, response.whole, response.reset) == (
                200,
                whole[:cut],
                False,
                False,
            )
            assert response.chunked == (framing == "chunked")
            assert (server.requests[-1].whole, logged_faults(server)) == (False, [f"cut_at={cut}"])
        assert server.usage == Usage()


@pytest.mark.parametrize("wire", WIRES)
def test_cut_inside_chunk(wire):
    """The size line of a chunk that is cut announces its full length."""
    path, body = STREAMED[wire]
    whole = body_without_fault(path, body)
    with ModelServer(
        (Fault(REPLY, cut_at=cut) for cut in (1, len(whole))), framing="chunked"
    ) as server:
        inside = post(server, path, body)
        length, _, rest = inside.rest.partition(b"\r\n")
        assert len(rest) == 1 < int(length, 16)
        at_the_end = post(server, path, body)
        assert (at_the_end.body, at_the_end.whole) == (whole, False)
        assert at_the_end.rest.endswith(b"\r\n") and not at_the_end.rest.endswith(b"0\r\n\r\n")
        # Only the last chunk is missing, no byte of the reply.
        assert server.requests[-1].whole


@pytest.mark.parametrize("wire", WIRES)
def test_cut_whole_reply(wire):
    """The Content-Length is that of the whole body, and fewer bytes are sent."""
    path, body = IN_ONE_PIECE[wire]
    whole = body_without_fault(path, body)
    cuts = list(range(0, len(whole), 11))
    with ModelServer([Fault(REPLY, cut_at=cut) for cut in cuts]) as server:
        for cut in cuts:
            response = post(server, path, body)
            assert response.headers["content-length"] == str(len(whole))
            assert (response.body, logged_faults(server)) == (whole[:cut], [f"cut_at={cut}"])


def test_cut_before_headers():
    """The connection ends before a byte is sent, with or without a reset."""
    with ModelServer(
        [Fault("hi", cut_at="headers"), Fault("hi", cut_at="headers", reset=True)]
    ) as server:
        closed, reset = (post(server, "/v1/messages", HELLO) for _ in range(2))
        assert (closed.bytes, closed.reset, server.requests[0].faults) == (
            b"",
            False,
            ["cut_at=headers"],
        )
        assert (reset.bytes, reset.reset, server.requests[1].faults) == (
            b"",
            True,
            ["cut_at=headers", "reset"],
        )


@pytest.mark.parametrize("framing", ["chunked", "close"])
@pytest.mark.parametrize("wire", WIRES)
def test_reset(wire, framing):
    """With `reset`, a TCP reset follows the bytes before the cut."""
    path, body = STREAMED[wire]
    whole = body_without_fault(path, body)
    with ModelServer([Fault(REPLY, cut_at=50, reset=True, framing=framing)]) as server:
        response = post(server, path, body)
        assert (response.body, response.reset) == (whole[:50], True)
        assert logged_faults(server) == [f"framing={framing}", "cut_at=50", "reset"]


def test_unreached_faults():
    """Faults at bytes or events that the reply does not have are not logged."""
    path, body = STREAMED["messages"]
    for fault in (Fault(REPLY, cut_at=10**6), Fault(REPLY, error_at=99), Fault(REPLY, stall=99)):
        with ModelServer([fault]) as server:
            assert post(server, path, body).whole
            assert (logged_faults(server), server.requests[0].whole) == ([], True)
            assert server.usage == Usage(input_tokens=3, output_tokens=2, requests=1)
    path, body = IN_ONE_PIECE["messages"]
    with ModelServer([Fault(REPLY, error_at=0, newline="\r")]) as server:
        assert post(server, path, body).whole
        assert logged_faults(server) == []


# Errors in a stream

TOO_MANY = Failure(429, message="slow down")


@suite
@pytest.mark.parametrize(
    "failure, types",
    [
        (Failure(529), ("overloaded_error", "server_is_overloaded", "serviceUnavailableException")),
        (TOO_MANY, ("rate_limit_error", "rate_limit_exceeded", "throttlingException")),
        (Failure(500), ("api_error", None, "internalServerException")),
        (Failure(400), ("invalid_request_error", None, "validationException")),
        (Failure(424), ("invalid_request_error", None, "modelStreamErrorException")),
        (Failure(400, "odd_word"), ("odd_word", "odd_word", "odd_word")),
    ],
    ids=repr,
)
@pytest.mark.parametrize("wire", WIRES)
def test_error_event(wire, failure, types):
    """An error event in the wire's format replaces event k, and the response ends properly."""
    path, body = STREAMED[wire]
    whole = body_without_fault(path, body)
    with ModelServer([Fault(REPLY, error_at=2, error=failure)]) as server:
        response = post(server, path, body)
        assert (response.status, response.whole, logged_faults(server)) == (
            200,
            True,
            ["error_at=2"],
        )
        assert (server.requests[0].sent, server.requests[0].whole) == (2, False)
    if wire in ("messages", "chat"):
        *before, error = response.body.decode("utf-8").split("\n\n")[:-1]
        assert before == whole.decode("utf-8").split("\n\n")[:2]
        name, _, data = error.rpartition("data: ")
        received = json.loads(data)["error"]
        assert received["message"] == failure.message
        if wire == "messages":
            assert (name, json.loads(data)["type"], received["type"]) == (
                "event: error\n",
                "error",
                types[0],
            )
        else:
            assert (name, sorted(received), received["code"]) == (
                "",
                ["code", "message", "param", "type"],
                types[1],
            )
    else:
        messages, _ = decode(response.body)
        assert messages[:-1] == decode(whole)[0][:2]
        assert messages[-1].headers == {
            ":exception-type": types[2],
            ":content-type": "application/json",
            ":message-type": "exception",
        }
        assert json.loads(messages[-1].payload.decode("utf-8")) == {"message": failure.message}


@pytest.mark.parametrize("event", [0, 3, 7])
def test_error_at_each_event(event):
    """The error replaces the event of that number, including the first and the last."""
    path, body = STREAMED["messages"]
    with ModelServer([Fault(REPLY, error_at=event)]) as server:
        lines = post(server, path, body).body.decode("utf-8").split("\n\n")[:-1]
        assert len(lines) == event + 1
        assert lines[-1].startswith("event: error")


# Statuses

STATUSES = [
    (
        Failure(400),
        (400, "invalid_request_error"),
        (400, "invalid_request_error", None),
        (400, "ValidationException"),
    ),
    (
        Failure(401),
        (401, "authentication_error"),
        (401, "invalid_request_error", "invalid_api_key"),
        (403, "AccessDeniedException"),
    ),
    (
        Failure(403),
        (403, "permission_error"),
        (403, "invalid_request_error", None),
        (403, "AccessDeniedException"),
    ),
    (
        Failure(404),
        (404, "not_found_error"),
        (404, "invalid_request_error", "model_not_found"),
        (404, "ResourceNotFoundException"),
    ),
    (
        Failure(429),
        (429, "rate_limit_error"),
        (429, "rate_limit_error", "rate_limit_exceeded"),
        (429, "ThrottlingException"),
    ),
    (
        Failure(500),
        (500, "api_error"),
        (500, "server_error", None),
        (500, "InternalServerException"),
    ),
    (
        Failure(504),
        (504, "timeout_error"),
        (504, "server_error", None),
        (408, "ModelTimeoutException"),
    ),
    (
        Failure(529),
        (529, "overloaded_error"),
        (503, "service_unavailable_error", "server_is_overloaded"),
        (503, "ServiceUnavailableException"),
    ),
    (
        Failure(429, "ModelNotReadyException"),
        (429, "ModelNotReadyException"),
        (429, "rate_limit_error", "ModelNotReadyException"),
        (429, "ModelNotReadyException"),
    ),
]


@suite
@pytest.mark.parametrize(
    "failure, messages, chat, bedrock", STATUSES, ids=[repr(one[0]) for one in STATUSES]
)
@pytest.mark.parametrize("wire", WIRES)
def test_failure_status(wire, failure, messages, chat, bedrock):
    """A Failure has the wire's status, body and error type, and its additional headers."""
    path, body = STREAMED[wire]
    with ModelServer([failure._replace(message="no", headers={"retry-after": "7"})]) as server:
        response = post(server, path, body)
        assert response.headers["retry-after"] == "7"
        received = json.loads(response.body.decode("utf-8"))
        if wire == "messages":
            status, word = messages
            assert received == {
                "type": "error",
                "error": {"type": word, "message": "no"},
                "request_id": "req_000000",
            }
        elif wire == "chat":
            status, word, code = chat
            assert received == {
                "error": {"message": "no", "type": word, "param": None, "code": code}
            }
        else:
            status, word = bedrock
            assert (received, response.headers["x-amzn-errortype"]) == ({"message": "no"}, word)
        assert (response.status, logged_faults(server)) == (status, [f"status={status}"])
        assert server.usage == Usage()


def test_fault_with_failure():
    """A Fault can contain a Failure, whose body is cut like any other."""
    with ModelServer([Fault(Failure(500), cut_at=5)]) as server:
        response = post(server, "/v1/messages", HELLO)
        assert (response.status, len(response.body), response.whole) == (500, 5, False)
        assert logged_faults(server) == ["status=500", "cut_at=5"]


# Stalls


@suite
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("place", ["headers", 0, 2])
def test_stall(wire, place):
    """Nothing is sent after the stall, and the server notices that its client disconnects."""
    path, body = STREAMED[wire]
    whole = body_without_fault(path, body)
    with ModelServer([Fault(REPLY, stall=place)]) as server:
        connection = send_request(server, path, body)
        wait_for(lambda: server.requests and server.requests[0].faults)
        assert server.requests[0].faults == [f"stall={place}"]
        received = b""
        while select.select([connection], [], [], 0.1)[0]:
            received += connection.recv(65536)
        head, _, rest = received.partition(b"\r\n\r\n")
        assert bool(head) == (place != "headers")
        assert bool(rest) == (place == 2)
        assert whole[-20:] not in rest
        assert server.requests[0].sent == (2 if place == 2 else 0)
        assert not server.requests[0].finished.is_set()
        connection.close()
        assert server.requests[0].disconnected.wait(20)


def test_close_during_stall():
    """Closing the server ends the stall without logging a disconnect."""
    server = ModelServer([Fault(REPLY, stall=1)])
    path, body = STREAMED["messages"]
    with send_request(server, path, body) as connection:
        wait_for(lambda: server.requests and server.requests[0].faults)
        start = time.monotonic()
        server.close()
        assert time.monotonic() - start < within(1)
        assert connection.recv(65536)
        assert connection.recv(65536) in (b"", b"x")
        assert not server.requests[0].disconnected.is_set()


# Bytes


@suite
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("wire", WIRES)
def test_write_bytes(wire, size):
    """Each write has that number of bytes, and the response is the same."""
    path, body = STREAMED[wire]
    whole = body_without_fault(path, body)
    with ModelServer([Fault(REPLY, write_bytes=size)]) as server:
        response = post(server, path, body)
        assert (response.body, response.whole, logged_faults(server)) == (
            whole,
            True,
            [f"write_bytes={size}"],
        )
    # One recv may get several writes, on a busy machine many. There are about ten events.
    assert len(response.pieces) > 30
    assert min(len(piece) for piece in response.pieces) <= size


@pytest.mark.parametrize("newline", ["\r\n", "\r"], ids=repr)
@pytest.mark.parametrize("wire", ["messages", "chat"])
def test_newline(wire, newline):
    """All events have the requested line ends, including the error."""
    path, body = STREAMED[wire]
    whole = body_without_fault(path, body)
    with ModelServer(
        [Fault(REPLY, newline=newline), Fault(REPLY, newline=newline, error_at=1)]
    ) as server:
        assert post(server, path, body).body == whole.replace(b"\n", newline.encode("ascii"))
        assert logged_faults(server) == [f"newline={newline!r}"]
        broken = post(server, path, body).body
        assert b"\n" not in broken.replace(newline.encode("ascii"), b"")
        assert b"error" in broken


@pytest.mark.parametrize("wire", WIRES)
def test_framing_of_one_answer(wire):
    """A Fault can set a framing that differs from the server's, streamed or not."""
    for path, body in (STREAMED[wire], IN_ONE_PIECE[wire]):
        whole = body_without_fault(path, body)
        with ModelServer(
            [Fault(REPLY, framing="close"), Fault(REPLY, framing="chunked")]
        ) as server:
            close, chunked = (post(server, path, body) for _ in range(2))
        assert close.body == chunked.body == whole
        assert (close.headers.get("connection"), close.chunked, chunked.chunked) == (
            "close",
            False,
            True,
        )
        assert "content-length" not in close.headers and "content-length" not in chunked.headers


def test_combined_faults():
    """Faults of one answer can be combined, and all are logged."""
    path, body = STREAMED["messages"]
    events = body_without_fault(path, body).replace(b"\n", b"\r\n")
    third = events.index(b"event: content_block_delta")
    fault = Fault(
        REPLY,
        newline="\r\n",
        write_bytes=5,
        framing="close",
        error_at=3,
        cut_at=third + 20,
        reset=True,
    )
    with ModelServer([fault]) as server:
        response = post(server, path, body)
        assert (response.body, response.reset) == (events[:third] + b"event: error\r\ndata: ", True)
        assert logged_faults(server) == [
            "newline='\\r\\n'",
            "write_bytes=5",
            "framing=close",
            "error_at=3",
            f"cut_at={third + 20}",
            "reset",
        ]


# The server as a whole


@suite
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="other systems keep no such backlog"
)
def test_pause_accepting():
    """A new connect() blocks and is accepted later; open connections are served meanwhile."""
    with ModelServer(lambda body: "hi") as server:
        host, port = re.search(r"//(.*):(\d+)", server.url).groups()
        session = requests.Session()
        assert session.post(server.url, json=HELLO).ok
        with server.pause_accepting():
            with pytest.raises(RuntimeError, match="already"):
                with server.pause_accepting():
                    pass
            for _ in range(3):
                with pytest.raises(socket.timeout):
                    socket.create_connection((host, int(port)), timeout=0.15)
            assert session.post(server.url, json=HELLO).ok
            waiting = Background(socket.create_connection, (host, int(port)), 20)
            waiting.thread.join(0.15)
            assert waiting.thread.is_alive()
        waiting.result().close()
        assert requests.post(server.url, json=HELLO).ok
        session.close()


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="other systems keep no such backlog"
)
def test_close_while_paused():
    """A paused server can be closed, and does not accept again."""
    with ModelServer(["hi"]) as server:
        with server.pause_accepting():
            server.close()
        with pytest.raises(requests.ConnectionError):
            requests.post(server.url, json=HELLO)
        with pytest.raises(RuntimeError, match="closed"):
            with server.pause_accepting():
                pass


# Invalid faults


@pytest.mark.parametrize(
    "options",
    [
        {"cut_at": -1},
        {"cut_at": "middle"},
        {"error_at": "headers"},
        {"stall": 1.5},
        {"write_bytes": 0},
        {"newline": "\n\n"},
        {"framing": "odd"},
        {"reset": True},
    ],
    ids=repr,
)
def test_invalid_fault(options):
    """Fault raises for an invalid argument."""
    with pytest.raises(ValueError, match=next(iter(options))):
        Fault("hi", **options)
    with pytest.raises(TypeError, match="another Fault"):
        Fault(Fault("hi"))


def test_scripted_client_refuses_faults():
    """A ScriptedInferenceClient raises TypeError for a Fault that needs a network."""
    with pytest.raises(TypeError, match="ModelServer"):
        ScriptedInferenceClient([Fault("hi", cut_at=1)]).generate("hello")
    assert ScriptedInferenceClient([Fault("hi")]).generate("hello").text == "hi"
