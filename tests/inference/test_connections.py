"""Settings of connections: headers, bearer keys, proxies, the application's session."""

import socket
import threading
import time

import pytest
import requests

from asimov_sync import (
    AnthropicInferenceClient,
    AuthenticationError,
    Cancellation,
    Cancelled,
    ConnectionFailed,
    NotFoundError,
    Timeout,
)
from asimov_sync.inference.http.response import Response
from asimov_sync.testing import ModelServer

from ..tiers import within
from ..waiting import Background, wait_for
from .byte_server import ByteServer, RawResponse
from .conftest import KEY
from .silent_server import SilentServer
from .test_cut_streams import BODY, check_whole


@pytest.fixture
def server():
    with ByteServer(
        RawResponse(BODY, headers={"content-type": "text/event-stream"})
    ) as byte_server:
        yield byte_server


def test_custom_headers(server):
    """Custom headers replace headers of the same name. No repr shows the key."""
    client = AnthropicInferenceClient(
        "m",
        api_key=KEY,
        api_url=server.url,
        betas=["one", "two"],
        headers={"X-Team": "blue", "Anthropic-Version": "2026-10-21"},
    )
    check_whole(client.generate("hello"))
    headers = server.requests[0].headers
    assert (headers["x-team"], headers["anthropic-version"], headers["anthropic-beta"]) == (
        "blue",
        "2026-10-21",
        "one,two",
    )
    assert headers["x-api-key"] == KEY
    assert KEY not in repr(vars(client))


def test_bearer_key(server, monkeypatch):
    """auth_token= is a bearer key that replaces x-api-key; default: $ANTHROPIC_AUTH_TOKEN."""
    AnthropicInferenceClient("m", api_url=server.url, auth_token=KEY).generate("hello")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", KEY)
    AnthropicInferenceClient("m", api_url=server.url).generate("hello")
    for request in server.requests:
        assert request.headers["authorization"] == "Bearer " + KEY
        assert "x-api-key" not in request.headers


def test_missing_key():
    """Without a key the error names the environment variable."""
    with pytest.raises(AuthenticationError, match="ANTHROPIC_API_KEY"):
        AnthropicInferenceClient("m")


def test_netrc_does_not_replace_the_key(server, monkeypatch, tmp_path):
    """An entry for the host in ~/.netrc does not replace the key."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for session in (None, requests.Session()):
        AnthropicInferenceClient("m", api_url=server.url, auth_token=KEY, session=session).generate(
            "hello"
        )
        assert server.requests[-1].headers["authorization"] == "Bearer " + KEY


@pytest.mark.parametrize("source", ["argument", "environment"])
def test_proxy(source, server, monkeypatch):
    """Requests pass through the given proxy, or that of the environment."""
    proxies = {"http": server.url} if source == "argument" else None
    if source == "environment":
        monkeypatch.setenv("http_proxy", server.url)
    client = AnthropicInferenceClient(
        "m", api_key=KEY, api_url="http://models.test/v1/messages", proxies=proxies
    )
    check_whole(client.generate("hello"))
    assert (server.requests[0].method, server.requests[0].path) == (
        "POST",
        "http://models.test/v1/messages",
    )


def test_unreachable_proxy(server):
    """An unreachable proxy is a ConnectionFailed. The request is not sent without the proxy."""
    client = AnthropicInferenceClient(
        "m", api_key=KEY, api_url=server.url, proxies={"http": "http://127.0.0.1:1"}, max_retries=0
    )
    with pytest.raises(ConnectionFailed):
        client.generate("hello")
    assert server.requests == []


# A session of the application


def test_given_session(server):
    """The given session sends every request with its settings. The client does not close it."""
    statuses = []
    session = requests.Session()
    session.headers["X-App"] = "mine"
    session.hooks["response"].append(lambda response, **_: statuses.append(response.status_code))
    with AnthropicInferenceClient("m", api_key=KEY, api_url=server.url, session=session) as client:
        check_whole(client.generate("hello"))
        check_whole(client.generate("hello"))
    assert server.requests[0].headers["x-app"] == "mine"
    assert statuses == [200, 200]
    server.set_responses(RawResponse(b"still open", framing="length"))
    assert session.post(server.url, data=b"x", timeout=5).text == "still open"


@pytest.mark.parametrize("point", ["connect", "headers", "body"])
def test_cancelling_with_a_given_session(point):
    """A cancellation also ends a call on an ordinary session, at each point where it can block."""
    with SilentServer(point) as server:
        client = AnthropicInferenceClient(
            "m",
            api_key=KEY,
            api_url=server.url,
            session=requests.Session(),
            timeout=Timeout(30, 30),
        )
        cancellation = Cancellation()
        call = Background(client.generate, "hello", cancellation=cancellation)
        if point != "connect":
            wait_for(lambda: server.reached)
        moment = time.monotonic()
        cancellation.cancel("enough")
        with pytest.raises(Cancelled):
            call.result(5)
        assert time.monotonic() - moment < within(0.5)


def test_a_session_for_many_threads():
    """One session serves many threads at once."""
    with ModelServer(lambda body: "hello") as server:
        client = AnthropicInferenceClient(
            "m", api_key=KEY, api_url=server.url, session=requests.Session()
        )
        barrier = threading.Barrier(20)

        def send():
            barrier.wait(20)
            return [client.generate("hello").text for _ in range(5)]

        for call in [Background(send) for _ in range(20)]:
            assert call.result() == ["hello"] * 5
        assert client.usage.requests == 100


@pytest.mark.parametrize("status", [301, 307])
def test_a_redirect_is_not_followed(status):
    """A redirect is a NotFoundError and is not retried: its target would receive the key."""
    with ByteServer(
        RawResponse(b"moved", status=status, headers={"location": "http://elsewhere.test/"})
    ) as server:
        with pytest.raises(NotFoundError, match="redirect") as caught:
            AnthropicInferenceClient("m", api_key=KEY, api_url=server.url).generate("hello")
        assert (caught.value.status, len(server.requests)) == (status, 1)


@pytest.mark.parametrize("by_proxy", [False, True])
def test_keepalive(by_proxy, monkeypatch):
    """TCP keepalive is on, for connections to a proxy as well."""
    keepalive_options = []
    register_socket = Response.register_socket

    def record_option(response, sock):
        keepalive_options.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        register_socket(response, sock)

    monkeypatch.setattr(Response, "register_socket", record_option)
    with ByteServer(RawResponse(BODY, headers={"content-type": "text/event-stream"})) as server:
        url, proxies = (
            ("http://models.test/", {"http": server.url}) if by_proxy else (server.url, None)
        )
        with AnthropicInferenceClient("m", api_key=KEY, api_url=url, proxies=proxies) as client:
            check_whole(client.generate("hello"))
    assert keepalive_options and all(keepalive_options)


def test_auth_hook_that_sends_a_request():
    """A request inside another request does not replace its socket: both can be cancelled."""
    stop_reasons = []
    with ByteServer(
        RawResponse(BODY, headers={"content-type": "text/event-stream"})
    ) as inner, SilentServer("headers") as silent:
        session = requests.Session()

        def authorize(request):
            stop_reasons.append(
                AnthropicInferenceClient("m", api_key=KEY, api_url=inner.url)
                .generate("which key?")
                .stop_reason
            )
            return request

        session.auth = authorize
        cancellation = Cancellation()
        client = AnthropicInferenceClient(
            "m", api_key=KEY, api_url=silent.url, session=session, timeout=Timeout(30, 30)
        )
        call = Background(client.generate, "hello", cancellation=cancellation)
        wait_for(lambda: silent.reached)
        moment = time.monotonic()
        cancellation.cancel("enough")
        with pytest.raises(Cancelled):
            call.result(5)
        assert time.monotonic() - moment < within(0.5)
        assert stop_reasons == ["tool_use"]
