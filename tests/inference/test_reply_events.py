"""Event sources: connections, usage and observations of streams that stop at any point."""

import gc

import pytest

from asimov_sync import InferenceClient, OverloadedError, Usage
from asimov_sync.testing import Failure, ScriptedInferenceClient

from ..waiting import wait_for
from .test_stream_tools import hold_at

NOW = {"retry-after-ms": "1"}


def test_exported_names():
    """The inference package exports its names; an unknown name is an AttributeError."""
    from asimov_sync import inference

    assert inference.InferenceClient is InferenceClient
    assert set(inference.__all__) <= set(dir(inference))
    for name in inference.__all__:
        assert getattr(inference, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = inference.Nothing


@pytest.mark.parametrize("end", ["close", "drop"])
@pytest.mark.parametrize("read", [0, 1])
def test_connection_of_an_abandoned_stream(serve, end, read):
    """A stream closes its connection when it is closed or dropped, whether or not it was read."""
    client, server = serve(["hello there"], before_event=hold_at(4))
    stream = client.stream("x")
    for _ in range(read):
        next(stream)
    gc.disable()  # reference counts alone must free a stream
    try:
        if end == "close":
            stream.close()
        del stream
        assert server.requests[0].disconnected.wait(20)
    finally:
        gc.enable()


@pytest.mark.parametrize("end", ["close", "drop"])
def test_usage_of_an_abandoned_stream(end):
    """The reported usage of an abandoned reply is recorded; an unread reply has none."""
    client = ScriptedInferenceClient(["good evening", "unread"])
    stream = client.stream("x")
    next(stream)
    if end == "close":
        stream.close()
    del stream
    recorded = client.usage
    assert recorded.input_tokens > 0
    stream = client.stream("x")
    if end == "close":
        stream.close()
    del stream
    assert client.usage == recorded


def test_a_failure_while_opening_is_retried():
    """Opening a stream retries transient errors, and raises the last one."""
    client = ScriptedInferenceClient([Failure(529, headers=NOW)] * 2 + ["hello"])
    stream = client.stream("x")
    assert len(client.requests) == 3
    assert list(stream)[-1].reply.text == "hello"
    client = ScriptedInferenceClient([Failure(529, headers=NOW)] * 3)
    with pytest.raises(OverloadedError) as caught:
        client.stream("x")
    assert caught.value.attempts == 3
    assert client.usage == Usage()


class RecordedObservation:
    """An observation that records its end."""

    def __init__(self):
        self.ends = []

    def run_step(self, function, *args):
        return function(*args)

    def record_chunk(self):
        pass

    def end(self, result=None, error=None):
        self.ends.append((result, error))


@pytest.mark.parametrize("read", [0, 1])
def test_observation_of_an_abandoned_stream(read):
    """The observation of a dropped stream, read or unread, ends without a result."""
    stream = ScriptedInferenceClient(["good evening"]).stream("x")
    observation = RecordedObservation()
    stream.attach_observation(observation)
    for _ in range(read):
        next(stream)
    del stream
    wait_for(lambda: observation.ends == [(None, None)])


def test_observation_of_a_complete_stream():
    """The observation ends once, with the reply."""
    stream = ScriptedInferenceClient(["good evening"]).stream("x")
    observation = RecordedObservation()
    stream.attach_observation(observation)
    for _event in stream:
        pass
    assert observation.ends == [(stream.reply, None)]
    del stream
    gc.collect()
    assert len(observation.ends) == 1
