"""Structured output: ways to request it, corrections, errors."""

import dataclasses
import datetime
import enum
import json
import time
from typing import Any, Dict, List, Optional, Tuple, Union

import pytest
from pydantic import BaseModel, Field, field_validator
from typing_extensions import TypedDict

from asimov_sync import (
    Budget,
    BudgetExceeded,
    ChatMessage,
    InvalidRequestError,
    OutputInvalid,
    Reply,
    ToolCall,
    Usage,
    tool,
)
from asimov_sync.inference.output.schema import Output, strict_schema
from asimov_sync.inference.request import Request
from asimov_sync.testing import Failure, ScriptedInferenceClient, calls

from ..tiers import suite
from ..waiting import Background


class Unit(enum.Enum):
    CELSIUS = "celsius"


class Place(BaseModel):
    city: str
    zip: Optional[int] = None


class Weather(BaseModel):
    """The weather somewhere."""

    place: Place
    degrees: float = Field(ge=-100, le=100)
    unit: Unit = Unit.CELSIUS


class Node(BaseModel):
    name: str
    children: "List[Node]" = []


Node.model_rebuild()


class Strict(BaseModel):
    model_config = {"strict": True}

    day: datetime.date
    pair: Tuple[int, ...]


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Label(TypedDict):
    name: str
    score: float


ROME = {"place": {"city": "Rome"}, "degrees": 21.5}


def make_reply(text="", stop_reason="end_turn", requested=()):
    """Return a reply with a given stop reason."""
    blocks = [{"type": "text", "text": text}] if text else []
    blocks += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
        for call in requested
    ]
    return Reply(
        message=ChatMessage(role="assistant", content=blocks),
        stop_reason=stop_reason,
        raw_stop_reason=stop_reason,
        tool_calls=list(requested),
        usage=Usage(input_tokens=1, output_tokens=1, requests=1),
    )


# Requests


def test_a_forced_tool():
    """The model must call a tool with the type's schema; its arguments are the data."""
    client = ScriptedInferenceClient([calls(("Weather", ROME))])
    reply = client.generate("the weather in Rome?", output=Weather)
    assert reply.parsed == Weather(place=Place(city="Rome"), degrees=21.5)
    body = client.requests[0]
    assert body["tool_choice"] == {"type": "tool", "name": "Weather"}
    (definition,) = body["tools"]
    assert (definition["name"], definition["description"]) == ("Weather", "The weather somewhere.")
    assert definition["input_schema"]["properties"]["degrees"]["maximum"] == 100


@pytest.mark.parametrize(
    "type_, data, parsed",
    [
        (
            Node,
            {"name": "a", "children": [{"name": "b"}]},
            Node(name="a", children=[Node(name="b")]),
        ),
        (
            Strict,
            {"day": "2026-11-22", "pair": [1, 2]},
            Strict(day=datetime.date(2026, 11, 22), pair=(1, 2)),
        ),
        (Point, {"x": 1}, Point(1)),
        (Label, {"name": "good", "score": 1}, {"name": "good", "score": 1.0}),
        (Dict[str, int], {"a": 1}, {"a": 1}),
    ],
)
def test_types(type_, data, parsed):
    """Recursive and strict models, dataclasses, TypedDicts and dicts are accepted as types."""
    client = ScriptedInferenceClient(lambda body: calls((body["tool_choice"]["name"], data)))
    assert client.generate("x", output=type_).parsed == parsed
    assert client.requests[0]["tools"][0]["input_schema"]["type"] == "object"


@pytest.mark.parametrize(
    "type_",
    [int, str, List[Place], Optional[Place], Union[Place, Point], object, print, "Place", None],
)
def test_invalid_types(type_):
    """A type whose JSON is not an object is a TypeError, and nothing is sent. None means text."""
    client = ScriptedInferenceClient(["text"])
    if type_ is None:
        assert client.generate("x", output=type_).parsed is None
        return
    with pytest.raises(TypeError, match="output="):
        client.generate("x", output=type_)
    assert client.requests == []


def test_with_other_tools():
    """The caller's tools are sent as well; a tool of the same name causes no conflict."""

    @tool
    def Weather() -> str:
        """A tool with the name of the type."""

    client = ScriptedInferenceClient(lambda body: calls((body["tool_choice"]["name"], ROME)))
    type_ = {"Weather": globals()["Weather"]}["Weather"]
    reply = client.generate("x", output=type_, tools=[Weather], tool_choice="auto")
    assert [definition["name"] for definition in client.requests[0]["tools"]] == [
        "Weather",
        "Weather_output",
    ]
    assert reply.parsed.degrees == 21.5


# Ways to request it


def model_that_rejects(*rejected):
    """Return a model that rejects the given ways: "tool", "format", "prompt".

    Its attribute `ways` lists the ways of all requests.
    """
    ways = []

    def model(body):
        way_of_request = (
            "tool" if "tools" in body else "format" if "output_config" in body else "prompt"
        )
        ways.append(way_of_request)
        if way_of_request in rejected:
            return Failure(400, "invalid_request_error", f"no {way_of_request} for this model")
        return calls(("Weather", ROME)) if way_of_request == "tool" else json.dumps(ROME)

    model.ways = ways
    return model


@suite
@pytest.mark.parametrize(
    "rejected, options, ways",
    [
        ((), {}, ["tool"]),
        (("tool",), {}, ["tool", "format"]),
        (("tool", "format"), {}, ["tool", "format", "prompt"]),
        ((), {"thinking": {"type": "adaptive"}}, ["format"]),
        (("format",), {"thinking": {"type": "adaptive"}}, ["format", "tool"]),
        (("format", "tool"), {"thinking": {"type": "adaptive"}}, ["format", "tool", "prompt"]),
    ],
)
def test_the_way_that_a_model_accepts(serve, rejected, options, ways):
    """After a 400 the next way is tried; the accepted one is remembered."""
    model = model_that_rejects(*rejected)
    client, server = serve(model, {"max_retries": 0})
    for _ in range(2):
        assert (
            client.generate("x", system="be brief", output=Weather, **options).parsed.degrees
            == 21.5
        )
    assert model.ways == ways + ways[-1:]
    assert (
        client.with_options(temperature=1).generate("x", output=Weather, **options).parsed.degrees
        == 21.5
    )
    assert model.ways == ways + 2 * ways[-1:]
    body = server.requests[-2].body
    if ways[-1] == "format":
        schema = body["output_config"]["format"]["schema"]
        assert schema["additionalProperties"] is False and "maximum" not in json.dumps(schema)
    if ways[-1] == "prompt":
        assert body["system"][0] == {"type": "text", "text": "be brief"}
        assert '"degrees"' in body["system"][1]["text"]


def test_way_of_each_model(serve):
    """The accepted way is remembered for each model, and separately for requests with thinking."""
    model = model_that_rejects("tool")
    client, server = serve(model, {"max_retries": 0})
    client.generate("x", output=Weather)
    client.with_options(model="claude-other").generate("x", output=Weather)
    client.generate("x", output=Weather, thinking={"type": "adaptive"})
    assert model.ways == ["tool", "format", "tool", "format", "format"]


def test_the_options_of_the_format_are_merged(serve):
    """The caller's values of the option that requests the format are kept."""
    client, server = serve(model_that_rejects("tool"), {"max_retries": 0})
    client.generate("x", output=Weather, output_config={"effort": "low"})
    assert server.requests[1].body["output_config"]["effort"] == "low"
    assert server.requests[1].body["output_config"]["format"]["type"] == "json_schema"


def test_free_form_objects_do_not_use_the_format(serve):
    """Constrained decoding cannot produce free keys, so the other ways are used."""

    class Scores(BaseModel):
        by_name: Dict[str, int]

    class Open(BaseModel):
        model_config = {"extra": "allow"}

    model = model_that_rejects("tool", "prompt")
    client, server = serve(model, {"max_retries": 0})
    for type_ in (Scores, Open, Dict[str, Any]):
        with pytest.raises(InvalidRequestError, match="no prompt"):
            client.generate("x", output=type_)
    assert model.ways == ["tool", "prompt"] * 3
    assert not Output(Weather).has_free_form_objects and not Output(Node).has_free_form_objects


def test_every_way_rejected(serve):
    """If every way is rejected, the last error is raised, without a hint."""
    client, server = serve(model_that_rejects("tool", "format", "prompt"), {"max_retries": 0})
    with pytest.raises(InvalidRequestError, match="no prompt for this model") as caught:
        client.generate("x", output=Weather)
    assert "omit" not in str(caught.value)
    with pytest.raises(InvalidRequestError, match="too long"):
        serve([Failure(400, "invalid_request_error", "prompt is too long: 5 tokens > 4 maximum")])[
            0
        ].generate("x", output=Weather)


def test_the_schema_of_the_format():
    """Objects are closed; limits and defaults are removed. Properties with these names remain."""

    class Model(BaseModel):
        default: int = 5
        pattern: str = Field("a", pattern="a+")
        kind: Unit = Unit.CELSIUS

    schema = strict_schema(Output(Model).schema)
    assert set(schema["properties"]) == {"default", "pattern", "kind"}
    assert (
        "default" not in schema["properties"]["default"]
        and "pattern" not in schema["properties"]["pattern"]
    )
    assert schema["additionalProperties"] is False
    assert "celsius" in json.dumps(schema)


# Invalid replies


def test_a_correction():
    """An invalid call gets an error result with the problem, and the next request forces the tool
    again.
    """
    invalid, valid = (
        calls(("Weather", {"place": {"city": 5}, "degrees": 500})),
        calls(("Weather", ROME)),
    )
    client = ScriptedInferenceClient([invalid, valid])
    assert client.generate("x", output=Weather).parsed.degrees == 21.5
    question, reply, result = client.requests[1]["messages"]
    assert (question, reply["content"][0]["input"]["degrees"]) == (
        {"role": "user", "content": "x"},
        500,
    )
    (block,) = result["content"]
    assert (block["tool_use_id"], block["is_error"]) == (invalid[0].id, True)
    assert (
        "place.city: Input should be a valid string; degrees: Input should be less than"
        in block["content"]
    )
    assert "http" not in block["content"]
    assert client.requests[1]["tool_choice"] == client.requests[0]["tool_choice"]


def test_a_correction_as_text(serve):
    """Invalid text is followed by a user message with the problem."""
    rejection = Failure(400, "invalid_request_error", "no")
    replies = [rejection, rejection, '{"place": {}}', f"```json\n{json.dumps(ROME)}\n```"]
    client, server = serve(replies, {"max_retries": 0})
    assert client.generate("x", output=Weather).parsed.place.city == "Rome"
    question, reply, correction = server.requests[-1].body["messages"]
    assert reply == {"role": "assistant", "content": [{"type": "text", "text": '{"place": {}}'}]}
    assert correction["content"].startswith(
        "the answer does not fit: place.city: Field required; degrees: Field required"
    )
    assert correction["content"].endswith(". Answer again.")


def test_an_unexpected_call():
    """Every call of an invalid reply gets a result, so that the corrected history can be sent."""

    @tool
    def other() -> str:
        """Something else."""

    requested = calls(("other", {}), ("other", {}))
    client = ScriptedInferenceClient([requested, calls(("Weather", ROME))])
    client.generate("x", output=Weather, tools=[other])
    blocks = client.requests[1]["messages"][-1]["content"]
    assert [block["tool_use_id"] for block in blocks] == [call.id for call in requested]


def test_second_invalid_reply():
    """A second invalid reply is an OutputInvalid, a ValueError, with the reply and its problem."""
    client = ScriptedInferenceClient(
        [calls(("Weather", {})), calls(("Weather", {"degrees": 1})), "never"]
    )
    with pytest.raises(
        OutputInvalid,
        match="the reply is not a valid Weather: .*place: Field required.*stop reason tool_use",
    ) as caught:
        client.generate("x", output=Weather)
    assert isinstance(caught.value, ValueError)
    assert caught.value.reply.tool_calls[0].arguments == {"degrees": 1}
    assert caught.value.reply.parsed is None
    assert len(client.requests) == 2


class AllOptional(BaseModel):
    words: List[str] = []


@pytest.mark.parametrize("stop_reason", ["max_tokens", "refusal", "model_context_window_exceeded"])
@pytest.mark.parametrize(
    "reply",
    [
        make_reply('{"words": ["a", "b"'),
        make_reply('{"words": []}'),
        make_reply(requested=calls(("AllOptional", {}))),
        make_reply(requested=[ToolCall(id="t", name="AllOptional", malformed='{"words": ["a')]),
        make_reply("I would rather not."),
    ],
)
def test_truncated_reply(stop_reason, reply):
    """A truncated reply is neither accepted nor requested again, even if its beginning is valid."""
    truncated = reply.model_copy(
        update={"stop_reason": stop_reason, "raw_stop_reason": stop_reason}
    )
    client = ScriptedInferenceClient([truncated, "never"])
    with pytest.raises(OutputInvalid, match=f"cut short .stop reason {stop_reason}") as caught:
        client.generate("x", output=AllOptional)
    assert caught.value.reply.stop_reason == stop_reason
    assert len(client.requests) == 1


@pytest.mark.parametrize(
    "text",
    [
        '{"city": "Rome"}',
        '  {"city": "Rome"}\n',
        '```json\n{"city": "Rome"}\n```',
        '```\n{"city": "Rome"}```\n',
        '```{"city": "Rome"}```',
    ],
)
def test_text_and_fences(text):
    """White space and a code fence around JSON are removed; a fence on the same line is invalid."""
    reply = make_reply(text.replace("{}", '{"city": "Rome"}'))
    if text.startswith("```{"):
        with pytest.raises(ValueError, match="does not fit"):
            Output(Place).parse(reply)
    else:
        assert Output(Place).parse(reply).parsed.city == "Rome"


def test_time_to_parse_a_fence():
    """A long, malformed code fence takes linear time."""
    start = time.process_time()
    for text in (
        "```json\n" + " \n" * 200000,
        "```" + "`" * 200000,
        "```json\n" + "\n" * 200000 + "x```",
    ):
        with pytest.raises(ValueError):
            Output(Place).parse(make_reply(text))
    assert time.process_time() - start < 5


def test_error_of_a_validator():
    """A validator's ValueError causes a correction; any other exception is raised unchanged."""

    class Polite(BaseModel):
        word: str

        @field_validator("word")
        @classmethod
        def _check(cls, word):
            if word == "bug":
                raise ZeroDivisionError("a bug")
            if word != "please":
                raise ValueError("say please")
            return word

    client = ScriptedInferenceClient(
        [calls(("Polite", {"word": "now"})), calls(("Polite", {"word": "please"}))]
    )
    assert client.generate("x", output=Polite).parsed.word == "please"
    assert "say please" in client.requests[1]["messages"][-1]["content"][0]["content"]
    with pytest.raises(ZeroDivisionError):
        ScriptedInferenceClient([calls(("Polite", {"word": "bug"}))]).generate("x", output=Polite)


def test_requests_are_counted():
    """Every request counts in the usage and in the budget, which prevents the correction here."""
    budget = Budget(requests=1)
    client = ScriptedInferenceClient([calls(("Weather", {}))], budget=budget)
    with pytest.raises(BudgetExceeded):
        client.generate("x", output=Weather)
    assert (client.usage.requests, budget.spent.requests) == (1, 1)


def test_on_many_threads(serve):
    """Sixteen threads share a client: each receives data of its own type."""
    client, server = serve(
        lambda body: calls(
            (body["tool_choice"]["name"], {"x": int(body["messages"][0]["content"])})
        )
    )
    types = [
        type(f"Type{number}", (BaseModel,), {"__annotations__": {"x": int}}) for number in range(16)
    ]
    pending = [
        Background(client.generate, str(number), output=type_) for number, type_ in enumerate(types)
    ]
    for number, (call, type_) in enumerate(zip(pending, types)):
        assert call.result().parsed == type_(x=number)


def test_a_request_is_not_changed():
    """apply_to returns a changed copy of the request."""
    request = Request("m", [], "be brief", [], {"output_config": {"effort": "low"}})
    output = Output(Place)
    for way in ("tool", "format", "prompt"):
        changed = output.apply_to(request, way, {"output_config": {"format": {}}})
        assert changed != request
    assert request == Request("m", [], "be brief", [], {"output_config": {"effort": "low"}})
