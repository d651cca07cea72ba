"""Cancellations and time-outs free a waiting caller in time, wherever it waits.

The server keeps its sockets open until after the assertion, so that it does not free the caller.
"""

import json
import socket
import threading
import time

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

FREED = within(0.5)
"""Seconds within which a caller is to be free."""


CHUNK = {"id": "c", "choices": [{"index": 0, "delta": {"content": "half"}, "finish_reason": None}]}
SAID = {
    "anthropic": (EVENTS, "text/event-stream"),
    "openai": (f"data: {json.dumps(CHUNK)}\n\n".encode(), "text/event-stream"),
    "bedrock": (b"\x00\x00", "application/vnd.amazon.eventstream"),  # the beginning of a frame
}
"""The bytes that each wire's server sends before it stops in the body."""

WIRES = sorted(SAID)


def silent(point, wire="anthropic"):
    return SilentServer(point, *SAID[wire])


def client(server, wire="anthropic", **timeout):
    limits = dict({"connect": 30.0, "idle": 30.0}, **timeout)
    options = {"timeout": Timeout(**limits), "max_retries": 0}
    if wire == "openai":
        return OpenAIInferenceClient("m", api_key=KEY, api_url=server.url, **options)
    if wire == "bedrock":
        made = BedrockInferenceClient(
            "m", "us-east-1", api_key=KEY, endpoint_url=server.url.rstrip("/"), **options
        )
        made._runtime.client()  # boto3 takes its time to be imported and to read its data, once
        return made
    return AnthropicInferenceClient("m", api_key=KEY, api_url=server.url, **options)


@pytest.mark.parametrize("way", ["generate", "stream"])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("wire", WIRES)
def test_cancelling_frees(wire, point, way):
    """A cancellation from another thread frees the caller within half a second."""
    with silent(point, wire) as server:
        cancellation = Cancellation()
        asking = client(server, wire)

        def ask():
            if way == "generate":
                return asking.generate("hello", cancellation=cancellation)
            return list(asking.stream("hello", cancellation=cancellation))

        call = Background(ask)
        if point == "connect":
            wait_for(lambda: in_connect(server), "the client's connect")
        else:
            wait_for(lambda: server.reached, "the server's silence")
        moment = time.monotonic()
        cancellation.cancel("enough")
        with pytest.raises(Cancelled, match="enough"):
            call.result(5)
        assert time.monotonic() - moment < FREED


def in_connect(server):
    """Whether the kernel lists a socket that is connecting to the server's port."""
    wanted = f":{server.address[1]:04X}"
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    # 02 is SYN_SENT; one is the server's own, which made sure that its queue is full.
    return sum(row[2].endswith(wanted) and row[3] == "02" for row in rows) >= 2


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("wire", WIRES)
def test_the_total_time_frees(wire, point):
    """timeout.total ends the call on time."""
    with silent(point, wire) as server:
        asking = client(server, wire, total=LIMIT)
        start = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            asking.generate("hello")
        assert LIMIT <= time.monotonic() - start < LIMIT + FREED


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("wire", WIRES)
def test_a_cancellation_with_a_deadline_frees(wire, point):
    """The deadline of the surrounding cancellation ends the call on time."""
    with silent(point, wire) as server:
        asking = client(server, wire)
        start = time.monotonic()
        with pytest.raises(Cancelled), Cancellation(timeout=LIMIT):
            asking.generate("hello")
        assert LIMIT <= time.monotonic() - start < LIMIT + FREED


@pytest.mark.parametrize("point", ["connect", "handshake"])
@pytest.mark.parametrize("wire", WIRES)
def test_no_connection_in_time(wire, point):
    """timeout.connect covers the TCP connection and the TLS handshake, each with its own error."""
    with silent(point, wire) as server:
        asking = client(server, wire, connect=LIMIT)
        start = time.monotonic()
        with pytest.raises(ConnectTimeout):
            asking.generate("hello")
        assert LIMIT <= time.monotonic() - start < LIMIT + FREED


@pytest.mark.parametrize("point", ["headers", "body"])
@pytest.mark.parametrize("wire", WIRES)
def test_silence(wire, point):
    """timeout.idle ends a wait without a byte, before the headers and in the body."""
    with silent(point, wire) as server:
        asking = client(server, wire, idle=LIMIT)
        with pytest.raises(IdleTimeout):
            list(asking.stream("hello"))
        assert time.monotonic() - server.reached[0] < LIMIT + FREED


def test_slow_resolver(monkeypatch):
    """The resolver has no time-out; a cancellation and timeout.connect free the caller anyway."""
    asked, answer = threading.Event(), threading.Event()
    real = socket.getaddrinfo

    def slow(host, port, *args, **kwargs):
        if host == "slow.test":
            if socket.AI_NUMERICHOST in args:
                raise socket.gaierror("not a number")
            asked.set()
            answer.wait(20)
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(connect.socket, "getaddrinfo", slow)
    asking = AnthropicInferenceClient("m", api_key=KEY, api_url="http://slow.test/", max_retries=0)
    try:
        cancellation = Cancellation()
        call = Background(asking.generate, "hello", cancellation=cancellation)
        assert asked.wait(5)
        moment = time.monotonic()
        cancellation.cancel("enough")
        with pytest.raises(Cancelled):
            call.result(5)
        assert time.monotonic() - moment < FREED
        hurried = asking.with_options(timeout=Timeout(connect=0.2))
        moment = time.monotonic()
        with pytest.raises(ConnectTimeout):
            hurried.generate("hello")
        assert time.monotonic() - moment < 0.2 + FREED
    finally:
        answer.set()


def test_each_address_gets_its_share(monkeypatch):
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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/"
    for url in (address, "http://no-such-host.invalid/", f"http://{'x' * 70}.test/"):
        with pytest.raises(ConnectionFailed) as caught:
            AnthropicInferenceClient("m", api_key=KEY, api_url=url, max_retries=0).generate("hello")
        assert not isinstance(caught.value, TimeoutError), url
