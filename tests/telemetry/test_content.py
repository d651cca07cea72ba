"""Message content is recorded on spans only on request, in the format of the conventions."""

import base64
import json

import pytest

from asimov_sync import (
    Agent,
    AnthropicInferenceClient,
    ChatMessage,
    ChatRole,
    Reply,
    Task,
    TaskGraph,
    TaskScheduler,
    telemetry,
    tool,
)
from asimov_sync.telemetry import CAPTURE_CONTENT, STABILITY_OPT_IN, content, names
from asimov_sync.testing import Failure, ModelServer, ScriptedInferenceClient, calls, tool_results

WORD = "swordfish"


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    if word == "nothing":
        raise LookupError("no " + WORD)
    return WORD + " " + word


def model(body):
    if tool_results(body):
        return "It is " + WORD + "."
    return calls(("look_up", {"word": WORD}), ("look_up", {"word": "nothing"}))


def use_word_everywhere():
    """Use WORD in prompts, calls, results, errors, replies and failures."""
    with ModelServer(model) as server, AnthropicInferenceClient(
        "m", api_key="none", api_url=server.url
    ) as client:
        agent = Agent(client, system="You know " + WORD, tools=[look_up], name="ada")
        graph = TaskGraph("survey")
        graph.add(
            Task(type="ask", objective="What is " + WORD + "?", params={"hint": WORD}), name="ask"
        )
        graph.add(Task(type="fail", objective=WORD), name="fail")

        def fail(task, context):
            raise ValueError(WORD)

        with TaskScheduler({"ask": agent, "fail": fail}) as scheduler:
            scheduler.run(graph)
        list(client.stream(WORD))
    with pytest.raises(Exception, match=WORD):
        ScriptedInferenceClient([Failure(400, message="not " + WORD)]).generate(WORD)


def test_no_content_by_default(generation, exported):
    """By default no span and no metric of a run contains message content."""
    use_word_everywhere()
    assert len(exported.spans) == 10
    assert not [span.to_json() for span in exported.spans if WORD in span.to_json()]
    assert WORD not in exported.reader.get_metrics_data().to_json()


@pytest.mark.parametrize("word", ["", "false", "NO_CONTENT", "EVENT_ONLY"])
def test_values_without_content(word, monkeypatch, request):
    """These values do not capture content on spans. Events are not supported."""
    monkeypatch.setenv(CAPTURE_CONTENT, word)
    exported = request.getfixturevalue("exported")
    use_word_everywhere()
    assert not [span for span in exported.spans if WORD in span.to_json()]


@pytest.mark.parametrize("word", ["true", "True", "SPAN_ONLY", "span_and_event"])
def test_values_with_content(word, monkeypatch, request):
    """These values capture content, in any case."""
    with_content = request.getfixturevalue("with_content")
    monkeypatch.setenv(CAPTURE_CONTENT, word)
    telemetry.install(with_content.tracer_provider, with_content.meter_provider)
    ScriptedInferenceClient(["hi"]).generate(WORD)
    assert WORD in with_content.only_span("chat scripted").attributes[names.INPUT_MESSAGES]


def test_unknown_value(monkeypatch, request, caplog):
    """An unknown value logs a warning and captures nothing."""
    monkeypatch.setenv(CAPTURE_CONTENT, "everything")
    exported = request.getfixturevalue("exported")
    assert "everything" in caplog.text
    ScriptedInferenceClient(["hi"]).generate(WORD)
    assert WORD not in exported.only_span("chat scripted").to_json()


def load_attribute(span, name):
    return json.loads(span.attributes[name])


def test_captured_content(with_content):
    """Messages, system prompt, tools, arguments and error messages are captured."""
    use_word_everywhere()
    first, second, _ = with_content.spans_named("chat m")
    assert load_attribute(first, names.SYSTEM_INSTRUCTIONS) == [
        {"type": "text", "content": "You know " + WORD}
    ]
    (prompt,) = load_attribute(first, names.INPUT_MESSAGES)
    assert prompt["role"] == "user"
    assert "What is " + WORD in prompt["parts"][0]["content"]
    (definition,) = load_attribute(first, names.TOOL_DEFINITIONS)
    assert (definition["type"], definition["name"], definition["description"]) == (
        "function",
        "look_up",
        "Look a word up.",
    )
    assert definition["parameters"]["properties"] == {"word": {"title": "Word", "type": "string"}}
    (output,) = load_attribute(first, names.OUTPUT_MESSAGES)
    assert (output["role"], output["finish_reason"]) == ("assistant", "tool_call")
    call = output["parts"][0]
    assert call == {
        "type": "tool_call",
        "id": call["id"],
        "name": "look_up",
        "arguments": {"word": WORD},
    }
    _, _, encoded = load_attribute(second, names.INPUT_MESSAGES)
    assert encoded["role"] == "tool"
    assert encoded["parts"][0] == {
        "type": "tool_call_response",
        "id": call["id"],
        "response": WORD + " " + WORD,
    }
    found, failed = sorted(
        with_content.spans_named("execute_tool look_up"), key=lambda span: span.status.is_unset
    )[::-1]
    assert load_attribute(found, names.TOOL_CALL_ARGUMENTS) == {"word": WORD}
    assert found.attributes[names.TOOL_CALL_RESULT] == WORD + " " + WORD
    assert failed.attributes[names.TOOL_CALL_RESULT] == "LookupError: no " + WORD
    agent = with_content.only_span("invoke_agent ada")
    assert load_attribute(agent, names.INPUT_MESSAGES) == [prompt]
    assert load_attribute(agent, names.OUTPUT_MESSAGES)[0]["parts"] == [
        {"type": "text", "content": "It is " + WORD + "."}
    ]
    assert with_content.only_span("task fail").status.description == "ValueError: " + WORD


def test_redacted_result_is_not_captured(with_content):
    """A tool's result is captured as the model received it, not as the tool returned it."""
    client = ScriptedInferenceClient(model)
    Agent(client, tools=[look_up], redact=lambda text: text.replace("no " + WORD, "[no]")).run(
        "what?"
    )
    encoded = load_attribute(with_content.spans_named("chat scripted")[1], names.INPUT_MESSAGES)[
        -1
    ]["parts"]
    assert encoded[1]["response"] == "LookupError: [no]"
    results = with_content.spans_named("execute_tool look_up")
    assert "no " + WORD not in "".join(span.to_json() for span in results)
    failed = next(span for span in results if not span.status.is_unset)
    assert failed.attributes[names.TOOL_CALL_RESULT] == "LookupError: [no]"
    assert failed.status.description == "LookupError: [no]"


def test_result_that_cannot_be_redacted(with_content):
    """If `redact=` fails, the result is withheld from the span, too."""

    def fail(text):
        raise ValueError(text)

    Agent(ScriptedInferenceClient(model), tools=[look_up], redact=fail).run("what?")
    for span in with_content.spans_named("execute_tool look_up"):
        assert span.attributes[names.TOOL_CALL_RESULT] == "the result was withheld"


@pytest.mark.parametrize(
    "text, result",
    [
        ('{"a": 1}', {"a": 1}),
        ("24 °C", {"result": "24 °C"}),
        ("[1, 2]", {"result": [1, 2]}),
    ],
)
def test_results_are_objects_in_latest(text, result):
    """In LATEST, a result is a JSON object; in 1.41, it is the text that the model receives."""
    assert json.loads(content.tool_call_result(text, as_object=True)) == result
    assert content.tool_call_result(text, as_object=False) == text


def test_latest_has_the_reason_in_its_messages(monkeypatch, request):
    """In LATEST, a message includes the optional finish reason, because backends expect it."""
    monkeypatch.setenv(STABILITY_OPT_IN, "http, gen_ai_latest_experimental")
    with_content = request.getfixturevalue("with_content")
    ScriptedInferenceClient(["hi"]).generate("hello")
    assert load_attribute(with_content.only_span("chat scripted"), names.OUTPUT_MESSAGES) == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": "hi"}],
            "finish_reason": "stop",
        }
    ]


IMAGE = base64.b64encode(b"\x89PNG" * 5000).decode()


@pytest.mark.parametrize(
    "block, part",
    [
        ({"type": "text", "text": "a", "citations": [1]}, {"type": "text", "content": "a"}),
        (
            {"type": "thinking", "thinking": "hm", "signature": "sealed"},
            {"type": "reasoning", "content": "hm"},
        ),
        ({"type": "redacted_thinking", "data": "sealed"}, {"type": "redacted_thinking"}),
        (
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": IMAGE},
            },
            {
                "type": "image",
                "modality": "image",
                "mime_type": "image/png",
                "base64_characters": len(IMAGE),
            },
        ),
        (
            {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
            {"type": "uri", "modality": "image", "uri": "https://example.com/a.png"},
        ),
        (
            {"type": "document", "source": {"type": "file", "file_id": "f-1"}},
            {"type": "file", "modality": "document", "file_id": "f-1"},
        ),
        (
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
            {
                "type": "server_tool_call",
                "id": "s",
                "name": "web_search",
                "server_tool_call": {"type": "web_search", "arguments": {"query": "q"}},
            },
        ),
        (
            {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "x"}]},
            {
                "type": "tool_call_response",
                "id": "t",
                "response": [{"type": "text", "content": "x"}],
            },
        ),
        (
            {
                "type": "novel",
                "some": [
                    {"data": IMAGE, "title": "t", "signature": "sealed", "encrypted_content": "x"}
                ],
            },
            {"type": "novel", "some": [{"title": "t"}]},
        ),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else None,
)
def test_blocks(block, part):
    """Each block becomes the matching part of the conventions, without opaque or binary data."""
    encoded = content.input_messages([ChatMessage(role="user", content=[block])])
    assert json.loads(encoded) == [{"role": "user", "parts": [part]}]
    assert len(encoded) < 1000


@pytest.mark.parametrize("role", list(ChatRole))
def test_roles(role):
    """Tool results have the role "tool"."""
    encoded = json.loads(content.input_messages([ChatMessage(role=role, content="x")]))
    assert encoded[0]["role"] == ("tool" if role is ChatRole.TOOL_RESULT else role.value)


@pytest.mark.parametrize(
    "reason, encoded",
    [("end_turn", "stop"), ("max_tokens", "length"), ("pause_turn", "pause_turn"), (None, "error")],
)
def test_finish_reasons(reason, encoded):
    """Known reasons are translated, unknown ones are kept, and None is "error"."""
    reply = Reply(message=ChatMessage(role="assistant", content="x"), stop_reason=reason)
    assert json.loads(content.output_messages(reply))[0]["finish_reason"] == encoded


def test_arguments_beyond_json():
    """Arguments that JSON cannot hold are recorded as text."""
    assert json.loads(content.tool_call_arguments({"a": object})).keys() == {"a"}
