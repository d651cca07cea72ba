"""What a ModelServer says, held against what was recorded of the providers."""

import base64
import json

import pytest

from asimov_sync.testing.wires import CHAT, CONVERSE, INVOKE, MESSAGES
from asimov_sync.testing.wires.eventstream import decode

from ..recorded import ABSENT, recorded
from .replies import REDACTED, TEXT, THINKING, TOOL, USAGE, reply


def paths(value, at=""):
    """Every key of some JSON, with the way to it; what is the caller's own (a tool's input) has none."""
    if isinstance(value, dict):
        for name, inner in value.items():
            here = "{}.{}".format(at, name)
            yield here
            if name != "input":
                yield from paths(inner, here)
    elif isinstance(value, list):
        for inner in value:
            yield from paths(inner, at + "[]")


def told_in(record):
    """The JSON of a record: its body, or the data of its events."""
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
            pass  # a text, or audio


def event_json(message):
    """What a binary message says, under its event's name; a chunk's own bytes."""
    told = json.loads(message.payload.decode("utf-8"))
    name = message.headers.get(":event-type")
    return json.loads(base64.b64decode(told["bytes"]).decode("utf-8")) if name == "chunk" else {name: told}


def real(name):
    """The keys in recorded traffic, of bodies and of events: a message_start holds a body, a delta parts of a message."""
    records = [parameter.values[0] for parameter in recorded(name)]
    if records == [None]:
        pytest.skip(ABSENT)
    bodies, events = set(), set()
    for record in records:
        for told in told_in(record) if record.status == 200 else ():
            (events if "streaming" in record.features else bodies).update(paths(told))
    events |= {".message" + path for path in bodies}
    events |= {path.replace(".message.", ".delta.") for path in bodies}
    return bodies, events


FIGURES = USAGE.model_copy(update={"cache_write_5m_input_tokens": 0, "cache_write_1h_input_tokens": 0})
SHOWN = {
    "messages": ("anthropic", MESSAGES, reply(THINKING, REDACTED, TEXT, TOOL)),
    "chat": ("openai", CHAT, reply(THINKING, REDACTED, TEXT, TOOL)),
    "invoke": ("bedrock_invoke", INVOKE, reply(TEXT, TOOL, usage=FIGURES.model_copy(update={"reasoning_tokens": 0}))),
    "converse": ("bedrock_converse", CONVERSE, reply(THINKING, REDACTED, TEXT, TOOL, usage=FIGURES)),
}


@pytest.mark.parametrize("wire", sorted(SHOWN))
def test_nothing_is_said_that_no_provider_says(wire):
    """Every key that a server sends, in one piece or streamed, is one that real traffic has in the same place."""
    name, codec, told = SHOWN[wire]
    bodies, events = real(name)
    said = set(paths(codec.reply_body(told, {})))
    assert len(said) > 10
    assert said - bodies == set()
    said = set()
    for event in codec.reply_events(told, {"stream_options": {"include_usage": True}}):
        if event != "[DONE]":
            said.update(paths(event if isinstance(event, dict) else event_json(event)))
    assert len(said) > 10
    assert said - events == set()
