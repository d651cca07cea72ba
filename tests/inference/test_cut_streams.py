"""A stream of thirty events, cut at every byte and split at every byte, on a real socket.

What comes out is the whole reply or a StreamInterrupted with what had arrived: never a short reply that looks whole.
"""

import json
import socket
import struct

import pytest

from asimov_sync import AnthropicInferenceClient, StreamInterrupted

from .conftest import KEY
from .replay import Replay

TEXT = ["Wör", "ds\u2028 ", "of ", "a ", "re", "ply", ", ", "in ", "pie", "ces", "."]
INPUT = ["", '{"city"', ': "Ro', "me", '"}']


def events():
    yield {"type": "message_start", "message": {"id": "m", "content": [], "usage": {"input_tokens": 9, "output_tokens": 1}}}
    yield {"type": "ping"}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}}
    for piece in ("h", "m"):
        yield {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": piece}}
    yield {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "sealed"}}
    yield {"type": "content_block_stop", "index": 0}
    yield {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}
    for piece in TEXT:
        yield {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": piece}}
    yield {"type": "content_block_stop", "index": 1}
    yield {"type": "ping"}
    yield {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}},
    }
    for piece in INPUT:
        yield {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": piece}}
    yield {"type": "content_block_stop", "index": 2}
    yield {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 7}}
    yield {"type": "message_stop"}


EVENTS = list(events())
BODY = b"".join(
    "data: {}\n\n".format(json.dumps(event, ensure_ascii=False, separators=(",", ":"))).encode() for event in EVENTS
)
CONTENT = [
    {"type": "thinking", "thinking": "hm", "signature": "sealed"},
    {"type": "text", "text": "".join(TEXT)},
    {"type": "tool_use", "id": "t", "name": "f", "input": {"city": "Rome"}},
]


class CuttingReplay(Replay):
    """Sends the answer's first piece and breaks the connection: in the middle of a chunk, by its end, or with a reset."""

    def send(self, connection, status, headers, parts, framing):
        head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        if framing == "chunked":
            # One chunk of the whole length was announced.
            head += "transfer-encoding: chunked\r\n\r\n{:x}".format(len(BODY))
        connection.sendall(head.encode() + b"\r\n" + (b"" if framing == "chunked" else b"\r\n") + parts[0])
        if framing == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False


@pytest.fixture(scope="module")
def asked():
    """What comes out of a stream that a server cuts, or splits: a reply, or an error."""
    servers = {True: CuttingReplay(), False: Replay()}
    clients = {kind: AnthropicInferenceClient("m", KEY, server.url, max_retries=0) for kind, server in servers.items()}

    def ask(cutting, parts, framing):
        servers[cutting].answer = (200, {"content-type": "text/event-stream"}, parts, framing)
        with clients[cutting].stream("hello") as stream:
            for _event in stream:
                pass
            return stream.reply

    yield ask
    for client in clients.values():
        client.close()
    for server in servers.values():
        server.close()


def check_whole(reply):
    assert reply.message.content == CONTENT
    assert (reply.stop_reason, reply.usage.input_tokens, reply.usage.output_tokens) == ("tool_use", 9, 7)


def test_there_are_thirty_events():
    """The stream is of the size that is promised."""
    assert len(EVENTS) == 30


@pytest.mark.parametrize("framing", ["chunked", "close", "reset"])
def test_cut_at_every_byte(framing, asked):
    """Cut anywhere, however the connection ends: the whole reply, or an error with a part of it."""
    interrupted = 0
    for place in range(len(BODY) + 1):
        try:
            reply = asked(True, [BODY[:place]], framing)
        except StreamInterrupted as error:
            interrupted += 1
            assert error.partial.stop_reason is None
            assert CONTENT[1]["text"].startswith(error.text)
            continue
        check_whole(reply)
        # The final event needs no blank line behind it, and nothing else can be missing.
        assert place >= len(BODY) - 2 or framing == "reset"
    assert interrupted >= len(BODY) - 2


def test_split_at_every_byte(asked):
    """Split anywhere into two pieces: always the whole reply."""
    for place in range(1, len(BODY)):
        check_whole(asked(False, [BODY[:place], BODY[place:]], "chunked"))
