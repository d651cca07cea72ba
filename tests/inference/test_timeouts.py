"""Cancellations and time-outs end a blocked call in time, at every point where it can block.

The server keeps its sockets open until after the assertion, so that it does not end the call.
"""

import json
import socket
import threading
import time

import boto3
import pytest

from asimov_sync import (
    AnthropicInferenceClient,
    BedrockInferenceClient,
    Cancellation,
    Cancelled,
    ConnectionFailed,
    ConnectTimeout,
    DeadlineExceeded,
    IdleTimeout,
    OpenAIInferenceClient,
    Timeout,
)
from asimov_sync.inference.http import connect

from ..tiers import by_tier, suite, within
from ..waiting import Background, wait_for
from .conftest import KEY
from .silent_server import EVENTS, POINTS, SilentServer

pytestmark = suite

LIMIT = by_tier(0.2, soak=0.4)
"""Seconds of the time-outs and deadlines in these tests."""

MAX_DELAY = within(0.5)
"""Seconds within which a blocked call must end."""


CHUNK = {"id": "c", "choices": [{"index": 0, "delta": {"content": "half"}, "finish_reason": None}]}
SENT = {
    "anthropic": (EVENTS, "text/event-stream"),
    "openai": (f"data: {json.dumps(CHUNK)}\n\n".encode(), "text/event-stream"),
    "bedrock": (b"\x00\x00", "application/vnd.amazon.eventstream"),  # the beginning of a frame
}
"""The bytes that each wire's server sends before it stops responding in the body."""

WIRES = sorted(SENT)

SESSION = boto3.Session(region_name="us-east-1")
SESSION.client("bedrock-runtime")  # loads Bedrock's description before a test measures time


def silent(point, wire="anthropic"):
    return SilentServer(point, *SENT[wire])


def make_client(server, wire="anthropic", **timeout):
    limits = dict({"connect": 30.0, "idle": 30.0}, **timeout)
    options = {"timeout": Timeout(**limits), "max_retries": 0}
    if wire == "openai":
        return OpenAIInferenceClient("m", api_key=KEY, api_url=server.url, **options)
    if wire == "bedrock":
        return BedrockInferenceClient(
            "m", session=SESSION, api_key=KEY, endpoint_url=server.url.rstrip("/"), **options
        )
    return AnthropicInferenceClient("m", api_key=KEY, api_url=server.url, **options)


@pytest.mark.parametrize("way", ["generate", "stream"])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("wire", WIRES)
def test_cancelling_a_blocked_call(wire, point, way):
    """A cancellation from another thread ends a blocked call within half a second."""
    with silent(point, wire) as server:
        cancellation = Cancellation()
        client = make_client(server, wire)

        def send():
            if way == "generate":
                return client.generate("hello", cancellation=cancellation)
            return list(client.stream("hello", cancellation=cancellation))

        call = Background(send)
        if point == "connect":
            wait_for(lambda: in_connect(server), "the client's connect")
        else:
            wait_for(lambda: server.reached, "the server's silence")
        moment = time.monotonic()
        cancellation.cancel("enough")
        with pytest.raises(Cancelled, match="enough"):
            call.result(5)
        assert time.monotonic() - moment < MAX_DELAY


def in_connect(server):
    """Return whether the kernel lists a client socket that is connecting to the server's port."""
    address = f":{server.address[1]:04X}"
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    # 02 is SYN_SENT. One such socket belongs to the server: it filled the backlog.
    return sum(row[2].endswith(address) and row[3] == "02" for row in rows) >= 2


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("wire", WIRES)
def test_total_timeout(wire, point):
    """timeout.total ends the call on time."""
    with silent(point, wire) as server:
        client = make_client(server, wire, total=LIMIT)
        start = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.generate("hello")
        assert LIMIT <= time.monotonic() - start < LIMIT + MAX_DELAY


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("wire", WIRES)
def test_deadline_of_a_cancellation(wire, point):
    """The deadline of the surrounding cancellation ends the call on time."""
    with silent(point, wire) as server:
        client = make_client(server, wire)
        start = time.monotonic()
        with pytest.raises(Cancelled), Cancellation(timeout=LIMIT):
            client.generate("hello")
        assert LIMIT <= time.monotonic() - start < LIMIT + MAX_DELAY


@pytest.mark.parametrize("point", ["connect", "handshake"])
@pytest.mark.parametrize("wire", WIRES)
def test_connect_timeout(wire, point):
    """timeout.connect covers the TCP connection and the TLS handshake, each with its own error."""
    with silent(point, wire) as server:
        client = make_client(server, wire, connect=LIMIT)
        start = time.monotonic()
        with pytest.raises(ConnectTimeout):
            client.generate("hello")
        assert LIMIT <= time.monotonic() - start < LIMIT + MAX_DELAY


@pytest.mark.parametrize("point", ["headers", "body"])
@pytest.mark.parametrize("wire", WIRES)
def test_idle_timeout(wire, point):
    """timeout.idle limits each wait for a byte, before the headers and in the body."""
    with silent(point, wire) as server:
        client = make_client(server, wire, idle=LIMIT)
        with pytest.raises(IdleTimeout):
            list(client.stream("hello"))
        assert time.monotonic() - server.reached[0] < LIMIT + MAX_DELAY


def test_slow_resolver(monkeypatch):
    """A cancellation and timeout.connect also end a call that waits for the resolver."""
    called, release = threading.Event(), threading.Event()
    getaddrinfo = socket.getaddrinfo

    def slow_getaddrinfo(host, port, *args, **kwargs):
        if host == "slow.test":
            if socket.AI_NUMERICHOST in args:
                raise socket.gaierror("not a number")
            called.set()
            release.wait(20)
        return getaddrinfo(host, port, *args, **kwargs)

    monkeypatch.setattr(connect.socket, "getaddrinfo", slow_getaddrinfo)
    client = AnthropicInferenceClient("m", api_key=KEY, api_url="http://slow.test/", max_retries=0)
    try:
        cancellation = Cancellation()
        call = Background(client.generate, "hello", cancellation=cancellation)
        assert called.wait(5)
        moment = time.monotonic()
        cancellation.cancel("enough")
        with pytest.raises(Cancelled):
            call.result(5)
        assert time.monotonic() - moment < MAX_DELAY
        impatient = client.with_options(timeout=Timeout(connect=0.2))
        moment = time.monotonic()
        with pytest.raises(ConnectTimeout):
            impatient.generate("hello")
        assert time.monotonic() - moment < 0.2 + MAX_DELAY
    finally:
        release.set()


def test_second_address(monkeypatch):
    """A first address that does not answer leaves time for the second."""
    with SilentServer("connect") as silent, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        addresses = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", silent.address),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", listener.getsockname()),
        ]
        monkeypatch.setattr(connect.socket, "getaddrinfo", lambda *args: addresses)
        start = time.monotonic()
        with connect.connect("two.test", 1, 1.0, lambda: False) as sock:
            assert sock.getpeername() == listener.getsockname()
        assert time.monotonic() - start < within(0.9)


def test_a_refused_connection_and_an_unknown_name():
    """A refused connection or an unknown name is a ConnectionFailed, not a time-out."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/"
    for url in (address, "http://no-such-host.invalid/", f"http://{'x' * 70}.test/"):
        with pytest.raises(ConnectionFailed) as caught:
            AnthropicInferenceClient("m", api_key=KEY, api_url=url, max_retries=0).generate("hello")
        assert not isinstance(caught.value, TimeoutError), url
