"""TLS: certificates are verified, events arrive one by one, and blocked calls can be cancelled."""

import ssl
import threading
import time

import pytest
import requests
import trustme

from asimov_sync import (
    AnthropicInferenceClient,
    Cancellation,
    Cancelled,
    ConnectionFailed,
    OpenAIInferenceClient,
)
from asimov_sync.testing import ModelServer

from ..tiers import within
from ..waiting import Background, wait_for
from .conftest import KEY


@pytest.fixture
def authority(tmp_path, monkeypatch):
    """Return a certificate authority that $REQUESTS_CA_BUNDLE makes this process trust."""
    trusted = trustme.CA()
    bundle = tmp_path / "authority.pem"
    trusted.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    return trusted


def make_context(authority, host="127.0.0.1"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    return context


def test_events_arrive_one_at_a_time(authority):
    """An event is yielded before the server sends the next one."""
    gates = [threading.Event() for _ in range(50)]
    with ModelServer(
        ["one two three"], tls=make_context(authority), before_event=lambda request, n: gates[n]
    ) as server:
        client = AnthropicInferenceClient("m", api_key=KEY, api_url=server.url)
        for gate in gates[:4]:
            gate.set()
        with client.stream("hello") as stream:
            assert next(stream).text == "one "
            wait_for(lambda: server.requests[0].sent == 4)
            assert server.requests[0].sent < len(gates)
            for gate in gates:
                gate.set()
            assert "".join(stream.text_stream) == "two three"
        client.close()


def test_connection_reuse(authority):
    """Successive requests use one connection without another handshake."""
    with ModelServer(lambda body: "hello", tls=make_context(authority)) as server:
        for client in (
            AnthropicInferenceClient("m", api_key=KEY, api_url=server.url),
            OpenAIInferenceClient("m", api_key=KEY, api_url=server.chat_url),
        ):
            with client:
                assert [client.generate("hello").text for _ in range(5)] == ["hello"] * 5


def test_cancelling_in_the_body(authority):
    """Cancelling ends a call at once that waits on a TLS connection."""
    gates = [threading.Event() for _ in range(50)]
    with ModelServer(
        ["one two three"], tls=make_context(authority), before_event=lambda request, n: gates[n]
    ) as server:
        for gate in gates[:4]:
            gate.set()
        cancellation = Cancellation()
        call = Background(
            AnthropicInferenceClient("m", api_key=KEY, api_url=server.url).generate,
            "hello",
            cancellation=cancellation,
        )
        wait_for(lambda: server.requests and server.requests[0].sent == 4)
        moment = time.monotonic()
        cancellation.cancel("enough")
        with pytest.raises(Cancelled):
            call.result(5)
        assert time.monotonic() - moment < within(0.5)


@pytest.mark.parametrize("wrong", ["authority", "host"])
def test_untrusted_certificate(authority, wrong, monkeypatch):
    """A certificate of an unknown authority, or for another host, is a ConnectionFailed.

    No request is sent.
    """
    context = (
        make_context(trustme.CA())
        if wrong == "authority"
        else make_context(authority, "models.test")
    )
    with ModelServer(["hello"], api_key=KEY, tls=context) as server:
        client = AnthropicInferenceClient("m", api_key=KEY, api_url=server.url, max_retries=0)
        with pytest.raises(ConnectionFailed, match="(?i)certificate"):
            client.generate("hello")
        assert server.requests == []


def test_authorities_of_a_session(authority, tmp_path):
    """A session's certificates have precedence over $REQUESTS_CA_BUNDLE."""
    other, bundle = trustme.CA(), tmp_path / "other.pem"
    other.cert_pem.write_to_path(str(bundle))
    with ModelServer(["hello"], tls=make_context(other)) as server, requests.Session() as session:
        session.verify = str(bundle)
        assert (
            AnthropicInferenceClient("m", api_key=KEY, api_url=server.url, session=session)
            .generate("hello")
            .text
            == "hello"
        )
