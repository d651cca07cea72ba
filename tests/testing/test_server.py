"""ModelServer and ScriptedInferenceClient: answers, errors, TLS, closing and threads."""

import http.client
import json
import os
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time

import pytest
import requests
import trustme

from asimov_sync import (
    AnthropicInferenceClient,
    ConnectionFailed,
    InvalidRequestError,
    OverloadedError,
    ProviderError,
    Usage,
)
from asimov_sync.testing import (
    Failure,
    Fault,
    ModelServer,
    ScriptedInferenceClient,
    calls,
    last_text,
    tool_results,
)
from asimov_sync.testing.script import Script

from ..tiers import suite, within
from ..waiting import Background, wait_for
from .raw_http import send_request


def post(server, **body):
    return requests.post(
        server.url,
        json=dict({"model": "m", "messages": [{"role": "user", "content": "hello"}]}, **body),
    )


def test_json_reply():
    """Without "stream", the reply is the JSON body of the Messages API, with a request id."""
    with ModelServer(["hi"]) as server:
        response = post(server)
    assert response.headers["request-id"] == "req_000000"
    received = response.json()
    assert (received["type"], received["role"]) == ("message", "assistant")
    assert received["stop_reason"] == "end_turn"
    assert received["content"] == [{"type": "text", "text": "hi"}]
    assert received["usage"]["input_tokens"] > 0


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_streamed_reply(framing):
    """With "stream", the events are those of the Messages API, in order."""
    with ModelServer(["hi there"], framing=framing) as server:
        response = post(server, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert ("transfer-encoding" in response.headers) == (framing == "chunked")
    lines = response.content.decode("utf-8").splitlines()
    names = [line[len("event: ") :] for line in lines if line.startswith("event: ")]
    assert names == [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    for name, line in zip(names, (line for line in lines if line.startswith("data: "))):
        assert json.loads(line[len("data: ") :])["type"] == name


def test_function_script():
    """A function receives the body of the request, including tool results."""

    def model(body):
        result = tool_results(body)["f"]
        return f"you said {body['messages'][0]['content']} and the tool {result}"

    use = {"type": "tool_use", "id": "1", "name": "f", "input": {}}
    result = {
        "type": "tool_result",
        "tool_use_id": "1",
        "content": [{"type": "text", "text": "seven"}],
    }
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]
    with ModelServer(model) as server:
        assert (
            post(server, messages=messages).json()["content"][0]["text"]
            == "you said x and the tool seven"
        )
    assert last_text({"messages": messages}) == ""


def test_failure():
    """A Failure is an error body of the API with its status and headers."""
    with ModelServer([Failure(529, "overloaded_error", "busy", {"retry-after": "3"})]) as server:
        response = post(server)
    assert (response.status_code, response.headers["retry-after"]) == (529, "3")
    assert response.json() == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "busy"},
        "request_id": "req_000000",
    }


def test_rejected_requests():
    """Unknown paths, invalid bodies and wrong keys are rejected without using up an answer."""
    with ModelServer(["hi"], api_key="right") as server:
        assert requests.post(server.url + "/nope", json={}).status_code == 404
        assert requests.post(server.url, data=b"{").status_code == 400
        assert requests.post(server.url, json={"messages": 7}).status_code == 400
        assert post(server).status_code == 401
        right = requests.post(server.url, json={"messages": []}, headers={"x-api-key": "right"})
        assert right.status_code == 200
        assert [request.body for request in server.requests[:2]] == [{}, None]
    with pytest.raises(ValueError, match="framing"):
        ModelServer([], framing="odd")


def test_exhausted_script():
    """A request without an answer is a 500 that says so and is not retried."""
    with ModelServer([]) as server:
        response = post(server)
    assert response.status_code == 500
    assert "no answer to request 1" in response.json()["error"]["message"]
    assert response.headers["x-should-retry"] == "false"
    with pytest.raises(AssertionError, match="no answer to request 2"):
        script = Script(["one"])
        script.answer({}), script.answer({})


def test_client_disconnects():
    """While it waits before an event, the server notices that its client disconnects."""
    never = threading.Event()
    with ModelServer(
        ["hi there"], before_event=lambda request, number: never if number == 4 else None
    ) as server:
        response = requests.post(server.url, json={"messages": [], "stream": True}, stream=True)
        wait_for(lambda: server.requests[0].sent == 4)
        assert not server.requests[0].disconnected.is_set()
        response.close()
        assert server.requests[0].disconnected.wait(10)
        assert server.requests[0].finished.wait(10)


def test_close_breaks_connections():
    """close() ends the streams in progress and does not wait for clients."""
    never = threading.Event()
    server = ModelServer(["hi"], before_event=lambda request, number: never if number else None)
    response = requests.post(server.url, json={"messages": [], "stream": True}, stream=True)
    server.close()
    with pytest.raises((requests.RequestException, http.client.HTTPException)):
        response.content
    with pytest.raises(requests.ConnectionError):
        post(server)


def test_scripted_client():
    """A ScriptedInferenceClient encodes requests, decodes replies and raises failures as errors."""
    client = ScriptedInferenceClient(
        [calls(("f", {"a": 1})), Failure(400, "invalid_request_error", "no"), "fine"], max_retries=0
    )
    reply = client.generate("hello", temperature=1)
    assert (reply.stop_reason, reply.tool_calls[0].arguments) == ("tool_use", {"a": 1})
    assert client.requests[0]["temperature"] == 1
    with pytest.raises(InvalidRequestError, match="no"):
        client.generate("hello")
    assert list(client.stream("hello").text_stream) == ["fine"]
    with pytest.raises(TypeError, match="temprature"):
        client.generate("hello", temprature=1)
    with pytest.raises(AssertionError, match="no answer"):
        client.generate("hello")


def test_scripted_client_retries():
    """Transient failures are retried, as with a real provider."""
    busy = Failure(529, "overloaded_error", "busy", {"retry-after": "0"})
    assert ScriptedInferenceClient([busy, "fine"]).generate("hello").text == "fine"
    with pytest.raises(OverloadedError):
        ScriptedInferenceClient([busy] * 9).generate("hello")
    with pytest.raises(ProviderError):
        ScriptedInferenceClient([Failure(500)], max_retries=0).generate("hello")


@suite
def test_server_imports():
    """The server imports no HTTP library."""
    program = (
        "import sys, asimov_sync.testing.server\n"
        "assert not {'requests', 'urllib3', 'flask'} & set(sys.modules)"
    )
    subprocess.check_call([sys.executable, "-c", program])


# The server as a whole


@suite
def test_usage_matches_client():
    """The usage of server and client are equal after each reply. Failed answers do not count."""
    answers = [
        "one",
        Failure(529, headers={"retry-after": "0"}),
        "two",
        calls(("f", {})),
        Fault("three", stall="headers"),
    ]
    with ModelServer(answers) as server:
        with AnthropicInferenceClient(model="m", api_key="k", api_url=server.url) as client:
            for number in range(3):
                client.generate(f"hello {number}")
                assert server.usage == client.usage
                assert client.usage.requests == number + 1
            stream = Background(client.stream, "hello")
            wait_for(lambda: server.requests[-1].faults == ["stall=headers"])
            assert [request.whole for request in server.requests] == [True, True, True, True, False]
            assert [request.reply is None for request in server.requests] == [
                False,
                True,
                False,
                False,
                False,
            ]
            server.close()
            with pytest.raises(ConnectionFailed):
                stream.result()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Return a server's SSLContext and the file of the authority that signed its certificate."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    file = tmp_path_factory.mktemp("tls") / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    return context, str(file)


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_tls(certificates, framing):
    """With tls, the server speaks HTTPS, streams, and notices disconnects and cuts."""
    context, authority = certificates
    answers = ["hi", "hi", Fault("hi", stall=2), Fault("hi", cut_at=30), "hi"]
    with ModelServer(answers, tls=context, framing=framing) as server:
        assert server.url.startswith("https://127.0.0.1:")
        body = {"messages": [], "stream": True}
        for request in ({"messages": []}, body):
            assert b"hi" in requests.post(server.url, json=request, verify=authority).content
        stalled = requests.post(server.url, json=body, verify=authority, stream=True)
        wait_for(lambda: server.requests[2].sent == 2)
        assert not server.requests[2].disconnected.is_set()
        stalled.close()
        assert server.requests[2].disconnected.wait(20)
        # Only a regular end sends close_notify, so that a client can detect a cut stream.
        assert tls_ending(server, authority, body) == "cut"
        assert tls_ending(server, authority, body) == "close_notify"
        with pytest.raises(requests.exceptions.SSLError):
            requests.post(server.url, json=body)
        with pytest.raises(requests.ConnectionError):
            requests.post(server.url.replace("https", "http"), json=body)


def tls_ending(server, authority, body):
    """Return "close_notify" or "cut": how a TLS connection ends."""
    context = ssl.create_default_context(cafile=authority)
    # Some Pythons set the option but do not name it.
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0x80)
    raw = send_request(server, "/v1/messages", None, send=False)
    with context.wrap_socket(
        raw, server_hostname="127.0.0.1", suppress_ragged_eofs=False
    ) as connection:
        data = json.dumps(body).encode("utf-8")
        head = (
            "POST /v1/messages HTTP/1.1\r\nconnection: close\r\n"
            f"content-length: {len(data)}\r\n\r\n"
        )
        connection.sendall(head.encode("latin-1") + data)
        try:
            while connection.recv(65536):
                pass
        except ssl.SSLError as broken:  # Python 3.7 has no name for OpenSSL 3's error
            assert "eof" in str(broken).lower()
            return "cut"
        return "close_notify"


def count_sockets():
    """Return the number of open sockets of this process."""
    found = 0
    for name in os.listdir("/dev/fd"):
        try:
            found += stat.S_ISSOCK(os.fstat(int(name)).st_mode)
        except OSError:
            pass  # the descriptor of the listing itself
    return found


def server_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("asimov-serve")]


def test_close_leaves_nothing():
    """Closing a server with 100 connections is fast and leaves no thread and no socket."""
    wait_for(lambda: not server_threads())
    before = count_sockets()
    server = ModelServer(
        lambda body: Fault("hi", stall=body["messages"][0]) if body["messages"] else "hi"
    )
    pending = [
        {"messages": []},
        {"messages": ["headers"], "stream": True},
        {"messages": [3], "stream": True},
    ]
    connections = [
        send_request(server, "/v1/messages", pending[number % 3], keep=True) for number in range(99)
    ]
    connections.append(send_request(server, "/v1/messages", None, send=False))
    assert len(connections) == 100
    wait_for(
        lambda: (
            len(server.requests) == 99 and all(one.faults or one.whole for one in server.requests)
        )
    )
    wait_for(lambda: len(server_threads()) == 101)
    assert sorted(set(map(str, (one.faults for one in server.requests)))) == [
        "['stall=3']",
        "['stall=headers']",
        "[]",
    ]
    assert server.usage.requests == 33
    start = time.monotonic()
    server.close()
    assert time.monotonic() - start < within(1)
    assert server_threads() == []
    assert count_sockets() == before + 100
    for connection in connections:
        connection.settimeout(20)
        while connection.recv(65536):
            pass
        connection.close()
    server.close()  # closing again does nothing


@suite
def test_close_with_busy_script():
    """A thread inside the script's function is left running, and ends when that returns."""
    busy, over = threading.Event(), threading.Event()
    server = ModelServer(lambda body: busy.set() or over.wait(20) and "hi")
    with send_request(server, "/v1/messages", {"messages": []}):
        assert busy.wait(20)
        start = time.monotonic()
        server.close()
        assert time.monotonic() - start < within(3)
        over.set()
        wait_for(lambda: not server_threads())


def test_concurrent_clients():
    """100 concurrent clients each receive their own answer."""
    with ModelServer(last_text) as server:
        with requests.Session() as session:
            session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=100))

            def one(number):
                body = {"messages": [{"role": "user", "content": str(number)}]}
                return session.post(server.url, json=body, timeout=20).json()["content"][0]["text"]

            asked = [Background(one, number) for number in range(100)]
            assert [one.result() for one in asked] == list(map(str, range(100)))
        assert server.usage.requests == 100
        assert server.usage == sum((request.reply.usage for request in server.requests), Usage())


def test_invalid_http():
    """Invalid HTTP ends the connection, and the server continues."""
    with ModelServer(["hi"]) as server:
        port = int(server.bedrock_url.rpartition(":")[2])
        for garbage in (
            b"\0\1\2\r\n\r\n",
            b"POST /v1/messages HTTP/1.1\r\ncontent-length: many\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                connection.sendall(garbage)
                while connection.recv(65536):
                    pass
        assert post(server).ok
