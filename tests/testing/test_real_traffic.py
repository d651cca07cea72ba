"""A ModelServer sends only keys that occur in recorded traffic of the providers."""

import base64
import json

import pytest

from asimov_sync.testing.wires import CHAT, CONVERSE, INVOKE, MESSAGES
from asimov_sync.testing.wires.eventstream import decode

from ..recorded import MISSING, load_records
from .replies import REDACTED, TEXT, THINKING, TOOL, USAGE, make_reply


def key_paths(value, at=""):
    """Yield the path of each key in a JSON value, without those inside a tool's input."""
    if isinstance(value, dict):
        for name, inner in value.items():
            here = f"{at}.{name}"
            yield here
            if name != "input":
                yield from key_paths(inner, here)
    elif isinstance(value, list):
        for inner in value:
            yield from key_paths(inner, at + "[]")


def json_values(record):
    """Yield the JSON values of a record: its body, or the data of its events."""
    if any(feature.startswith("es:") for feature in record.features):
        for message in decode(record.body)[0]:
            yield event_json(message)
    elif "streaming" in record.features:
        for line in record.body.decode("utf-8", "replace").splitlines():
            if line.startswith("data: {"):
                yield json.loads(line[len("data: ") :])
    else:
        try:
            yield json.loads(record.body.decode("utf-8"))
        except ValueError:
            pass  # text or audio


def event_json(message):
    """Return the content of a binary message under its event's name, or a chunk's own content."""
    value = json.loads(message.payload.decode("utf-8"))
    name = message.headers.get(":event-type")
    return (
        json.loads(base64.b64decode(value["bytes"]).decode("utf-8"))
        if name == "chunk"
        else {name: value}
    )


def recorded_paths(name):
    """Return the key paths of recorded bodies and of recorded events.

    A message_start may contain the keys of a body, and a delta those of a message.
    """
    records = [parameter.values[0] for parameter in load_records(name)]
    if records == [None]:
        pytest.skip(MISSING)
    bodies, events = set(), set()
    for record in records:
        for value in json_values(record) if record.status == 200 else ():
            (events if "streaming" in record.features else bodies).update(key_paths(value))
    events |= {".message" + path for path in bodies}
    events |= {path.replace(".message.", ".delta.") for path in bodies}
    return bodies, events


FIGURES = USAGE.model_copy(
    update={"cache_write_5m_input_tokens": 0, "cache_write_1h_input_tokens": 0}
)
SHOWN = {
    "messages": ("anthropic", MESSAGES, make_reply(THINKING, REDACTED, TEXT, TOOL)),
    "chat": ("openai", CHAT, make_reply(THINKING, REDACTED, TEXT, TOOL)),
    "invoke": (
        "bedrock_invoke",
        INVOKE,
        make_reply(TEXT, TOOL, usage=FIGURES.model_copy(update={"reasoning_tokens": 0})),
    ),
    "converse": (
        "bedrock_converse",
        CONVERSE,
        make_reply(THINKING, REDACTED, TEXT, TOOL, usage=FIGURES),
    ),
}


@pytest.mark.parametrize("wire", sorted(SHOWN))
def test_keys_are_real(wire):
    """Every key that a server sends, streamed or not, has the same path in recorded traffic."""
    name, codec, value = SHOWN[wire]
    bodies, events = recorded_paths(name)
    sent = set(key_paths(codec.reply_body(value, {})))
    assert len(sent) > 10
    assert sent - bodies == set()
    sent = set()
    for event in codec.reply_events(value, {"stream_options": {"include_usage": True}}):
        if event != "[DONE]":
            sent.update(key_paths(event if isinstance(event, dict) else event_json(event)))
    assert len(sent) > 10
    assert sent - events == set()
