"""Closing a client: later calls are refused, and no connection remains open."""

import socket
import threading

import pytest

from asimov_sync import AnthropicInferenceClient, ClosedError, OpenAIInferenceClient, tool
from asimov_sync.aio import to_async
from asimov_sync.testing import ModelServer, ScriptedInferenceClient, calls

from ..aio.coroutines import async_test
from ..waiting import Background
from .conftest import KEY

CALLS = {
    "generate": lambda client: client.generate("hello"),
    "stream": lambda client: client.stream("hello"),
    "run_tools": lambda client: client.run_tools("hello", []),
    "stream_tools": lambda client: client.stream_tools("hello", []),
    "count_tokens": lambda client: client.count_tokens("hello"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_closed_client(call):
    """Every call raises ClosedError and sends nothing; copies made before and after do the same."""
    with ModelServer(lambda body: "hi") as server:
        for make, url in (
            (AnthropicInferenceClient, server.url),
            (OpenAIInferenceClient, server.chat_url),
        ):
            client = make("m", api_key=KEY, api_url=url)
            copy = client.with_options(temperature=0)
            client.close()
            client.close()
            for closed in (client, copy, client.with_options(timeout=5)):
                with pytest.raises(ClosedError, match="of m> was closed: make a new client"):
                    call(closed)
        assert server.requests == []


def test_closing_a_copy():
    """Closing a copy closes neither the copy nor its client."""
    client = ScriptedInferenceClient(["one", "two"])
    with client.with_options(temperature=0) as copy:
        pass
    assert (copy.generate("x").text, client.generate("x").text) == ("one", "two")


def test_request_in_progress():
    """A request in progress ends normally; its connection is then closed."""
    received, closed = threading.Event(), threading.Event()
    choice = b'{"message": {"content": "hi"}, "finish_reason": "stop"}'
    body = b'{"object": "chat.completion", "choices": [%s]}' % choice
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"

    def serve(listener):
        """Answer one request after the client was closed. Return the bytes that follow it."""
        connection, _ = listener.accept()
        connection.settimeout(20)
        with connection:
            request = b""
            while not request.endswith(b"}"):
                request += connection.recv(65536)
            received.set()
            assert closed.wait(20)
            connection.sendall(head % len(body) + body)
            return connection.recv(65536)

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        server_thread = Background(serve, listener)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/chat/completions"
        client = OpenAIInferenceClient("m", api_key=KEY, api_url=url, max_retries=0)
        reply = Background(client.generate, "hello")
        assert received.wait(20)
        client.close()
        closed.set()
        assert reply.result().text == "hi"
        assert server_thread.result() == b""


def test_closing_during_a_tool_loop():
    """If another thread closes the client, the loop's next request raises ClosedError."""
    started, closed = threading.Event(), threading.Event()

    @tool
    def hold() -> str:
        """Wait until the client is closed."""
        started.set()
        assert closed.wait(20)
        return "held"

    client = ScriptedInferenceClient([calls(("hold", {})), "done"])
    call = Background(client.run_tools, "go", [hold])
    assert started.wait(20)
    client.close()
    closed.set()
    with pytest.raises(ClosedError):
        call.result()
    assert len(client.requests) == 1


@async_test
async def test_async_facade_of_a_closed_client():
    """The facade raises the client's ClosedError."""
    client = ScriptedInferenceClient(["hi"])
    client.close()
    async with to_async(client) as facade:
        with pytest.raises(ClosedError):
            await facade.generate("hello")
        with pytest.raises(ClosedError):
            await facade.stream("hello")
