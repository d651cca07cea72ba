"""Structured output at the end of a tool loop, in as few requests as possible."""

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


def make_reply(stop_reason, text="", requested=()):
    """Return a reply with a given stop reason, text and tool calls."""
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


def assert_sendable(messages):
    """Assert that every call has its result in the next message, and that no message is empty."""
    for index, message in enumerate(messages):
        assert message.content, f"message {index} is empty"
        call_ids = [block["id"] for block in message.blocks if block["type"] == "tool_use"]
        if call_ids:
            assert [block["tool_use_id"] for block in messages[index + 1].blocks] == call_ids


def tool_names(body):
    return [definition["name"] for definition in body.get("tools", ())]


# As few requests as possible


def test_answer_by_its_tool():
    """A model that calls the answer's tool at the end needs no further request."""
    client = ScriptedInferenceClient([MEASURE, ANSWER])
    run = client.run_tools("go", [measure], output=Weather)
    assert run.parsed == run.reply.parsed == Weather(city="Rome", degrees=21.5)
    assert (run.stop_reason, run.iterations, run.usage.requests) == ("end_turn", 2, 2)
    assert [result.call.name for result in run.calls] == ["measure"]
    assert_sendable(run.messages)
    assert [block.get("is_error") for block in run.messages[-1].blocks] == [None]
    for body in client.requests:
        assert tool_names(body) == ["measure", "Weather"] and "tool_choice" not in body
        assert body["tools"][1]["description"].endswith("Call this to give the final answer.")


def test_without_tools():
    """Without other tools, the first request forces the answer."""
    client = ScriptedInferenceClient([ANSWER])
    run = client.run_tools("go", [], output=Weather)
    assert (run.parsed.city, run.iterations, run.stop_reason) == ("Rome", 1, "end_turn")
    (body,) = client.requests
    assert (tool_names(body), body["tool_choice"]) == (
        ["Weather"],
        {"type": "tool", "name": "Weather"},
    )


def test_text_with_valid_json():
    """A final text that is valid JSON of the type is accepted."""
    client = ScriptedInferenceClient([MEASURE, '```json\n{"city": "Rome", "degrees": 3}\n```'])
    run = client.run_tools("go", [measure], output=Weather)
    assert (run.parsed.degrees, run.iterations) == (3.0, 2)


def test_text_is_requested_as_an_answer():
    """After a final text, a further request forces the answer's tool.

    It sends the same tools, so that the prompt cache is used.
    """
    client = ScriptedInferenceClient([MEASURE, "It is warm.", ANSWER])
    run = client.run_tools("go", [measure], output=Weather)
    assert (run.parsed.city, run.iterations) == ("Rome", 3)
    assert client.requests[2]["tool_choice"] == {"type": "tool", "name": "Weather"}
    assert client.requests[2]["tools"] == client.requests[1]["tools"] == client.requests[0]["tools"]
    assert run.messages[-3].content == "Give this answer in the form of Weather."
    assert_sendable(run.messages)


def test_without_output():
    """Without output= a loop ends with text, and its run has no data."""
    client = ScriptedInferenceClient([MEASURE, "warm"])
    run = client.run_tools("go", [measure])
    assert (run.parsed, run.text) == (None, "warm")
    assert tool_names(client.requests[0]) == ["measure"]


def test_valid_text_with_a_skipped_call():
    """Valid text is accepted. Calls are skipped if the reply did not stop for them."""
    client = ScriptedInferenceClient(
        [make_reply("end_turn", '{"city": "Rome", "degrees": 3}', MEASURE)]
    )
    run = client.run_tools("go", [measure], output=Weather)
    assert (run.parsed.degrees, run.calls, run.stop_reason) == (3.0, [], "end_turn")
    assert run.messages[-1].blocks[0]["is_error"]
    assert_sendable(run.messages)


# Invalid data


def test_one_correction():
    """Invalid data is reported to the model once, and the next request forces the answer."""
    client = ScriptedInferenceClient([MEASURE, WRONG, ANSWER])
    run = client.run_tools("go", [measure], output=Weather)
    assert (run.parsed.degrees, run.iterations) == (21.5, 3)
    assert tool_results(client.requests[2])["Weather"].startswith(
        "the answer does not fit: degrees: "
    )
    assert client.requests[2]["tool_choice"] == {"type": "tool", "name": "Weather"}
    assert_sendable(run.messages)


@pytest.mark.parametrize("tools", [[], [measure]])
@pytest.mark.parametrize("last_reply", [WRONG, "so warm"])
def test_invalid_data_after_the_correction(tools, last_reply):
    """A second invalid answer is an OutputInvalid with the reply and a history that can be sent."""
    client = ScriptedInferenceClient([WRONG, last_reply, "never asked"])
    with pytest.raises(OutputInvalid, match="the reply is not a valid Weather: ") as caught:
        client.run_tools("go", tools, output=Weather)
    assert len(client.requests) == 2
    assert (caught.value.provider, caught.value.reply.text) == (
        "scripted",
        last_reply if isinstance(last_reply, str) else "",
    )
    assert [message.role.value for message in caught.value.messages][:3] == [
        "user",
        "assistant",
        "tool_result",
    ]
    assert_sendable(caught.value.messages)


def test_text_does_not_use_up_the_correction():
    """Text, then invalid data, then data: text does not count as an attempt."""
    client = ScriptedInferenceClient(["warm", WRONG, ANSWER])
    assert client.run_tools("go", [measure], output=Weather).parsed.city == "Rome"
    client = ScriptedInferenceClient(["warm", WRONG, WRONG])
    with pytest.raises(OutputInvalid):
        client.run_tools("go", [measure], output=Weather)


@pytest.mark.parametrize("tools", [[], [measure]])
@pytest.mark.parametrize("stop_reason", ["max_tokens", "refusal"])
def test_truncated_answer(stop_reason, tools):
    """A truncated reply is an OutputInvalid, even if its beginning is valid. It is not retried."""
    for reply in (
        make_reply(stop_reason, '{"city": "Rome", "degrees": 3}'),
        make_reply(stop_reason, "", ANSWER),
    ):
        client = ScriptedInferenceClient([reply])
        with pytest.raises(OutputInvalid, match=f"cut short .stop reason {stop_reason}") as caught:
            client.run_tools("go", tools, output=Weather)
        assert_sendable(caught.value.messages)


def test_an_empty_reply():
    """An empty reply does not enter the history, because providers reject empty messages."""
    client = ScriptedInferenceClient([make_reply("end_turn"), ANSWER])
    run = client.run_tools("go", [], output=Weather)
    assert run.parsed.city == "Rome"
    assert_sendable(run.messages)


# With other calls


def test_answer_with_other_calls():
    """An answer with other calls is deferred: the calls are executed, and the model sees their
    results.
    """
    client = ScriptedInferenceClient([MEASURE + WRONG, ANSWER])
    run = client.run_tools("go", [measure], output=Weather)
    assert (run.parsed.degrees, run.iterations) == (21.5, 2)
    assert [result.result for result in run.calls] == [21.5]
    results = tool_results(client.requests[1])
    assert (results["measure"], results["Weather"].partition(":")[0]) == ("21.5", "not accepted")
    assert "tool_choice" not in client.requests[1]
    assert_sendable(run.messages)


def test_answer_with_a_pending_call():
    """A pending call ends the run. With its approval, the loop continues to the answer."""
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


def test_calls_in_a_forced_request():
    """If the model calls tools although the answer is forced, they are executed and the loop
    continues.
    """

    def model(body):
        if "tool_choice" in body:
            return Failure(400, "invalid_request_error", "tool_choice: no")
        if tool_results(body):
            return ANSWER
        return MEASURE if "system" in body else "warm"

    client = ScriptedInferenceClient(model)
    run = client.run_tools("go", [measure], output=Weather)
    assert (run.parsed.city, run.iterations) == ("Rome", 3)
    assert [result.call.name for result in run.calls] == ["measure"]
    assert "system" not in client.requests[-1]  # the answer is no longer forced


def test_an_unknown_call_keeps_the_answer_forced():
    """Without tools, every request forces the answer, whatever tool the model calls."""
    client = ScriptedInferenceClient([calls(("made_up", {})) + WRONG, ANSWER])
    assert client.run_tools("go", [], output=Weather).parsed.city == "Rome"
    assert "tool_choice" in client.requests[1]


def test_a_tool_of_the_same_name():
    """The answer's tool gets another name if a tool has the type's name."""

    @tool
    def Weather(city: str) -> str:
        """Return the weather of a city."""
        return "sunny"

    client = ScriptedInferenceClient(
        [calls(("Weather", {"city": "Rome"})), calls(("Weather_output", ROME))]
    )
    run = client.run_tools("go", [Weather], output=globals()["Weather"])
    assert (run.parsed.city, run.calls[0].result) == ("Rome", "sunny")


def test_a_pause():
    """A turn that the provider has not finished is not an answer."""
    client = ScriptedInferenceClient([make_reply("pause_turn", "so far"), ANSWER])
    run = client.run_tools("go", [measure], output=Weather)
    assert (run.parsed.city, "tool_choice" in client.requests[1]) == ("Rome", False)


# Limit, stream, wires


@pytest.mark.parametrize("last_reply", [MEASURE, "warm", WRONG])
def test_the_limit(last_reply):
    """max_iterations counts every request. At the limit, the run has a valid history without
    data.
    """
    client = ScriptedInferenceClient([MEASURE, last_reply, ANSWER])
    run = client.run_tools("go", [measure], max_iterations=2, output=Weather)
    assert (run.stop_reason, run.iterations, run.parsed) == ("max_iterations", 2, None)
    assert_sendable(run.messages)
    assert client.run_tools(run.messages, [measure], output=Weather).parsed.city == "Rome"


def test_invalid_types():
    """A type whose JSON is not an object is a TypeError at once, and nothing is sent."""
    client = ScriptedInferenceClient([])
    for start in (client.run_tools, client.stream_tools):
        with pytest.raises(TypeError, match="output="):
            start("go", [measure], output=int)


def test_a_stream():
    """stream_tools gives the same run. The answer's call is announced, but no tool starts."""
    client = ScriptedInferenceClient([MEASURE, ANSWER])
    stream = client.stream_tools("go", [measure], output=Weather)
    events = [event.to_dict() for event in stream]
    assert stream.run.parsed.city == "Rome"
    assert [event["call"]["name"] for event in events if event["type"] == "tool_started"] == [
        "measure"
    ]
    assert [event["call"]["name"] for event in events if event["type"] == "tool_call_ready"] == [
        "measure",
        "Weather",
    ]
    assert events[-1]["run"]["parsed"] == ROME


def test_messages_wire():
    """If a model rejects a forced tool, the answer is requested in the wire's own format."""

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
            assert len(server.requests) == 5  # the accepted strategy is remembered


def test_chat_wire():
    """Chat completions receive a response_format after the model has ended with text."""

    def model(body):
        if tool_names(body) and len(body["messages"]) < 4:
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
