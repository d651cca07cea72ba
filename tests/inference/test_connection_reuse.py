"""Reuse of connections: a kept one is clean, a late cancellation reaches no other request, and a
forked child starts without any.
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

from ..tiers import suite
from ..waiting import Background, in_child, wait_for
from .byte_server import ByteServer, RawResponse
from .conftest import KEY
from .silent_server import SilentServer
from .test_cut_streams import BODY, check_whole

STREAM = {"content-type": "text/event-stream"}


def client(url, **options):
    return AnthropicInferenceClient(
        "m", api_key=KEY, api_url=url, **dict({"max_retries": 0}, **options)
    )


def test_an_interim_response_is_not_the_last():
    """After a status below 200 the connection is closed: the final response is still to come."""
    with ByteServer(
        RawResponse(status=103, framing="length"), RawResponse(BODY, headers=STREAM)
    ) as server:
        asking = client(server.url)
        with pytest.raises(ProviderError):
            asking.generate("hello")
        check_whole(asking.generate("hello"))
        assert server.connections == 2
        asking.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("way", ["direct", "proxy"])
def test_given_session_in_a_forked_child(way):
    """A forked child opens its own connections, and the parent keeps its one."""
    with ByteServer(RawResponse(BODY, headers=STREAM)) as server:
        session = requests.Session()
        options = {"proxies": {"http": server.url}} if way == "proxy" else {}
        asking = client(
            "http://models.test/" if way == "proxy" else server.url, session=session, **options
        )
        check_whole(asking.generate("hello"))

        def use():
            check_whole(asking.generate("hello"))
            session.close()

        in_child(use)
        assert server.connections == 2
        check_whole(asking.generate("hello"))
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
        with client(server.url, session=session).stream(
            "hello", cancellation=cancellation
        ) as stream:
            next(stream)
            cancellation.cancel()
        assert session.post(server.url, data=b"x", timeout=5).text == "mine"
        assert server.connections == 1


def test_kept_connections_lose_the_drain_timeout():
    """A kept connection has the idle time-out again, not that of the drain."""
    with ByteServer(RawResponse(BODY, headers=STREAM)) as server, requests.Session() as session:
        check_whole(client(server.url, session=session, timeout=Timeout(5, 30)).generate("hello"))
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
        asking = client(
            "http://models.test/",
            session=session,
            proxies={"http": server.url},
            timeout=Timeout(30, 30),
        )
        cancellation = Cancellation()
        call = Background(asking.generate, "hello", cancellation=cancellation)
        wait_for(lambda: server.reached)
        cancellation.cancel("enough")
        with pytest.raises(Cancelled):
            call.result(5)


def test_session_proxies_before_environment(monkeypatch):
    """The session's proxies go before those of the environment."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with ByteServer(RawResponse(BODY, headers=STREAM)) as server, requests.Session() as session:
        session.proxies["http"] = server.url
        check_whole(client("http://models.test/", session=session).generate("hello"))


@pytest.mark.parametrize("seconds", [1e7, 1e20, float("inf")])
def test_unlimited_timeouts(seconds):
    """A time-out too long for a socket means no time-out."""
    with ByteServer(RawResponse(BODY, headers=STREAM)) as server, Cancellation(timeout=seconds):
        with client(server.url, timeout=Timeout(seconds, seconds, seconds)) as asking:
            check_whole(asking.generate("hello"))


@suite
@pytest.mark.parametrize("seconds", [0, -1])
def test_expired_timeouts(seconds):
    """A time-out of zero or less expires at once, with its own error."""
    with SilentServer("headers") as server:
        with pytest.raises(IdleTimeout):
            client(server.url, timeout=Timeout(5, seconds)).generate("hello")
    with SilentServer("connect") as server:
        with pytest.raises(ConnectTimeout):
            client(server.url, timeout=Timeout(seconds, 5)).generate("hello")


def test_an_interrupted_connect_leaves_no_socket(monkeypatch):
    """Ctrl-C during a connect closes the socket."""
    made = []

    class Recorded(socket.socket):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    def interrupted():
        raise KeyboardInterrupt

    with SilentServer("connect") as server:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(connect.socket, "socket", Recorded)
            connect.connect("127.0.0.1", server.address[1], 5, interrupted)
        assert [sock.fileno() for sock in made] == [-1]


def test_a_signal_handler_may_cancel_anywhere():
    """A cancellation by a signal handler, while the thread sets a time-out, does not deadlock."""
    cancellation = Cancellation()

    class Socket(socket.socket):
        def settimeout(self, seconds):
            cancellation.cancel("a signal")

    with make_response(cancellation) as made:
        Background(made.register_socket, Socket()).result(5)


def test_a_cancellation_through_tls_inside_of_tls():
    """TLS inside TLS (an https proxy) is not a socket: the socket inside it is shut down."""
    ours, theirs = socket.socketpair()
    with ours, theirs, make_response(Cancellation()) as made:
        theirs.settimeout(5)
        transport = SSLTransport.__new__(SSLTransport)
        transport.socket = ours
        made.register_socket(transport)
        made.abort()
        assert theirs.recv(1) == b""


def make_response(cancellation):
    return Response(
        requests.Session(),
        SendOptions(Target("anthropic", "http://models.test/", "m"), Timeout(idle=None)),
        lambda session: None,
        cancellation,
        None,
    )


def test_a_hook_that_raises_for_the_status():
    """A hook that raises for the status changes neither the error nor the connection's reuse."""
    refused = RawResponse(
        b'{"error": {"type": "rate_limit_error", "message": "slow down"}}', status=429
    )
    session = requests.Session()
    session.hooks["response"].append(lambda response, **_: response.raise_for_status())
    with ByteServer(refused) as server, session:
        for _ in range(2):
            with pytest.raises(RateLimitError, match="slow down"):
                client(server.url, session=session).generate("hello")
        assert server.connections == 1


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_a_hook_that_fails(kind):
    """An exception inside requests, Ctrl-C included, closes the connection."""
    session = requests.Session()
    sockets = []

    def fail(response, **_):
        sockets.append(response.raw._connection.sock)
        raise kind("mine")

    session.hooks["response"].append(fail)
    with ByteServer(RawResponse(BODY, headers=STREAM)) as server, session:
        with pytest.raises(kind):
            client(server.url, session=session).generate("hello")
        assert sockets[0].fileno() == -1


def test_interrupted_drain():
    """Ctrl-C in a drain closes the connection and removes the registration for cancellation."""
    cancellation = Cancellation()
    transport = HttpTransport("anthropic")
    with ByteServer(RawResponse(b"all", b"more", hold=1)) as server:
        request = Request("m", [], None, [], {})
        response = transport.post(server.url, {}, b"{}", request, cancellation, None)
        assert next(response.chunks()) == b"all"
        sock = response._socket

        def interrupted():
            raise KeyboardInterrupt

        response.is_body_done = interrupted
        with pytest.raises(KeyboardInterrupt):
            response.close()
        assert sock.fileno() == -1
        cancellation.cancel()  # reaches nobody


def test_the_type_of_a_stream_in_other_letters():
    """A media type is the same in upper case."""
    with ByteServer(
        RawResponse(BODY, headers={"content-type": "Text/Event-Stream"})
    ) as server, client(server.url) as asking:
        check_whole(asking.generate("hello"))
