"""What was said is in no span that was not asked for it; where it is, it has the conventions' shape."""

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


def say_it_everywhere():
    """The word is in a prompt, a system prompt, a call, results, errors, a reply, and in what fails."""
    with ModelServer(model) as server, AnthropicInferenceClient("m", "none", server.url) as client:
        agent = Agent(client, system="You know " + WORD, tools=[look_up], name="ada")
        graph = TaskGraph("survey")
        graph.add(Task(type="ask", objective="What is " + WORD + "?", params={"hint": WORD}), name="ask")
        graph.add(Task(type="fail", objective=WORD), name="fail")

        def fail(task, context):
            raise ValueError(WORD)

        with TaskScheduler({"ask": agent, "fail": fail}) as scheduler:
            scheduler.run(graph)
        list(client.stream(WORD))
    with pytest.raises(Exception, match=WORD):
        ScriptedInferenceClient([Failure(400, message="not " + WORD)]).generate(WORD)


def test_nothing_is_told_that_was_not_asked_for(generation, exported):
    """No span and no metric of a run holds a word of what was said, by default."""
    say_it_everywhere()
    assert len(exported.spans) == 10
    assert not [span.to_json() for span in exported.spans if WORD in span.to_json()]
    assert WORD not in exported.reader.get_metrics_data().to_json()


@pytest.mark.parametrize("word", ["", "false", "NO_CONTENT", "EVENT_ONLY"])
def test_words_that_ask_for_no_content_on_spans(word, monkeypatch, request):
    """Events would be another place for it; there are none."""
    monkeypatch.setenv(CAPTURE_CONTENT, word)
    exported = request.getfixturevalue("exported")
    say_it_everywhere()
    assert not [span for span in exported.spans if WORD in span.to_json()]


@pytest.mark.parametrize("word", ["true", "True", "SPAN_ONLY", "span_and_event"])
def test_words_that_ask_for_content(word, monkeypatch, request):
    """Whatever their case."""
    telling = request.getfixturevalue("telling")
    monkeypatch.setenv(CAPTURE_CONTENT, word)
    telemetry.install(telling.tracer_provider, telling.meter_provider)
    ScriptedInferenceClient(["hi"]).generate(WORD)
    assert WORD in telling.one("chat scripted").attributes[names.INPUT_MESSAGES]


def test_a_word_that_is_none(monkeypatch, request, caplog):
    """It is warned of, and asks for nothing."""
    monkeypatch.setenv(CAPTURE_CONTENT, "everything")
    exported = request.getfixturevalue("exported")
    assert "everything" in caplog.text
    ScriptedInferenceClient(["hi"]).generate(WORD)
    assert WORD not in exported.one("chat scripted").to_json()


def loaded(span, name):
    return json.loads(span.attributes[name])


def test_what_is_told_where_it_is_asked_for(telling):
    """Messages, system prompt and tools of a request; the question and the answer of an agent; arguments; errors' messages."""
    say_it_everywhere()
    first, second, _ = telling.named("chat m")
    assert loaded(first, names.SYSTEM_INSTRUCTIONS) == [{"type": "text", "content": "You know " + WORD}]
    (asked,) = loaded(first, names.INPUT_MESSAGES)
    assert asked["role"] == "user"
    assert "What is " + WORD in asked["parts"][0]["content"]
    (definition,) = loaded(first, names.TOOL_DEFINITIONS)
    assert (definition["type"], definition["name"], definition["description"]) == ("function", "look_up", "Look a word up.")
    assert definition["parameters"]["properties"] == {"word": {"title": "Word", "type": "string"}}
    (said,) = loaded(first, names.OUTPUT_MESSAGES)
    assert (said["role"], said["finish_reason"]) == ("assistant", "tool_call")
    call = said["parts"][0]
    assert call == {"type": "tool_call", "id": call["id"], "name": "look_up", "arguments": {"word": WORD}}
    _, _, told = loaded(second, names.INPUT_MESSAGES)
    assert told["role"] == "tool"
    assert told["parts"][0] == {"type": "tool_call_response", "id": call["id"], "response": WORD + " " + WORD}
    assert loaded(telling.named("execute_tool look_up")[0], names.TOOL_CALL_ARGUMENTS).keys() == {"word"}
    agent = telling.one("invoke_agent ada")
    assert loaded(agent, names.INPUT_MESSAGES) == [asked]
    assert loaded(agent, names.OUTPUT_MESSAGES)[0]["parts"] == [{"type": "text", "content": "It is " + WORD + "."}]
    assert telling.one("task fail").status.description == "ValueError: " + WORD


def test_what_redact_takes_out_is_nowhere(telling):
    """A tool's result is told as the model was told it, and not as the tool returned it."""
    client = ScriptedInferenceClient(model)
    Agent(client, tools=[look_up], redact=lambda text: text.replace("no " + WORD, "[no]")).run("what?")
    told = loaded(telling.named("chat scripted")[1], names.INPUT_MESSAGES)[-1]["parts"]
    assert told[1]["response"] == "LookupError: [no]"
    results = [span for span in telling.named("execute_tool look_up") if span.status.is_unset]
    assert WORD + " " + WORD not in "".join(span.to_json() for span in results)


def test_the_newer_generation_has_no_reason_in_a_message(monkeypatch, request):
    """The reasons are an attribute of their own."""
    monkeypatch.setenv(STABILITY_OPT_IN, "http, gen_ai_latest_experimental")
    telling = request.getfixturevalue("telling")
    ScriptedInferenceClient(["hi"]).generate("hello")
    assert loaded(telling.one("chat scripted"), names.OUTPUT_MESSAGES) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "hi"}]}
    ]


IMAGE = base64.b64encode(b"\x89PNG" * 5000).decode()


@pytest.mark.parametrize(
    "block, part",
    [
        ({"type": "text", "text": "a", "citations": [1]}, {"type": "text", "content": "a"}),
        ({"type": "thinking", "thinking": "hm", "signature": "sealed"}, {"type": "reasoning", "content": "hm"}),
        ({"type": "redacted_thinking", "data": "sealed"}, {"type": "redacted_thinking"}),
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": IMAGE}},
            {"type": "image", "modality": "image", "mime_type": "image/png", "base64_characters": len(IMAGE)},
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
            {"type": "tool_call_response", "id": "t", "response": [{"type": "text", "content": "x"}]},
        ),
        (
            {"type": "novel", "some": [{"data": IMAGE, "title": "t", "signature": "sealed", "encrypted_content": "x"}]},
            {"type": "novel", "some": [{"title": "t"}]},
        ),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else None,
)
def test_blocks(block, part):
    """Each block becomes the part that the conventions have for it; nothing sealed and nothing binary is in it."""
    told = content.input_messages([ChatMessage(role="user", content=[block])])
    assert json.loads(told) == [{"role": "user", "parts": [part]}]
    assert len(told) < 1000


@pytest.mark.parametrize("role", list(ChatRole))
def test_roles(role):
    """What tools answered is said by a tool."""
    told = json.loads(content.input_messages([ChatMessage(role=role, content="x")]))
    assert told[0]["role"] == ("tool" if role is ChatRole.TOOL_RESULT else role.value)


@pytest.mark.parametrize(
    "reason, told", [("end_turn", "stop"), ("max_tokens", "length"), ("pause_turn", "pause_turn"), (None, "error")]
)
def test_finish_reasons(reason, told):
    """The conventions' own words; another one as it is; none at all is an error."""
    reply = Reply(message=ChatMessage(role="assistant", content="x"), stop_reason=reason)
    assert json.loads(content.output_messages(reply, True))[0]["finish_reason"] == told


def test_values_that_json_does_not_hold():
    """They are told as something else, and break nothing."""
    assert json.loads(content.tool_call_arguments({"a": object})).keys() == {"a"}
