"""The client of chat completions with a raw server: its requests, and its replies and errors."""

import contextlib
import json
import re

import pytest

from asimov_sync import (
    AuthenticationError,
    Cancelled,
    InvalidRequestError,
    NotFoundError,
    OpenAIInferenceClient,
    PermissionDeniedError,
    ProviderError,
    RateLimitError,
    StreamInterrupted,
    TextDelta,
    Usage,
)

from ..tiers import suite
from .byte_server import ByteServer, RawResponse

KEY = "sk-secret-0123456789"
PATH = "/v1/chat/completions"


@contextlib.contextmanager
def serving(*answers):
    """A server that is asked as often as it has answers."""
    with ByteServer(*answers) as server:
        yield server
    assert len(server.requests) == len(answers)


def said(body, status=200, kind="text/event-stream", **headers):
    """A response that ends with the connection, as after a crash of the server."""
    body = body if isinstance(body, str) else json.dumps(body)
    return RawResponse(
        body.encode(),
        status=status,
        headers=dict({"content-type": kind}, **headers),
        framing="close",
    )


def sse(*events):
    return "".join(
        f"data: {one if isinstance(one, str) else json.dumps(one)}\n\n" for one in events
    )


def refused(status, error, **headers):
    return said({"error": error}, status, "application/json", **headers)


FIGURES = {
    "prompt_tokens": 9,
    "completion_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 4},
}


def chunk(delta, finish=None):
    return {
        "id": "c1",
        "model": "gpt",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        "usage": None,
    }


def wrong(code, message):
    return {"message": message, "type": "invalid_request_error", "code": code, "param": None}


HELLO = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "hel"}),
    chunk({"content": "lo"}),
    chunk({}, "stop"),
]
TOTALS = {"choices": [], "usage": FIGURES}
STREAM = said(sse(*(HELLO + [TOTALS, "[DONE]"])))
USAGE = Usage(input_tokens=5, cache_read_input_tokens=4, output_tokens=3, requests=1)


def client(server, **options):
    return OpenAIInferenceClient(
        **dict(
            {"model": "m", "api_key": KEY, "api_url": server.url + PATH, "max_retries": 0},
            **options,
        )
    )


def test_a_stream():
    """Events come as they are, the reply at the end is whole, and its usage is charged to the
    client.
    """
    with serving(STREAM) as server, client(server) as asking:
        stream = asking.stream("hello", system="be brief", max_tokens=7)
        events = list(stream)
    assert events[:2] == [TextDelta("hel"), TextDelta("lo")]
    assert (stream.reply.text, stream.reply.stop_reason, stream.reply.model) == (
        "hello",
        "end_turn",
        "gpt",
    )
    assert stream.reply.usage == asking.usage == USAGE
    assert server.requests[0].path == PATH
    assert server.requests[0].headers["authorization"] == "Bearer " + KEY
    assert server.requests[0].json == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hello"},
        ],
        "max_tokens": 7,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_options_that_are_taken_back():
    """stream_options can be taken back, from the client and from a call, for servers that refuse
    it.
    """
    with serving(STREAM, STREAM, STREAM) as server:
        client(server).generate("x", stream_options=None)
        client(server, stream_options=None).generate("x")
        client(server).with_options(stream_options={"include_usage": False}).generate("x")
    assert [sent.json.get("stream_options") for sent in server.requests] == [
        None,
        None,
        {"include_usage": False},
    ]


def test_a_reply_that_is_not_streamed():
    """A request for the whole reply asks for nothing that only streams have, and its answer is read
    as well.
    """
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "hello", "refusal": None},
        "finish_reason": "stop",
    }
    whole = {"id": "c1", "model": "gpt", "choices": [choice], "usage": FIGURES}
    with serving(said(whole, kind="application/json")) as server:
        reply = client(server, extra={"stream": False}).generate("hello")
    assert (reply.text, reply.stop_reason, reply.usage) == ("hello", "end_turn", USAGE)
    assert server.requests[0].json == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": False,
    }


def test_a_conversation_with_tools():
    """Calls that came over the wire are made, and go back with their results and the reasoning that
    led to them.
    """
    call = {
        "index": 0,
        "id": "call_1",
        "type": "function",
        "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'},
    }
    wants = [
        chunk({"reasoning_content": "sum"}),
        chunk({"tool_calls": [call]}),
        chunk({}, "tool_calls"),
        "[DONE]",
    ]

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    with serving(said(sse(*wants)), STREAM) as server:
        run = client(server).run_tools("2 + 3?", [add])
    assert run.text == "hello"
    assert server.requests[0].json["tools"][0]["function"]["name"] == "add"
    assert server.requests[1].json["messages"][1:] == [
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "sum",
            "tool_calls": [{key: value for key, value in call.items() if key != "index"}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "5"},
    ]


def encoded(url, **options):
    """The body that a client of this address would send, with reasoning in the history."""
    asking = OpenAIInferenceClient("m", api_key=KEY, api_url=url)
    said = {"type": "thinking", "thinking": "hm", "field": "reasoning_content"}
    history = [{"role": "user", "content": "x"}, {"role": "assistant", "content": [said]}]
    return asking._encode(asking._request(history, None, (), options))


@pytest.mark.parametrize(
    "url, limit, reasoning",
    [
        ("https://api.openai.com/v1/chat/completions", "max_completion_tokens", False),
        ("https://eu.api.openai.com/v1/chat/completions", "max_completion_tokens", False),
        ("https://api.groq.com/openai/v1/chat/completions", "max_tokens", False),
        ("https://api.deepseek.com/chat/completions", "max_tokens", True),
        ("http://localhost:8000/v1/chat/completions", "max_tokens", True),
        ("https://notapi.openai.com/v1/chat/completions", "max_tokens", True),
    ],
)
def test_host_specific_parameters(url, limit, reasoning):
    """The host determines the name of max_tokens, and whether reasoning is sent back."""
    body = encoded(url, max_tokens=5)
    assert [name for name in body if "tokens" in name] == [limit]
    assert ("reasoning_content" in body["messages"][1]) is reasoning


def test_the_key(monkeypatch):
    """The key is the one given, else the environment's; OpenAI cannot be asked without, a server of
    one's own can.
    """
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    with serving(STREAM, STREAM, STREAM) as server:
        client(server, api_key=None).generate("x")
        client(server, api_key="").generate("x")
        monkeypatch.delenv("OPENAI_API_KEY")
        client(server, api_key=None, headers={"Api-Key": "k"}).generate("x")
    assert [sent.headers.get("authorization") for sent in server.requests] == [
        "Bearer sk-from-the-environment",
        None,
        None,
    ]
    assert server.requests[2].headers["api-key"] == "k"
    for url in (
        "https://api.openai.com/v1/chat/completions",
        "https://eu.api.openai.com/v1/chat/completions",
    ):
        with pytest.raises(AuthenticationError, match="OPENAI_API_KEY"):
            OpenAIInferenceClient("m", api_url=url)
    with pytest.raises(AuthenticationError, match="OPENAI_API_KEY"):
        OpenAIInferenceClient("m")


@pytest.mark.parametrize("header", ["authorization", "api-key"])
def test_no_key_in_an_error(header):
    """A server that quotes the key that it refuses does not get it into the error, nor is it in the
    client's repr.
    """
    details = wrong("invalid_api_key", f"Incorrect API key provided: {KEY}.")
    options = {} if header == "authorization" else {"api_key": "", "headers": {header: KEY}}
    with serving(refused(401, details)) as server:
        asking = client(server, **options)
        with pytest.raises(AuthenticationError, match="Incorrect API key provided: ….") as caught:
            asking.generate("x")
    assert server.requests[0].headers[header].endswith(KEY)
    assert KEY not in str(caught.value) + repr(caught.value) + repr(vars(caught.value)) + repr(
        asking
    ) + repr(vars(asking))
    assert caught.value.__cause__ is None and caught.value.__context__ is None


@pytest.mark.parametrize("answer", ["json", "text", "method"])
def test_wrong_endpoint(answer):
    """An address without the endpoint's name is refused with a word about api_url; a missing model
    is not blamed on it.
    """
    answers = {
        "json": refused(
            404, {"message": "Invalid URL (POST /v1)", "type": "invalid_request_error"}
        ),
        "text": said("404 page not found", 404, "text/plain"),
        "method": said({"detail": "Method Not Allowed"}, 405, "application/json"),
    }
    missing = refused(404, {"message": "no such model", "code": "model_not_found"})
    with serving(answers[answer], missing) as server:
        with pytest.raises(
            InvalidRequestError if answer == "method" else NotFoundError,
            match=r"api_url.*/chat/completions",
        ):
            client(server, api_url=server.url + "/v1").generate("x")
        with pytest.raises(NotFoundError) as caught:
            client(server).generate("x")
    assert "api_url" not in str(caught.value)


def test_answer_of_another_wire():
    """A page with the status 200 is a ProviderError that asks about api_url."""
    with serving(said("<html>hello</html>", kind="text/html")) as server:
        with pytest.raises(ProviderError, match="chat-completions.*api_url"):
            client(server).generate("x")


def test_error_shows_the_servers_message():
    """A refusal has the server's word, its message, the parameter, the request's id and the time to
    wait.
    """
    details = dict(wrong("unsupported_parameter", "not with this model"), param="stop")
    slow = refused(
        429, wrong("rate_limit_exceeded", "slow"), **{"retry-after": 99, "x-request-id": "req_1"}
    )
    with serving(refused(400, details), slow) as server:
        with pytest.raises(
            InvalidRequestError, match=re.escape("not with this model (parameter: stop)")
        ) as caught:
            client(server).stream("x")
        assert caught.value.error_type == "unsupported_parameter"
        with pytest.raises(RateLimitError) as caught:
            client(server, max_retries=3).stream("x")
    assert (caught.value.retry_after, caught.value.request_id, caught.value.attempts) == (
        99,
        "req_1",
        1,
    )


def test_a_quota_is_not_waited_for():
    """A 429 for an account without credit is not retried."""
    details = {
        "message": "You exceeded your current quota",
        "type": "insufficient_quota",
        "code": "insufficient_quota",
    }
    with serving(refused(429, details)) as server:
        with pytest.raises(PermissionDeniedError) as caught:
            client(server, max_retries=3).generate("x")
    assert caught.value.attempts == 1


@suite
def test_a_stream_that_is_cut():
    """A stream that just ends is a StreamInterrupted with the partial reply; generate retries."""
    cut = said(sse(*HELLO[:3]))
    with serving(cut, cut, STREAM) as server:
        with pytest.raises(StreamInterrupted) as caught:
            list(client(server).stream("x"))
        assert (caught.value.text, caught.value.partial.stop_reason) == ("hello", None)
        again = client(server, max_retries=1)
        assert again.generate("x").text == "hello"
        assert again.usage == USAGE


@suite
def test_an_error_in_the_middle():
    """An error after the status 200 is raised with the partial reply; before any content it is
    retried.
    """
    failure = {"error": {"message": "upstream is gone", "code": 502}}
    with serving(
        said(sse(*(HELLO[:2] + [failure, "[DONE]"]))), said(sse(failure)), STREAM
    ) as server:
        with pytest.raises(ProviderError, match="upstream is gone") as caught:
            list(client(server, max_retries=1).stream("x"))
        assert (caught.value.partial.text, caught.value.status) == ("hel", 502)
        with pytest.raises(StopIteration):
            stream = client(server, max_retries=1).stream("x")
            while True:
                next(stream)
        assert stream.reply.text == "hello"


def test_a_stream_can_be_left():
    """A stream that is closed gives no short reply."""
    with serving(STREAM) as server:
        stream = client(server).stream("x")
        assert next(stream) == TextDelta("hel")
        stream.close()
        with pytest.raises(Cancelled, match="closed"):
            next(stream)


def test_an_unknown_option():
    """A misspelt option is refused before anything is sent."""
    with pytest.raises(TypeError, match="temprature"):
        OpenAIInferenceClient("m", api_key=KEY, api_url="http://127.0.0.1:9/").generate(
            "x", temprature=1
        )
