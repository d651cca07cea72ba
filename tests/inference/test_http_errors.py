"""Errors of connections name the address and the model, and contain no secret."""

import socket

import pytest

from asimov_sync import (
    AnthropicInferenceClient,
    BedrockInferenceClient,
    ConnectionFailed,
    ConnectTimeout,
    IdleTimeout,
    NotFoundError,
    OpenAIInferenceClient,
    StreamInterrupted,
    Timeout,
)
from asimov_sync.inference.http import connect
from asimov_sync.testing import Failure, Fault, ModelServer

from ..tiers import suite
from ..waiting import Background
from .conftest import KEY
from .silent_server import SilentServer

SECRETS = "key=secret-query#secret-fragment"


def make_client(url, **options):
    options.setdefault("max_retries", 0)
    return AnthropicInferenceClient("claude-test", api_key=KEY, api_url=url, **options)


def error_text(kind, client):
    """Return the text of the error of a request.

    Asserts that the error is of this class, and contains no secret.
    """
    with pytest.raises(kind) as caught:
        Background(client.generate, "hello").result()
    texts, link = [], caught.value
    while link is not None:
        texts.append(f"{link!s} {link!r} {link.args}")
        link = link.__cause__ or link.__context__
    assert not any(secret in text for text in texts for secret in ("secret", KEY))
    return str(caught.value)


@pytest.fixture
def closed_port():
    """Return a port of this machine that refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_refused_connection(closed_port):
    """The text names the model and the address, without user, password, query and fragment."""
    url = f"http://user:secret-word@127.0.0.1:{closed_port}/v1/messages?{SECRETS}"
    assert error_text(ConnectionFailed, make_client(url)).startswith(
        f"the connection to http://127.0.0.1:{closed_port}/v1/messages for model claude-test "
        "failed: ConnectionRefusedError: "
    )


def test_unknown_host(monkeypatch):
    """The text names the host, or that of the proxy."""

    def no_such_host(host, port, family=0, kind=0, protocol=0, flags=0):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(connect.socket, "getaddrinfo", no_such_host)
    text = error_text(ConnectionFailed, make_client("http://nohost.test/v1/messages"))
    assert "the connection to http://nohost.test/v1/messages for model claude-test failed" in text
    assert "Name or service not known: 'nohost.test'" in text
    proxied = make_client("http://models.test/v1/messages", proxies={"http": "http://proxy.test:1"})
    assert "Name or service not known: 'proxy.test'" in error_text(ConnectionFailed, proxied)


def test_refused_by_the_proxy(closed_port):
    """The text names the model's address and that of the proxy."""
    proxies = {"http": f"http://user:secret-word@127.0.0.1:{closed_port}"}
    text = error_text(
        ConnectionFailed, make_client("http://models.test/v1/messages", proxies=proxies)
    )
    assert "the connection to http://models.test/v1/messages for model claude-test failed" in text
    assert text.endswith(f"Connection refused: '127.0.0.1:{closed_port}'")


@suite
@pytest.mark.parametrize(
    "point, kind, timeout, text",
    [
        ("connect", ConnectTimeout, Timeout(0.05, 20), "no connection to {} within"),
        ("handshake", ConnectTimeout, Timeout(0.05, 20), "no connection to {} within"),
        ("headers", IdleTimeout, Timeout(20, 0.05), "not a byte from {} within"),
        ("body", IdleTimeout, Timeout(20, 0.05), "not a byte from {} within"),
    ],
    ids=["connect", "handshake", "headers", "body"],
)
def test_timeouts(point, kind, timeout, text):
    """The time-outs name the address and the model."""
    with SilentServer(point) as server:
        client = make_client(f"{server.url}v1/messages?{SECRETS}", timeout=timeout)
        target = f"{server.url}v1/messages for model claude-test"
        assert text.format(target) in error_text(kind, client)


@pytest.mark.parametrize("wire", ["anthropic", "bedrock", "openai"])
def test_every_client(wire, closed_port):
    """All clients name the address and the model."""
    url = f"http://127.0.0.1:{closed_port}"
    client = {
        "anthropic": lambda: make_client(url),
        "bedrock": lambda: BedrockInferenceClient(
            "claude-test", region_name="us-east-1", api_key=KEY, endpoint_url=url, max_retries=0
        ),
        "openai": lambda: OpenAIInferenceClient("claude-test", api_url=url, max_retries=0),
    }[wire]()
    text = error_text(ConnectionFailed, client)
    assert f"the connection to {url}" in text and "for model claude-test failed" in text


def test_broken_stream():
    """The error of a broken stream names the address and the model."""
    with ModelServer([Fault("one two three", cut_at=500, reset=True)]) as server:
        with pytest.raises(StreamInterrupted, match="for model claude-test failed"):
            list(make_client(server.url).stream("hello"))


@pytest.mark.parametrize(
    "url",
    [
        f"api.anthropic.com/v1/messages?{SECRETS}",
        f"localhost:8000/v1/messages?{SECRETS}",
        f"ftp://models.test/?{SECRETS}",
        f"http:///v1/messages?{SECRETS}",
        f"http://[::1?{SECRETS}",
        f"http://models.test:port/?{SECRETS}",
        f"//user:secret-word@models.test/?{SECRETS}",
        "",
    ],
)
def test_invalid_address(url):
    """The constructor raises ValueError without the password and the query."""
    for make in (
        lambda: make_client(url),
        lambda: OpenAIInferenceClient("m", api_url=url),
        lambda: BedrockInferenceClient("m", api_key=KEY, endpoint_url=url),
    ):
        with pytest.raises(ValueError, match="(api|endpoint)_url must be a whole addr") as caught:
            make()
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("wire, path", [("url", "/messages"), ("chat_url", "/chat/completions")])
def test_address_without_its_path(wire, path):
    """A 404 mentions the endpoint's path only if the address lacks it."""
    with ModelServer(lambda body: Failure(404)) as server:
        address = getattr(server, wire)
        options = {"model": "m", "api_key": KEY, "max_retries": 0}
        make = AnthropicInferenceClient if wire == "url" else OpenAIInferenceClient
        for url in (address.rpartition("/v1/")[0], address + "s"):
            with pytest.raises(NotFoundError, match=f"usually ends with {path}"):
                make(api_url=url, **options).generate("hello")
        with pytest.raises(NotFoundError) as caught:
            make(api_url=address, **options).generate("hello")
        assert "usually ends" not in str(caught.value)
