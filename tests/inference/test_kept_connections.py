"""Whose a connection is: kept ones go back whole, a late cancellation reaches nobody else's, and a fork begins without any."""

import gzip
import os
import socket

import pytest
import requests

from asimov_sync import AnthropicInferenceClient, Cancellation, Cancelled, ConnectTimeout, IdleTimeout, ProviderError, Timeout
from asimov_sync.inference import dialling
from asimov_sync.inference.exchange import Exchange
from asimov_sync.inference.transport import HttpTransport

from ..waiting import Background, in_child, wait_for
from .byte_server import Answer, ByteServer
from .conftest import KEY
from .silent_server import SilentServer
from .test_cut_streams import BODY, check_whole

STREAM = {"content-type": "text/event-stream"}


def client(url, **options):
    return AnthropicInferenceClient("m", KEY, url, **dict({"max_retries": 0}, **options))


def test_an_interim_response_is_not_the_last():
    """After a status below 200 the connection is not used again: the next request would get the answer to this one."""
    with ByteServer(Answer(status=103, framing="length"), Answer(BODY, headers=STREAM)) as server:
        asking = client(server.url)
        with pytest.raises(ProviderError):
            asking.generate("hello")
        check_whole(asking.generate("hello"))
        assert server.connections == 2
        asking.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("way", ["direct", "proxy"])
def test_a_session_of_ones_own_in_a_forked_child(way):
    """The child makes connections of its own, and the parent keeps its one: no answer goes to the wrong process."""
    with ByteServer(Answer(BODY, headers=STREAM)) as server:
        session = requests.Session()
        options = {"proxies": {"http": server.url}} if way == "proxy" else {}
        asking = client("http://models.test/" if way == "proxy" else server.url, session=session, **options)
        check_whole(asking.generate("hello"))

        def use():
            check_whole(asking.generate("hello"))
            session.close()

        in_child(use)
        assert server.connections == 2
        check_whole(asking.generate("hello"))
        assert server.connections == 2
        session.close()


def test_a_late_cancellation_leaves_a_connection_that_is_back_in_the_pool():
    """urllib3 puts a connection back as soon as a compressed body is read; from then on it may be another thread's."""
    whole = Answer(gzip.compress(BODY), headers=dict(STREAM, **{"content-encoding": "gzip"}), framing="length")
    with ByteServer(whole, Answer(b"mine", framing="length")) as server, requests.Session() as session:
        cancellation = Cancellation()
        with client(server.url, session=session).stream("hello", cancellation=cancellation) as stream:
            next(stream)
            cancellation.cancel()
        assert session.post(server.url, data=b"x", timeout=5).text == "mine"
        assert server.connections == 1


def test_no_time_out_of_ours_stays_on_a_connection_of_the_applications():
    """What urllib3 sends over a kept connection is bounded by the time-out that it was left with: not by that of a drain."""
    with ByteServer(Answer(BODY, headers=STREAM)) as server, requests.Session() as session:
        check_whole(client(server.url, session=session, timeout=Timeout(5, 30)).generate("hello"))
        manager = session.get_adapter(server.url).poolmanager
        (pool,) = [manager.pools[key] for key in manager.pools.keys()]
        (kept,) = [connection for connection in pool.pool.queue if connection is not None]
        assert kept.sock.gettimeout() == 30


@pytest.mark.parametrize("used_before", [False, True])
def test_cancelling_behind_a_proxy_with_a_session_of_ones_own(used_before):
    """The connections of an ordinary session to its proxies can be given up, too, before a byte has come."""
    with SilentServer("headers") as server, requests.Session() as session:
        if used_before:
            session.get_adapter("http://").proxy_manager_for(server.url)
        asking = client("http://models.test/", session=session, proxies={"http": server.url}, timeout=Timeout(30, 30))
        cancellation = Cancellation()
        call = Background(asking.generate, "hello", cancellation=cancellation)
        wait_for(lambda: server.reached)
        cancellation.cancel("enough")
        with pytest.raises(Cancelled):
            call.result(5)


def test_the_proxies_of_a_session_come_before_the_environments(monkeypatch):
    """What the application set its session to holds; requests alone would take the environment's."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with ByteServer(Answer(BODY, headers=STREAM)) as server, requests.Session() as session:
        session.proxies["http"] = server.url
        check_whole(client("http://models.test/", session=session).generate("hello"))


@pytest.mark.parametrize("seconds", [1e7, 1e20, float("inf")])
def test_time_outs_without_an_end(seconds):
    """A time-out that no socket can be set to is none."""
    with ByteServer(Answer(BODY, headers=STREAM)) as server, Cancellation(timeout=seconds):
        with client(server.url, timeout=Timeout(seconds, seconds, seconds)) as asking:
            check_whole(asking.generate("hello"))


@pytest.mark.parametrize("seconds", [0, -1])
def test_time_outs_that_are_over(seconds):
    """A time-out of nothing has passed at once, and is told as what it is."""
    with SilentServer("headers") as server:
        with pytest.raises(IdleTimeout):
            client(server.url, timeout=Timeout(5, seconds)).generate("hello")
    with SilentServer("connect") as server:
        with pytest.raises(ConnectTimeout):
            client(server.url, timeout=Timeout(seconds, 5)).generate("hello")


def test_an_interrupted_connect_leaves_no_socket(monkeypatch):
    """Ctrl-C while a connection is made closes what was begun."""
    made = []

    class Recorded(socket.socket):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    def interrupted():
        raise KeyboardInterrupt

    with SilentServer("connect") as server:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(dialling.socket, "socket", Recorded)
            dialling.dial("127.0.0.1", server.address[1], 5, interrupted)
        assert [sock.fileno() for sock in made] == [-1]


def test_a_signal_handler_may_cancel_anywhere():
    """A cancellation that comes while the same thread sets a time-out, as a signal handler's does, is no deadlock."""
    transport = HttpTransport("anthropic", Timeout())
    cancellation = Cancellation()

    class Socket:
        def settimeout(self, seconds):
            cancellation.cancel("a signal")

    with Exchange(transport, requests.Session(), cancellation, None, None) as exchange:
        Background(exchange.on_socket, Socket()).result(5)
