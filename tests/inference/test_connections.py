"""Settings of connections: headers, bearer keys, proxies, an application's own session."""

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
    with ByteServer(RawResponse(BODY, headers={"content-type": "text/event-stream"})) as opened:
        yield opened


def test_custom_headers(server):
    """Custom headers replace headers of the same name, and no key is shown."""
    client = AnthropicInferenceClient(
        "m",
        api_key=KEY,
        api_url=server.url,
        betas=["one", "two"],
        headers={"X-Team": "blue", "Anthropic-Version": "2026-10-21"},
    )
    check_whole(client.generate("hello"))
    sent = server.requests[0].headers
    assert (sent["x-team"], sent["anthropic-version"], sent["anthropic-beta"]) == (
        "blue",
        "2026-10-21",
        "one,two",
    )
    assert sent["x-api-key"] == KEY
    assert KEY not in repr(vars(client))


def test_a_bearer_key(server, monkeypatch):
    """auth_token= is sent as a bearer key in place of x-api-key; default: $ANTHROPIC_AUTH_TOKEN."""
    AnthropicInferenceClient("m", api_url=server.url, auth_token=KEY).generate("hello")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", KEY)
    AnthropicInferenceClient("m", api_url=server.url).generate("hello")
    for sent in server.requests:
        assert sent.headers["authorization"] == "Bearer " + KEY
        assert "x-api-key" not in sent.headers


def test_no_key_at_all():
    """Without a key the error names the environment variable."""
    with pytest.raises(AuthenticationError, match="ANTHROPIC_API_KEY"):
        AnthropicInferenceClient("m")


def test_the_password_file_does_not_replace_the_key(server, monkeypatch, tmp_path):
    """A ~/.netrc with an entry for the host changes nothing."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for session in (None, requests.Session()):
        AnthropicInferenceClient("m", api_url=server.url, auth_token=KEY, session=session).generate(
            "hello"
        )
        assert server.requests[-1].headers["authorization"] == "Bearer " + KEY


@pytest.mark.parametrize("given", ["argument", "environment"])
def test_a_proxy(given, server, monkeypatch):
    """Requests go through the proxy that is given, or that of the environment."""
    proxies = {"http": server.url} if given == "argument" else None
    if given == "environment":
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
    """A proxy that cannot be reached is a ConnectionFailed, and nothing goes past it."""
    client = AnthropicInferenceClient(
        "m", api_key=KEY, api_url=server.url, proxies={"http": "http://127.0.0.1:1"}, max_retries=0
    )
    with pytest.raises(ConnectionFailed):
        client.generate("hello")
    assert server.requests == []


# A session that the application brings


def test_given_session(server):
    """The given session sends every request with its settings; it is not closed."""
    seen = []
    session = requests.Session()
    session.headers["X-App"] = "mine"
    session.hooks["response"].append(lambda response, **_: seen.append(response.status_code))
    with AnthropicInferenceClient("m", api_key=KEY, api_url=server.url, session=session) as client:
        check_whole(client.generate("hello"))
        check_whole(client.generate("hello"))
    assert server.requests[0].headers["x-app"] == "mine"
    assert seen == [200, 200]
    server.set_responses(RawResponse(b"still open", framing="length"))
    assert session.post(server.url, data=b"x", timeout=5).text == "still open"


@pytest.mark.parametrize("point", ["connect", "headers", "body"])
def test_cancelling_with_a_given_session(point):
    """A cancellation also frees a call on an ordinary session, wherever it waits."""
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
        together = threading.Barrier(20)

        def ask():
            together.wait(20)
            return [client.generate("hello").text for _ in range(5)]

        for call in [Background(ask) for _ in range(20)]:
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
    """TCP keepalive is on, to a proxy as well."""
    seen = []
    register_socket = Response.register_socket

    def noted(response, sock):
        seen.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        register_socket(response, sock)

    monkeypatch.setattr(Response, "register_socket", noted)
    with ByteServer(RawResponse(BODY, headers={"content-type": "text/event-stream"})) as server:
        url, proxies = (
            ("http://models.test/", {"http": server.url}) if by_proxy else (server.url, None)
        )
        with AnthropicInferenceClient("m", api_key=KEY, api_url=url, proxies=proxies) as client:
            check_whole(client.generate("hello"))
    assert seen and all(seen)


def test_auth_hook_that_calls_a_model():
    """A request inside another one does not take over its socket: both can be cancelled."""
    told = []
    with ByteServer(
        RawResponse(BODY, headers={"content-type": "text/event-stream"})
    ) as inner, SilentServer("headers") as silent:
        session = requests.Session()

        def authorised(request):
            told.append(
                AnthropicInferenceClient("m", api_key=KEY, api_url=inner.url)
                .generate("which key?")
                .stop_reason
            )
            return request

        session.auth = authorised
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
        assert told == ["tool_use"]
