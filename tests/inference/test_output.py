"""Structured output: methods of asking, corrections, and errors."""

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


def answered(text="", stop_reason="end_turn", wanted=()):
    """Return a reply with a given stop reason."""
    blocks = [{"type": "text", "text": text}] if text else []
    blocks += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
        for call in wanted
    ]
    return Reply(
        message=ChatMessage(role="assistant", content=blocks),
        stop_reason=stop_reason,
        raw_stop_reason=stop_reason,
        tool_calls=list(wanted),
        usage=Usage(input_tokens=1, output_tokens=1, requests=1),
    )


# Asking


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
    "wanted, data, parsed",
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
def test_types(wanted, data, parsed):
    """Recursive and strict models, dataclasses, TypedDicts and dicts are accepted as types."""
    client = ScriptedInferenceClient(lambda body: calls((body["tool_choice"]["name"], data)))
    assert client.generate("x", output=wanted).parsed == parsed
    assert client.requests[0]["tools"][0]["input_schema"]["type"] == "object"


@pytest.mark.parametrize(
    "wanted",
    [int, str, List[Place], Optional[Place], Union[Place, Point], object, print, "Place", None],
)
def test_invalid_types(wanted):
    """A type whose JSON is not an object is a TypeError, and nothing is sent. None means text."""
    client = ScriptedInferenceClient(["text"])
    if wanted is None:
        assert client.generate("x", output=wanted).parsed is None
        return
    with pytest.raises(TypeError, match="output="):
        client.generate("x", output=wanted)
    assert client.requests == []


def test_beside_other_tools():
    """The caller's tools are sent as well; a tool of the same name causes no conflict."""

    @tool
    def Weather() -> str:
        """Another one."""

    client = ScriptedInferenceClient(lambda body: calls((body["tool_choice"]["name"], ROME)))
    wanted = {"Weather": globals()["Weather"]}["Weather"]
    reply = client.generate("x", output=wanted, tools=[Weather], tool_choice="auto")
    assert [one["name"] for one in client.requests[0]["tools"]] == ["Weather", "Weather_output"]
    assert reply.parsed.degrees == 21.5


# Ways of asking


def refusing(*refused):
    """Return a model that rejects the given methods: "tool", "format", "prompt"."""
    seen = []

    def model(body):
        way = "tool" if "tools" in body else "format" if "output_config" in body else "prompt"
        seen.append(way)
        if way in refused:
            return Failure(400, "invalid_request_error", f"no {way} for this model")
        return calls(("Weather", ROME)) if way == "tool" else json.dumps(ROME)

    model.seen = seen
    return model


@suite
@pytest.mark.parametrize(
    "refused, options, ways",
    [
        ((), {}, ["tool"]),
        (("tool",), {}, ["tool", "format"]),
        (("tool", "format"), {}, ["tool", "format", "prompt"]),
        ((), {"thinking": {"type": "adaptive"}}, ["format"]),
        (("format",), {"thinking": {"type": "adaptive"}}, ["format", "tool"]),
        (("format", "tool"), {"thinking": {"type": "adaptive"}}, ["format", "tool", "prompt"]),
    ],
)
def test_the_method_that_a_model_accepts(serve, refused, options, ways):
    """After a 400 the next method is tried; the accepted one is remembered."""
    model = refusing(*refused)
    client, server = serve(model, {"max_retries": 0})
    for _ in range(2):
        assert (
            client.generate("x", system="be brief", output=Weather, **options).parsed.degrees
            == 21.5
        )
    assert model.seen == ways + ways[-1:]
    assert (
        client.with_options(temperature=1).generate("x", output=Weather, **options).parsed.degrees
        == 21.5
    )
    assert model.seen == ways + 2 * ways[-1:]
    body = server.requests[-2].body
    if ways[-1] == "format":
        schema = body["output_config"]["format"]["schema"]
        assert schema["additionalProperties"] is False and "maximum" not in json.dumps(schema)
    if ways[-1] == "prompt":
        assert body["system"][0] == {"type": "text", "text": "be brief"}
        assert '"degrees"' in body["system"][1]["text"]


def test_each_model_has_its_method(serve):
    """The accepted method is remembered per model, and apart for requests with thinking."""
    model = refusing("tool")
    client, server = serve(model, {"max_retries": 0})
    client.generate("x", output=Weather)
    client.with_options(model="claude-other").generate("x", output=Weather)
    client.generate("x", output=Weather, thinking={"type": "adaptive"})
    assert model.seen == ["tool", "format", "tool", "format", "format"]


def test_the_options_of_the_format_are_merged(serve):
    """The caller's values of the option that requests the format are kept."""
    client, server = serve(refusing("tool"), {"max_retries": 0})
    client.generate("x", output=Weather, output_config={"effort": "low"})
    assert server.requests[1].body["output_config"]["effort"] == "low"
    assert server.requests[1].body["output_config"]["format"]["type"] == "json_schema"


def test_free_form_objects_do_not_use_the_format(serve):
    """Constrained decoding cannot produce free keys, so the other methods are used."""

    class Scores(BaseModel):
        by_name: Dict[str, int]

    class Open(BaseModel):
        model_config = {"extra": "allow"}

    model = refusing("tool", "prompt")
    client, server = serve(model, {"max_retries": 0})
    for wanted in (Scores, Open, Dict[str, Any]):
        with pytest.raises(InvalidRequestError, match="no prompt"):
            client.generate("x", output=wanted)
    assert model.seen == ["tool", "prompt"] * 3
    assert not Output(Weather).has_free_form_objects and not Output(Node).has_free_form_objects


def test_a_request_that_every_method_rejects(serve):
    """If every method is rejected, the error is that of the request, without a hint."""
    client, server = serve(refusing("tool", "format", "prompt"), {"max_retries": 0})
    with pytest.raises(InvalidRequestError, match="no prompt for this model") as caught:
        client.generate("x", output=Weather)
    assert "omit" not in str(caught.value)
    with pytest.raises(InvalidRequestError, match="too long"):
        serve([Failure(400, "invalid_request_error", "prompt is too long: 5 tokens > 4 maximum")])[
            0
        ].generate("x", output=Weather)


def test_the_schema_of_the_format():
    """Objects are closed, limits and defaults removed; properties with these names are kept."""

    class Odd(BaseModel):
        default: int = 5
        pattern: str = Field("a", pattern="a+")
        kind: Unit = Unit.CELSIUS

    schema = strict_schema(Output(Odd).schema)
    assert set(schema["properties"]) == {"default", "pattern", "kind"}
    assert (
        "default" not in schema["properties"]["default"]
        and "pattern" not in schema["properties"]["pattern"]
    )
    assert schema["additionalProperties"] is False
    assert "celsius" in json.dumps(schema)


# Replies that do not fit


def test_a_correction():
    """A call that does not match is answered with its problem, and the model must call again."""
    wrong, right = (
        calls(("Weather", {"place": {"city": 5}, "degrees": 500})),
        calls(("Weather", ROME)),
    )
    client = ScriptedInferenceClient([wrong, right])
    assert client.generate("x", output=Weather).parsed.degrees == 21.5
    question, reply, result = client.requests[1]["messages"]
    assert (question, reply["content"][0]["input"]["degrees"]) == (
        {"role": "user", "content": "x"},
        500,
    )
    (block,) = result["content"]
    assert (block["tool_use_id"], block["is_error"]) == (wrong[0].id, True)
    assert (
        "place.city: Input should be a valid string; degrees: Input should be less than"
        in block["content"]
    )
    assert "http" not in block["content"]
    assert client.requests[1]["tool_choice"] == client.requests[0]["tool_choice"]


def test_a_correction_as_text(serve):
    """Text that does not match is sent back with its problem, as the user's message."""
    refused = Failure(400, "invalid_request_error", "no")
    answers = [refused, refused, '{"place": {}}', f"```json\n{json.dumps(ROME)}\n```"]
    client, server = serve(answers, {"max_retries": 0})
    assert client.generate("x", output=Weather).parsed.place.city == "Rome"
    question, reply, told = server.requests[-1].body["messages"]
    assert reply == {"role": "assistant", "content": [{"type": "text", "text": '{"place": {}}'}]}
    assert told["content"].startswith(
        "the answer does not fit: place.city: Field required; degrees: Field required"
    )
    assert told["content"].endswith(". Answer again.")


def test_an_unexpected_call():
    """Every call of an invalid reply gets a result, so that the corrected history can be sent."""

    @tool
    def other() -> str:
        """Something else."""

    wanted = calls(("other", {}), ("other", {}))
    client = ScriptedInferenceClient([wanted, calls(("Weather", ROME))])
    client.generate("x", output=Weather, tools=[other])
    blocks = client.requests[1]["messages"][-1]["content"]
    assert [block["tool_use_id"] for block in blocks] == [call.id for call in wanted]


def test_giving_up():
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


class Lax(BaseModel):
    words: List[str] = []


@pytest.mark.parametrize("stop_reason", ["max_tokens", "refusal", "model_context_window_exceeded"])
@pytest.mark.parametrize(
    "reply",
    [
        answered('{"words": ["a", "b"'),
        answered('{"words": []}'),
        answered(wanted=calls(("Lax", {}))),
        answered(wanted=[ToolCall(id="t", name="Lax", malformed='{"words": ["a')]),
        answered("I would rather not."),
    ],
)
def test_a_reply_that_was_cut_short(stop_reason, reply):
    """A truncated reply is not requested again, and never accepted, even if its part is valid."""
    cut = reply.model_copy(update={"stop_reason": stop_reason, "raw_stop_reason": stop_reason})
    client = ScriptedInferenceClient([cut, "never"])
    with pytest.raises(OutputInvalid, match=f"cut short .stop reason {stop_reason}") as caught:
        client.generate("x", output=Lax)
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
    reply = answered(text.replace("{}", '{"city": "Rome"}'))
    if text.startswith("```{"):
        with pytest.raises(ValueError, match="does not fit"):
            Output(Place).parse(reply)
    else:
        assert Output(Place).parse(reply).parsed.city == "Rome"


def test_a_hostile_fence():
    """A fence with only white space is parsed quickly."""
    start = time.process_time()
    for text in (
        "```json\n" + " \n" * 200000,
        "```" + "`" * 200000,
        "```json\n" + "\n" * 200000 + "x```",
    ):
        with pytest.raises(ValueError):
            Output(Place).parse(answered(text))
    assert time.process_time() - start < 5


def test_a_validator_with_a_bug():
    """A ValueError of the caller's validator is a correction; another exception is raised
    unchanged.
    """

    class Picky(BaseModel):
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
        [calls(("Picky", {"word": "now"})), calls(("Picky", {"word": "please"}))]
    )
    assert client.generate("x", output=Picky).parsed.word == "please"
    assert "say please" in client.requests[1]["messages"][-1]["content"][0]["content"]
    with pytest.raises(ZeroDivisionError):
        ScriptedInferenceClient([calls(("Picky", {"word": "bug"}))]).generate("x", output=Picky)


def test_requests_are_counted():
    """Every request of structured output counts in the usage and in a budget, which ends it."""
    budget = Budget(requests=1)
    client = ScriptedInferenceClient([calls(("Weather", {}))], budget=budget)
    with pytest.raises(BudgetExceeded):
        client.generate("x", output=Weather)
    assert (client.usage.requests, budget.spent.requests) == (1, 1)


def test_on_many_threads(serve):
    """On one client, every thread receives data of its own type."""
    client, server = serve(
        lambda body: calls(
            (body["tool_choice"]["name"], {"x": int(body["messages"][0]["content"])})
        )
    )
    types = [
        type(f"Type{number}", (BaseModel,), {"__annotations__": {"x": int}}) for number in range(16)
    ]
    asking = [
        Background(client.generate, str(number), output=wanted)
        for number, wanted in enumerate(types)
    ]
    for number, (one, wanted) in enumerate(zip(asking, types)):
        assert one.result().parsed == wanted(x=number)


def test_a_request_is_not_changed():
    """Applying a method does not change the original request."""
    request = Request("m", [], "be brief", [], {"output_config": {"effort": "low"}})
    output = Output(Place)
    for way in ("tool", "format", "prompt"):
        asked = output.apply_to(request, way, {"output_config": {"format": {}}})
        assert asked != request
    assert request == Request("m", [], "be brief", [], {"output_config": {"effort": "low"}})
