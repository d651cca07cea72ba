"""Structured output of a tool loop: the model gives it when it is done, in as few requests as that takes."""

import pytest
from pydantic import BaseModel

from asimov_sync import (
    AnthropicInferenceClient,
    ChatMessage,
    OpenAIInferenceClient,
    OutputInvalid,
    Reply,
    Usage,
    tool,
)
from asimov_sync.testing import Failure, ModelServer, ScriptedInferenceClient, calls, tool_results


class Weather(BaseModel):
    """The weather somewhere."""

    city: str
    degrees: float


ROME = {"city": "Rome", "degrees": 21.5}
ANSWER = calls(("Weather", ROME))
WRONG = calls(("Weather", {"city": "Rome", "degrees": "warm"}))


@tool
def measure(city: str) -> float:
    """Measure the temperature of a city."""
    return 21.5


@tool(requires_approval=True)
def heat(city: str) -> str:
    """Heat a city up."""
    return "hot"


MEASURE = calls(("measure", {"city": "Rome"}))


def cut(stop_reason, text="", wanted=()):
    """A reply with a stop_reason of its own."""
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


def assert_sendable(messages):
    """Every call of a history has its result in the message behind it, and no message is empty."""
    for place, message in enumerate(messages):
        assert message.content, "message {} is empty".format(place)
        wanted = [block["id"] for block in message.blocks if block["type"] == "tool_use"]
        if wanted:
            assert [block["tool_use_id"] for block in messages[place + 1].blocks] == wanted


def names(body):
    return [definition["name"] for definition in body.get("tools", ())]


# As few requests as possible


def test_the_answer_is_one_more_call():
    """A model that calls the answer's tool when it is done needs no further request; the call is no call of a tool."""
    client = ScriptedInferenceClient([MEASURE, ANSWER])
    run = client.run_tools("go", [measure], output=Weather)
    assert run.parsed == run.reply.parsed == Weather(city="Rome", degrees=21.5)
    assert (run.stop_reason, run.iterations, run.usage.requests) == ("end_turn", 2, 2)
    assert [made.call.name for made in run.calls] == ["measure"]
    assert_sendable(run.messages)
    assert [block.get("is_error") for block in run.messages[-1].blocks] == [None]
    for body in client.requests:
        assert names(body) == ["measure", "Weather"] and "tool_choice" not in body
        assert body["tools"][1]["description"].endswith("Call this to give the final answer.")


def test_without_tools():
    """Where there is nothing to call first, the first request makes the model give the answer."""
    client = ScriptedInferenceClient([ANSWER])
    run = client.run_tools("go", [], output=Weather)
    assert (run.parsed.city, run.iterations, run.stop_reason) == ("Rome", 1, "end_turn")
    (body,) = client.requests
    assert (names(body), body["tool_choice"]) == (["Weather"], {"type": "tool", "name": "Weather"})


def test_words_that_are_the_data():
    """An answer in JSON is taken as it is."""
    client = ScriptedInferenceClient([MEASURE, '```json\n{"city": "Rome", "degrees": 3}\n```'])
    run = client.run_tools("go", [measure], output=Weather)
    assert (run.parsed.degrees, run.iterations) == (3.0, 2)


def test_words_are_asked_for_as_data():
    """A model that ends with words is asked once more, and made to; the tools stay the same, for the provider's cache."""
    client = ScriptedInferenceClient([MEASURE, "It is warm.", ANSWER])
    run = client.run_tools("go", [measure], output=Weather)
    assert (run.parsed.city, run.iterations) == ("Rome", 3)
    assert client.requests[2]["tool_choice"] == {"type": "tool", "name": "Weather"}
    assert client.requests[2]["tools"] == client.requests[1]["tools"] == client.requests[0]["tools"]
    assert run.messages[-3].content == "Give this answer in the form of Weather."
    assert_sendable(run.messages)


def test_nothing_is_asked_for_in_the_form_of_words():
    """Without output= a loop is what it was, and its run has no data."""
    client = ScriptedInferenceClient([MEASURE, "warm"])
    run = client.run_tools("go", [measure])
    assert (run.parsed, run.text) == (None, "warm")
    assert names(client.requests[0]) == ["measure"]


def test_data_beside_a_call_that_is_not_made():
    """Words that are the data are taken, and a call that the reply did not stop for is answered as not made."""
    client = ScriptedInferenceClient([cut("end_turn", '{"city": "Rome", "degrees": 3}', MEASURE)])
    run = client.run_tools("go", [measure], output=Weather)
    assert (run.parsed.degrees, run.calls, run.stop_reason) == (3.0, [], "end_turn")
    assert run.messages[-1].blocks[0]["is_error"]
    assert_sendable(run.messages)


# Data that does not fit


def test_one_correction():
    """Data that does not fit is told so, and the model is made to give it again."""
    client = ScriptedInferenceClient([MEASURE, WRONG, ANSWER])
    run = client.run_tools("go", [measure], output=Weather)
    assert (run.parsed.degrees, run.iterations) == (21.5, 3)
    assert tool_results(client.requests[2])["Weather"].startswith(
        "the answer does not fit: degrees: "
    )
    assert client.requests[2]["tool_choice"] == {"type": "tool", "name": "Weather"}
    assert_sendable(run.messages)


@pytest.mark.parametrize("tools", [[], [measure]])
@pytest.mark.parametrize("last", [WRONG, "so warm"])
def test_then_it_is_an_error(tools, last):
    """After one correction it is an OutputInvalid, with the reply, and with messages that can be sent again."""
    client = ScriptedInferenceClient([WRONG, last, "never asked"])
    with pytest.raises(OutputInvalid, match="the reply is not a valid Weather: ") as caught:
        client.run_tools("go", tools, output=Weather)
    assert len(client.requests) == 2
    assert (caught.value.provider, caught.value.reply.text) == (
        "scripted",
        last if isinstance(last, str) else "",
    )
    assert [message.role.value for message in caught.value.messages][:3] == [
        "user",
        "assistant",
        "tool_result",
    ]
    assert_sendable(caught.value.messages)


def test_words_do_not_use_up_the_correction():
    """Words, then data that does not fit, then data: words were no attempt at the data."""
    client = ScriptedInferenceClient(["warm", WRONG, ANSWER])
    assert client.run_tools("go", [measure], output=Weather).parsed.city == "Rome"
    client = ScriptedInferenceClient(["warm", WRONG, WRONG])
    with pytest.raises(OutputInvalid):
        client.run_tools("go", [measure], output=Weather)


@pytest.mark.parametrize("tools", [[], [measure]])
@pytest.mark.parametrize("stop_reason", ["max_tokens", "refusal"])
def test_cut_short(stop_reason, tools):
    """A reply that was cut short is not asked for again, whether it has words or a call, and even if that would fit."""
    for reply in (cut(stop_reason, '{"city": "Rome", "degrees": 3}'), cut(stop_reason, "", ANSWER)):
        client = ScriptedInferenceClient([reply])
        with pytest.raises(
            OutputInvalid, match="cut short .stop reason {}".format(stop_reason)
        ) as caught:
            client.run_tools("go", tools, output=Weather)
        assert_sendable(caught.value.messages)


def test_a_reply_without_anything():
    """An empty reply is not sent back, since no provider takes it."""
    client = ScriptedInferenceClient([cut("end_turn"), ANSWER])
    run = client.run_tools("go", [], output=Weather)
    assert run.parsed.city == "Rome"
    assert_sendable(run.messages)


# Beside other calls


def test_an_answer_beside_calls():
    """An answer that comes beside calls is not taken: the calls are made, and the model sees their results first."""
    client = ScriptedInferenceClient([MEASURE + WRONG, ANSWER])
    run = client.run_tools("go", [measure], output=Weather)
    assert (run.parsed.degrees, run.iterations) == (21.5, 2)
    assert [made.result for made in run.calls] == [21.5]
    told = tool_results(client.requests[1])
    assert (told["measure"], told["Weather"].partition(":")[0]) == ("21.5", "not accepted")
    assert "tool_choice" not in client.requests[1]
    assert_sendable(run.messages)


def test_an_answer_beside_a_call_that_waits():
    """A pending call ends the run; with the approval it goes on to the answer."""
    client = ScriptedInferenceClient([calls(("heat", {"city": "Rome"})) + ANSWER, ANSWER])
    run = client.run_tools("go", [heat], output=Weather)
    assert (run.stop_reason, run.parsed, [call.name for call in run.pending]) == (
        "approval",
        None,
        ["heat"],
    )
    stored = [
        ChatMessage.model_validate_json(message.model_dump_json()) for message in run.messages
    ]
    run = client.run_tools(stored, [heat], approvals={run.pending[0].id: True}, output=Weather)
    assert run.parsed.city == "Rome"
    assert_sendable(run.messages)


def test_calls_in_a_request_that_insists():
    """A model that calls tools where it is made to give the answer (in words, say) has them made, and may go on."""

    def model(body):
        if "tool_choice" in body:
            return Failure(400, "invalid_request_error", "tool_choice: no")
        if tool_results(body):
            return ANSWER
        return MEASURE if "system" in body else "warm"

    client = ScriptedInferenceClient(model)
    run = client.run_tools("go", [measure], output=Weather)
    assert (run.parsed.city, run.iterations) == ("Rome", 3)
    assert [made.call.name for made in run.calls] == ["measure"]
    assert "system" not in client.requests[-1]  # no longer made to


def test_an_unknown_call_does_not_stop_the_insisting():
    """Without tools, every request makes the model give the answer, whatever else it calls."""
    client = ScriptedInferenceClient([calls(("made_up", {})) + WRONG, ANSWER])
    assert client.run_tools("go", [], output=Weather).parsed.city == "Rome"
    assert "tool_choice" in client.requests[1]


def test_a_tool_of_the_same_name():
    """The answer's tool gets another name where a tool has its own."""

    @tool
    def Weather(city: str) -> str:
        """Another one."""
        return "sunny"

    client = ScriptedInferenceClient(
        [calls(("Weather", {"city": "Rome"})), calls(("Weather_output", ROME))]
    )
    run = client.run_tools("go", [Weather], output=globals()["Weather"])
    assert (run.parsed.city, run.calls[0].result) == ("Rome", "sunny")


def test_a_pause():
    """A turn that the provider has not finished is no answer yet."""
    client = ScriptedInferenceClient([cut("pause_turn", "so far"), ANSWER])
    run = client.run_tools("go", [measure], output=Weather)
    assert (run.parsed.city, "tool_choice" in client.requests[1]) == ("Rome", False)


# The limit, the stream, the wires


@pytest.mark.parametrize("last", [MEASURE, "warm", WRONG])
def test_the_limit(last):
    """max_iterations counts every request: at the limit there is no data, and the history can be sent again."""
    client = ScriptedInferenceClient([MEASURE, last, ANSWER])
    run = client.run_tools("go", [measure], max_iterations=2, output=Weather)
    assert (run.stop_reason, run.iterations, run.parsed) == ("max_iterations", 2, None)
    assert_sendable(run.messages)
    assert client.run_tools(run.messages, [measure], output=Weather).parsed.city == "Rome"


def test_what_is_no_type_of_an_answer():
    """A type whose JSON is no object is a TypeError at once, and nothing is sent."""
    client = ScriptedInferenceClient([])
    for ask in (client.run_tools, client.stream_tools):
        with pytest.raises(TypeError, match="output="):
            ask("go", [measure], output=int)


def test_a_stream():
    """A stream has the same run; the answer's call is seen as it arrives, and is not told of as a tool's."""
    client = ScriptedInferenceClient([MEASURE, ANSWER])
    stream = client.stream_tools("go", [measure], output=Weather)
    kinds = [event.to_dict() for event in stream]
    assert stream.run.parsed.city == "Rome"
    assert [told["call"]["name"] for told in kinds if told["type"] == "tool_started"] == ["measure"]
    assert [told["call"]["name"] for told in kinds if told["type"] == "tool_call_ready"] == [
        "measure",
        "Weather",
    ]
    assert kinds[-1]["run"]["parsed"] == ROME


def test_over_the_wire_of_messages():
    """The whole loop over sockets, with a model that takes no forced tool: its own format is asked for instead."""

    def model(body):
        if "tool_choice" in body:
            return Failure(400, "invalid_request_error", "tool_choice: no")
        if "output_config" in body:
            return '{"city": "Rome", "degrees": 21.5}'
        return "warm" if tool_results(body) else MEASURE

    with ModelServer(model) as server:
        with AnthropicInferenceClient(
            model="claude-3", api_key="key", api_url=server.url
        ) as client:
            run = client.run_tools("go", [measure], output=Weather)
            assert (run.parsed.city, run.iterations, len(server.requests)) == ("Rome", 3, 4)
            assert client.run_tools("go", [], output=Weather).parsed.city == "Rome"
            assert len(server.requests) == 5  # which way it takes is known by now


def test_over_the_wire_of_chat():
    """Chat completions are asked with a response_format, once the model has ended with words."""

    def model(body):
        if names(body) and len(body["messages"]) < 4:
            return "warm" if tool_results(body) else MEASURE
        return '{"city": "Rome", "degrees": 21.5}'

    with ModelServer(model) as server:
        with OpenAIInferenceClient(model="gpt", api_key="key", api_url=server.chat_url) as client:
            run = client.run_tools("go", [measure], output=Weather)
            assert (run.parsed.city, run.iterations) == ("Rome", 3)
            assert ["response_format" in request.body for request in server.requests] == [
                False,
                False,
                True,
            ]
            assert client.run_tools("go", [], output=Weather).stop_reason == "end_turn"
            assert (
                "response_format" in server.requests[-1].body
                and "tools" not in server.requests[-1].body
            )
