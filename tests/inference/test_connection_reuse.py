"""Reuse of connections.

A reused connection is clean. A late cancellation affects no other request. A forked child opens its
own connections.
"""

import gzip
import os
import socket

import pytest
import requests
from urllib3.util.ssltransport import SSLTransport

from asimov_sync import (
    AnthropicInferenceClient,
    Cancellation,
    Cancelled,
    ConnectTimeout,
    IdleTimeout,
    ProviderError,
    RateLimitError,
    Timeout,
)
from asimov_sync.inference.http import connect
from asimov_sync.inference.http.errors import Target
from asimov_sync.inference.http.response import Response, SendOptions
from asimov_sync.inference.http.transport import HttpTransport
from asimov_sync.inference.request import Request
from asimov_sync.testing import count_callbacks

from ..tiers import suite
from ..waiting import Background, in_child, wait_for
from .byte_server import ByteServer, RawResponse
from .conftest import KEY
from .silent_server import SilentServer
from .test_cut_streams import BODY, check_whole

STREAM = {"content-type": "text/event-stream"}


def make_client(url, **options):
    return AnthropicInferenceClient(
        "m", api_key=KEY, api_url=url, **dict({"max_retries": 0}, **options)
    )


def test_interim_response():
    """After a status below 200 the connection is closed, because the final response may follow."""
    with ByteServer(
        RawResponse(status=103, framing="length"), RawResponse(BODY, headers=STREAM)
    ) as server:
        client = make_client(server.url)
        with pytest.raises(ProviderError):
            client.generate("hello")
        check_whole(client.generate("hello"))
        assert server.connections == 2
        client.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("path", ["direct", "proxy"])
def test_given_session_in_a_forked_child(path):
    """A forked child opens its own connections, and the parent keeps its connection."""
    with ByteServer(RawResponse(BODY, headers=STREAM)) as server:
        session = requests.Session()
        options = {"proxies": {"http": server.url}} if path == "proxy" else {}
        client = make_client(
            "http://models.test/" if path == "proxy" else server.url, session=session, **options
        )
        check_whole(client.generate("hello"))

        def use_in_child():
            check_whole(client.generate("hello"))
            session.close()

        in_child(use_in_child)
        assert server.connections == 2
        check_whole(client.generate("hello"))
        assert server.connections == 2
        session.close()


def test_late_cancellation_spares_pooled_connections():
    """urllib3 returns a connection once a compressed body is read; a later cancellation must not
    reach it.
    """
    whole = RawResponse(
        gzip.compress(BODY), headers=dict(STREAM, **{"content-encoding": "gzip"}), framing="length"
    )
    with ByteServer(
        whole, RawResponse(b"mine", framing="length")
    ) as server, requests.Session() as session:
        cancellation = Cancellation()
        with make_client(server.url, session=session).stream(
            "hello", cancellation=cancellation
        ) as stream:
            next(stream)
            cancellation.cancel()
        assert session.post(server.url, data=b"x", timeout=5).text == "mine"
        assert server.connections == 1


def test_kept_connections_lose_the_drain_timeout():
    """A reused connection has the idle time-out again, not the shorter one of a drain."""
    with ByteServer(RawResponse(BODY, headers=STREAM)) as server, requests.Session() as session:
        check_whole(
            make_client(server.url, session=session, timeout=Timeout(5, 30)).generate("hello")
        )
        manager = session.get_adapter(server.url).poolmanager
        (pool,) = [manager.pools[key] for key in manager.pools.keys()]
        (kept,) = [connection for connection in pool.pool.queue if connection is not None]
        assert kept.sock.gettimeout() == 30


@pytest.mark.parametrize("used_before", [False, True])
def test_cancelling_through_a_proxy_with_a_given_session(used_before):
    """A cancellation frees a call through a proxy on an ordinary session, before the first byte."""
    with SilentServer("headers") as server, requests.Session() as session:
        if used_before:
            session.get_adapter("http://").proxy_manager_for(server.url)
        client = make_client(
            "http://models.test/",
            session=session,
            proxies={"http": server.url},
            timeout=Timeout(30, 30),
        )
        cancellation = Cancellation()
        call = Background(client.generate, "hello", cancellation=cancellation)
        wait_for(lambda: server.reached)
        cancellation.cancel("enough")
        with pytest.raises(Cancelled):
            call.result(5)


def test_session_proxies_before_environment(monkeypatch):
    """The session's proxies have precedence over those of the environment."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with ByteServer(RawResponse(BODY, headers=STREAM)) as server, requests.Session() as session:
        session.proxies["http"] = server.url
        check_whole(make_client("http://models.test/", session=session).generate("hello"))


@pytest.mark.parametrize("seconds", [1e7, 1e20])
def test_unlimited_timeouts(seconds):
    """A time-out too long for a socket means no time-out."""
    with ByteServer(RawResponse(BODY, headers=STREAM)) as server, Cancellation(timeout=seconds):
        with make_client(server.url, timeout=Timeout(seconds, seconds, seconds)) as client:
            check_whole(client.generate("hello"))


@suite
@pytest.mark.parametrize("seconds", [0, -1])
def test_expired_timeouts(seconds):
    """A time-out of zero or less expires at once, with its own error."""
    with SilentServer("headers") as server:
        with pytest.raises(IdleTimeout):
            make_client(server.url, timeout=Timeout(5, seconds)).generate("hello")
    with SilentServer("connect") as server:
        with pytest.raises(ConnectTimeout):
            make_client(server.url, timeout=Timeout(seconds, 5)).generate("hello")


def test_an_interrupted_connect_leaves_no_socket(monkeypatch):
    """Ctrl-C during a connect closes the socket."""
    sockets = []

    class Recorded(socket.socket):
        def __init__(self, *args):
            super().__init__(*args)
            sockets.append(self)

    def interrupted():
        raise KeyboardInterrupt

    with SilentServer("connect") as server:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(connect.socket, "socket", Recorded)
            connect.connect("127.0.0.1", server.address[1], 5, interrupted)
        assert [sock.fileno() for sock in sockets] == [-1]


def test_a_signal_handler_may_cancel_anywhere():
    """A signal handler that cancels while the thread sets a socket's time-out does not deadlock."""
    cancellation = Cancellation()

    class Socket(socket.socket):
        def settimeout(self, seconds):
            cancellation.cancel("a signal")

    with make_response(cancellation) as response:
        Background(response.register_socket, Socket()).result(5)


def test_cancellation_through_tls_inside_tls():
    """For TLS inside TLS (an https proxy), a cancellation shuts the inner socket down."""
    local, remote = socket.socketpair()
    with local, remote, make_response(Cancellation()) as response:
        remote.settimeout(5)
        transport = SSLTransport.__new__(SSLTransport)
        transport.socket = local
        response.register_socket(transport)
        response.abort()
        assert remote.recv(1) == b""


def make_response(cancellation):
    return Response(
        requests.Session(),
        SendOptions(Target("anthropic", "http://models.test/", "m"), Timeout(idle=None)),
        lambda session: None,
        cancellation,
        None,
    )


def test_hook_that_raises_for_the_status():
    """A hook that raises for the status changes neither the error nor the connection's reuse."""
    rate_limited = RawResponse(
        b'{"error": {"type": "rate_limit_error", "message": "slow down"}}', status=429
    )
    session = requests.Session()
    session.hooks["response"].append(lambda response, **_: response.raise_for_status())
    with ByteServer(rate_limited) as server, session:
        for _ in range(2):
            with pytest.raises(RateLimitError, match="slow down"):
                make_client(server.url, session=session).generate("hello")
        assert server.connections == 1


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_hook_that_fails(kind):
    """An exception inside requests, Ctrl-C included, closes the connection."""
    session = requests.Session()
    sockets = []

    def fail(response, **_):
        sockets.append(response.raw.connection.sock)
        raise kind("mine")

    session.hooks["response"].append(fail)
    with ByteServer(RawResponse(BODY, headers=STREAM)) as server, session:
        with pytest.raises(kind):
            make_client(server.url, session=session).generate("hello")
        assert sockets[0].fileno() == -1


def test_interrupted_drain(monkeypatch):
    """Ctrl-C in a drain closes the connection and removes the registration for cancellation."""
    sockets, register_socket = [], Response.register_socket

    def record_socket(response, sock):
        sockets.append(sock)
        register_socket(response, sock)

    monkeypatch.setattr(Response, "register_socket", record_socket)
    cancellation = Cancellation()
    transport = HttpTransport("anthropic")
    with ByteServer(RawResponse(b"all", b"more", hold=1)) as server:
        request = Request("m", [], None, [], {})
        response = transport.post(server.url, {}, b"{}", request, cancellation, None)
        assert next(response.chunks()) == b"all"
        (sock,) = sockets
        assert sock.fileno() != -1 and count_callbacks(cancellation) == 1

        def interrupted():
            raise KeyboardInterrupt

        response.is_body_done = interrupted
        with pytest.raises(KeyboardInterrupt):
            response.close()
        assert sock.fileno() == -1 and count_callbacks(cancellation) == 0


def test_media_type_ignores_case():
    """The media type of a stream is recognized in upper case."""
    with ByteServer(
        RawResponse(BODY, headers={"content-type": "Text/Event-Stream"})
    ) as server, make_client(server.url) as client:
        check_whole(client.generate("hello"))
