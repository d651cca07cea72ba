"""A stream of thirty events, cut and split at every byte, on a real socket.

The result is the whole reply or a StreamInterrupted with the partial one, never a truncated reply
that looks whole.
"""

import json

import pytest

from asimov_sync import AnthropicInferenceClient, StreamInterrupted

from ..tiers import positions, suite
from .byte_server import ByteServer, RawResponse
from .conftest import KEY

pytestmark = suite

TEXT = ["Wör", "ds\u2028 ", "of ", "a ", "re", "ply", ", ", "in ", "pie", "ces", "."]
INPUT = ["", '{"city"', ': "Ro', "me", '"}']


def events():
    yield {
        "type": "message_start",
        "message": {"id": "m", "content": [], "usage": {"input_tokens": 9, "output_tokens": 1}},
    }
    yield {"type": "ping"}
    yield {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "thinking", "thinking": "", "signature": ""},
    }
    for piece in ("h", "m"):
        yield {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "thinking_delta", "thinking": piece},
        }
    yield {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "signature_delta", "signature": "sealed"},
    }
    yield {"type": "content_block_stop", "index": 0}
    yield {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}
    for piece in TEXT:
        yield {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "text_delta", "text": piece},
        }
    yield {"type": "content_block_stop", "index": 1}
    yield {"type": "ping"}
    yield {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}},
    }
    for piece in INPUT:
        yield {
            "type": "content_block_delta",
            "index": 2,
            "delta": {"type": "input_json_delta", "partial_json": piece},
        }
    yield {"type": "content_block_stop", "index": 2}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use"},
        "usage": {"output_tokens": 7},
    }
    yield {"type": "message_stop"}


EVENTS = list(events())
BODY = b"".join(
    ("data: " + json.dumps(event, ensure_ascii=False, separators=(",", ":")) + "\n\n").encode()
    for event in EVENTS
)
CONTENT = [
    {"type": "thinking", "thinking": "hm", "signature": "sealed"},
    {"type": "text", "text": "".join(TEXT)},
    {"type": "tool_use", "id": "t", "name": "f", "input": {"city": "Rome"}},
]


STREAM = {"content-type": "text/event-stream"}
CUTS = {
    "in a chunk": {"framing": "chunk", "length": len(BODY)},
    "at the end of the connection": {"framing": "close"},
    "with a reset": {"framing": "close", "reset": True},
}
"""Ways in which the connection ends after the bytes that were sent."""


@pytest.fixture(scope="module")
def read_reply():
    """Return a function that serves a cut or split stream and reads the reply."""
    with ByteServer() as server, AnthropicInferenceClient(
        "m", api_key=KEY, api_url=server.url, max_retries=0
    ) as client:

        def read(*pieces, **options):
            server.set_responses(RawResponse(*pieces, headers=STREAM, **options))
            with client.stream("hello") as stream:
                for _event in stream:
                    pass
                return stream.reply

        yield read


def check_whole(reply):
    assert reply.message.content == CONTENT
    assert (reply.stop_reason, reply.usage.input_tokens, reply.usage.output_tokens) == (
        "tool_use",
        9,
        7,
    )


def test_there_are_thirty_events():
    """The stream has thirty events."""
    assert len(EVENTS) == 30


@pytest.mark.parametrize("way", list(CUTS))
def test_cut_at_every_byte(way, read_reply):
    """A stream that is cut anywhere gives the whole reply, or an error with the partial reply."""
    interrupted = 0
    cut_positions = positions(len(BODY) + 1)
    for position in cut_positions:
        try:
            reply = read_reply(BODY[:position], **CUTS[way])
        except StreamInterrupted as error:
            interrupted += 1
            assert error.partial.stop_reason is None
            assert CONTENT[1]["text"].startswith(error.text)
            continue
        check_whole(reply)
        # Only the blank line after the final event may be missing.
        assert position >= len(BODY) - 2 or way == "with a reset"
    assert interrupted >= len(cut_positions) - 3


def test_split_at_every_byte(read_reply):
    """A stream that is split anywhere into two pieces gives the whole reply."""
    for position in positions(len(BODY))[1:]:
        check_whole(read_reply(BODY[:position], BODY[position:]))
