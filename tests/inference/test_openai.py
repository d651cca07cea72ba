"""The client of chat completions with a raw server: requests, replies and errors."""

import contextlib
import json
import re

import pytest
import requests

from asimov_sync import (
    AuthenticationError,
    Cancelled,
    ConnectionFailed,
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
def serving(*responses):
    """Serve these responses. Assert that each was requested."""
    with ByteServer(*responses) as server:
        yield server
    assert len(server.requests) == len(responses)


def make_response(body, status=200, kind="text/event-stream", **headers):
    """Return a response that ends with the connection, as after a crash of the server."""
    body = body if isinstance(body, str) else json.dumps(body)
    return RawResponse(
        body.encode(),
        status=status,
        headers=dict({"content-type": kind}, **headers),
        framing="close",
    )


def sse(*events):
    return "".join(
        f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events
    )


def make_error(status, error, **headers):
    return make_response({"error": error}, status, "application/json", **headers)


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


def error_details(code, message):
    return {"message": message, "type": "invalid_request_error", "code": code, "param": None}


HELLO = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "hel"}),
    chunk({"content": "lo"}),
    chunk({}, "stop"),
]
TOTALS = {"choices": [], "usage": FIGURES}
STREAM = make_response(sse(*(HELLO + [TOTALS, "[DONE]"])))
USAGE = Usage(input_tokens=5, cache_read_input_tokens=4, output_tokens=3, requests=1)


def make_client(server, **options):
    return OpenAIInferenceClient(
        **dict(
            {"model": "m", "api_key": KEY, "api_url": server.url + PATH, "max_retries": 0},
            **options,
        )
    )


def test_stream():
    """stream() yields events as they arrive and returns the whole reply. Its usage is recorded."""
    with serving(STREAM) as server, make_client(server) as client:
        stream = client.stream("hello", system="be brief", max_tokens=7)
        events = list(stream)
    assert events[:2] == [TextDelta("hel"), TextDelta("lo")]
    assert (stream.reply.text, stream.reply.stop_reason, stream.reply.model) == (
        "hello",
        "end_turn",
        "gpt",
    )
    assert stream.reply.usage == client.usage == USAGE
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


def test_options_reset_to_none():
    """None removes stream_options, in the client or a call, for servers that reject it."""
    with serving(STREAM, STREAM, STREAM) as server:
        make_client(server).generate("x", stream_options=None)
        make_client(server, stream_options=None).generate("x")
        make_client(server).with_options(stream_options={"include_usage": False}).generate("x")
    assert [request.json.get("stream_options") for request in server.requests] == [
        None,
        None,
        {"include_usage": False},
    ]


def test_whole_reply():
    """A request without streaming sends no stream options, and its whole reply is decoded."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "hello", "refusal": None},
        "finish_reason": "stop",
    }
    whole = {"id": "c1", "model": "gpt", "choices": [choice], "usage": FIGURES}
    with serving(make_response(whole, kind="application/json")) as server:
        reply = make_client(server, extra={"stream": False}).generate("hello")
    assert (reply.text, reply.stop_reason, reply.usage) == ("hello", "end_turn", USAGE)
    assert server.requests[0].json == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": False,
    }


def test_tool_loop():
    """Tool calls are executed. The next request holds calls, results and reasoning."""
    call = {
        "index": 0,
        "id": "call_1",
        "type": "function",
        "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'},
    }
    chunks = [
        chunk({"reasoning_content": "sum"}),
        chunk({"tool_calls": [call]}),
        chunk({}, "tool_calls"),
        "[DONE]",
    ]

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    with serving(make_response(sse(*chunks)), STREAM) as server:
        run = make_client(server).run_tools("2 + 3?", [add])
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


class RecordingAdapter(requests.adapters.BaseAdapter):
    """Records the bodies of requests, and sends none of them."""

    def __init__(self):
        super().__init__()
        self.bodies = []

    def send(self, request, **options):
        self.bodies.append(json.loads(request.body.decode()))
        raise requests.ConnectionError("not sent")

    def close(self):
        pass


def encode(url, **options):
    """Return the request body for an address, with reasoning in the history."""
    adapter, session = RecordingAdapter(), requests.Session()
    session.mount(url, adapter)
    client = OpenAIInferenceClient("m", api_key=KEY, api_url=url, session=session, max_retries=0)
    make_response = {"type": "thinking", "thinking": "hm", "field": "reasoning_content"}
    history = [{"role": "user", "content": "x"}, {"role": "assistant", "content": [make_response]}]
    with pytest.raises(ConnectionFailed):
        client.generate(history, **options)
    (body,) = adapter.bodies
    return body


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
    body = encode(url, max_tokens=5)
    assert [name for name in body if "tokens" in name] == [limit]
    assert ("reasoning_content" in body["messages"][1]) is reasoning


def test_key_from_argument_or_environment(monkeypatch):
    """The key is an argument or $OPENAI_API_KEY. OpenAI's own hosts require one."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    with serving(STREAM, STREAM, STREAM) as server:
        make_client(server, api_key=None).generate("x")
        make_client(server, api_key="").generate("x")
        monkeypatch.delenv("OPENAI_API_KEY")
        make_client(server, api_key=None, headers={"Api-Key": "k"}).generate("x")
    assert [request.headers.get("authorization") for request in server.requests] == [
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
    """If a server quotes the rejected key, neither the error nor the client's repr shows it."""
    details = error_details("invalid_api_key", f"Incorrect API key provided: {KEY}.")
    options = {} if header == "authorization" else {"api_key": "", "headers": {header: KEY}}
    with serving(make_error(401, details)) as server:
        client = make_client(server, **options)
        with pytest.raises(AuthenticationError, match="Incorrect API key provided: ….") as caught:
            client.generate("x")
    assert server.requests[0].headers[header].endswith(KEY)
    assert KEY not in str(caught.value) + repr(caught.value) + repr(vars(caught.value)) + repr(
        client
    ) + repr(vars(client))
    assert caught.value.__cause__ is None and caught.value.__context__ is None


@pytest.mark.parametrize("case", ["json", "text", "method"])
def test_wrong_endpoint(case):
    """The error of an address without the endpoint's path mentions api_url.

    The error of an unknown model does not.
    """
    responses = {
        "json": make_error(
            404, {"message": "Invalid URL (POST /v1)", "type": "invalid_request_error"}
        ),
        "text": make_response("404 page not found", 404, "text/plain"),
        "method": make_response({"detail": "Method Not Allowed"}, 405, "application/json"),
    }
    unknown_model = make_error(404, {"message": "no such model", "code": "model_not_found"})
    with serving(responses[case], unknown_model) as server:
        with pytest.raises(
            InvalidRequestError if case == "method" else NotFoundError,
            match=r"api_url.*/chat/completions",
        ):
            make_client(server, api_url=server.url + "/v1").generate("x")
        with pytest.raises(NotFoundError) as caught:
            make_client(server).generate("x")
    assert "api_url" not in str(caught.value)


def test_web_page_as_a_reply():
    """A web page with the status 200 is a ProviderError that mentions api_url."""
    with serving(make_response("<html>hello</html>", kind="text/html")) as server:
        with pytest.raises(ProviderError, match="chat-completions.*api_url"):
            make_client(server).generate("x")


def test_error_shows_the_servers_message():
    """An error has the server's code, message and parameter, the request id and the retry-after."""
    details = dict(error_details("unsupported_parameter", "not with this model"), param="stop")
    rate_limited = make_error(
        429,
        error_details("rate_limit_exceeded", "slow"),
        **{"retry-after": 99, "x-request-id": "req_1"},
    )
    with serving(make_error(400, details), rate_limited) as server:
        with pytest.raises(
            InvalidRequestError, match=re.escape("not with this model (parameter: stop)")
        ) as caught:
            make_client(server).stream("x")
        assert caught.value.error_type == "unsupported_parameter"
        with pytest.raises(RateLimitError) as caught:
            make_client(server, max_retries=3).stream("x")
    assert (caught.value.retry_after, caught.value.request_id, caught.value.attempts) == (
        99,
        "req_1",
        1,
    )


def test_exhausted_quota():
    """A 429 for an account without credit is not retried."""
    details = {
        "message": "You exceeded your current quota",
        "type": "insufficient_quota",
        "code": "insufficient_quota",
    }
    with serving(make_error(429, details)) as server:
        with pytest.raises(PermissionDeniedError) as caught:
            make_client(server, max_retries=3).generate("x")
    assert caught.value.attempts == 1


@pytest.mark.usefixtures("fast_time")
@suite
def test_cut_stream():
    """A stream without an end is a StreamInterrupted with the partial reply. generate() retries."""
    truncated = make_response(sse(*HELLO[:3]))
    with serving(truncated, truncated, STREAM) as server:
        with pytest.raises(StreamInterrupted) as caught:
            list(make_client(server).stream("x"))
        assert (caught.value.text, caught.value.partial.stop_reason) == ("hello", None)
        with_retry = make_client(server, max_retries=1)
        assert with_retry.generate("x").text == "hello"
        assert with_retry.usage == USAGE


@pytest.mark.usefixtures("fast_time")
@suite
def test_error_inside_a_stream():
    """An error after the status 200 has the partial reply. Before content it is retried."""
    failure = {"error": {"message": "upstream is gone", "code": 502}}
    with serving(
        make_response(sse(*(HELLO[:2] + [failure, "[DONE]"]))), make_response(sse(failure)), STREAM
    ) as server:
        with pytest.raises(ProviderError, match="upstream is gone") as caught:
            list(make_client(server, max_retries=1).stream("x"))
        assert (caught.value.partial.text, caught.value.status) == ("hel", 502)
        with pytest.raises(StopIteration):
            stream = make_client(server, max_retries=1).stream("x")
            while True:
                next(stream)
        assert stream.reply.text == "hello"


def test_closed_stream():
    """A closed stream raises Cancelled instead of ending like a complete one."""
    with serving(STREAM) as server:
        stream = make_client(server).stream("x")
        assert next(stream) == TextDelta("hel")
        stream.close()
        with pytest.raises(Cancelled, match="closed"):
            next(stream)


def test_unknown_option():
    """A misspelt option is a TypeError, and nothing is sent."""
    with pytest.raises(TypeError, match="temprature"):
        OpenAIInferenceClient("m", api_key=KEY, api_url="http://127.0.0.1:9/").generate(
            "x", temprature=1
        )
