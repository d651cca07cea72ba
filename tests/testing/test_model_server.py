"""The server for tests: it speaks the wire, follows its script, and says what is wrong with either."""

import http.client
import json
import subprocess
import sys
import threading

import pytest
import requests

from asimov_sync import InvalidRequestError, OverloadedError, ProviderError
from asimov_sync.testing import Failure, ModelServer, ScriptedInferenceClient, calls, last_text, tool_results
from asimov_sync.testing.script import Script

from ..waiting import wait_for


def post(server, **body):
    return requests.post(server.url, json=dict({"model": "m", "messages": [{"role": "user", "content": "hello"}]}, **body))


def test_a_json_reply():
    """Without "stream", the reply is one JSON body of the Messages API, with an id for the request."""
    with ModelServer(["hi"]) as server:
        response = post(server)
    assert response.headers["request-id"] == "req_000000"
    told = response.json()
    assert (told["type"], told["role"], told["stop_reason"]) == ("message", "assistant", "end_turn")
    assert told["content"] == [{"type": "text", "text": "hi"}]
    assert told["usage"]["input_tokens"] > 0


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_a_streamed_reply(framing):
    """With "stream", the events are those of the Messages API, in their order."""
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


def test_a_function_answers_from_the_request():
    """A function sees the body of the request, and what the tools answered."""

    def model(body):
        return "you said {} and the tool {}".format(body["messages"][0]["content"], tool_results(body)["f"])

    use = {"type": "tool_use", "id": "1", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "seven"}]}
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]
    with ModelServer(model) as server:
        assert post(server, messages=messages).json()["content"][0]["text"] == "you said x and the tool seven"
    assert last_text({"messages": messages}) == ""


def test_failures_are_in_the_providers_format():
    """A Failure is an error body of the API with its status and headers."""
    with ModelServer([Failure(529, "overloaded_error", "busy", {"retry-after": "3"})]) as server:
        response = post(server)
    assert (response.status_code, response.headers["retry-after"]) == (529, "3")
    assert response.json() == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "busy"},
        "request_id": "req_000000",
    }


def test_wrong_requests():
    """Another path is a 404, a body without messages a 400, a wrong key a 401; an answer of the script is not used up."""
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


def test_a_script_that_is_too_short():
    """A request without an answer is told to the client as the script's mistake, and is not tried again."""
    with ModelServer([]) as server:
        response = post(server)
    assert response.status_code == 500
    assert "no answer to request 1" in response.json()["error"]["message"]
    assert response.headers["x-should-retry"] == "false"
    with pytest.raises(AssertionError, match="no answer to request 2"):
        script = Script(["one"])
        script.answer({}), script.answer({})


def test_a_client_that_goes_away_is_seen():
    """The server notes that its client hung up, while it waits before an event."""
    never = threading.Event()
    with ModelServer(["hi there"], before_event=lambda request, number: never if number == 4 else None) as server:
        response = requests.post(server.url, json={"messages": [], "stream": True}, stream=True)
        wait_for(lambda: server.requests[0].sent == 4)
        assert not server.requests[0].disconnected.is_set()
        response.close()
        assert server.requests[0].disconnected.wait(10)
        assert server.requests[0].finished.wait(10)


def test_closing_breaks_open_connections():
    """close() ends the streams that go on, and nobody waits for a client."""
    never = threading.Event()
    server = ModelServer(["hi"], before_event=lambda request, number: never if number else None)
    response = requests.post(server.url, json={"messages": [], "stream": True}, stream=True)
    server.close()
    with pytest.raises((requests.RequestException, http.client.HTTPException)):
        response.content
    with pytest.raises(requests.ConnectionError):
        post(server)


def test_a_scripted_client_is_a_client():
    """It encodes requests and folds replies as on the wire, and raises the errors of failures."""
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


def test_a_scripted_client_retries():
    """Failures that may pass are tried again, as with a real provider."""
    busy = Failure(529, "overloaded_error", "busy", {"retry-after": "0"})
    assert ScriptedInferenceClient([busy, "fine"]).generate("hello").text == "fine"
    with pytest.raises(OverloadedError):
        ScriptedInferenceClient([busy] * 9).generate("hello")
    with pytest.raises(ProviderError):
        ScriptedInferenceClient([Failure(500)], max_retries=0).generate("hello")


def test_it_needs_the_standard_library_only():
    """The server itself loads no HTTP library; its users do."""
    program = "import sys, asimov_sync.testing.server; assert not {'requests', 'urllib3', 'flask'} & set(sys.modules)"
    subprocess.check_call([sys.executable, "-c", program])
