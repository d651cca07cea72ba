"""The logger asimov_sync.inference: waits at INFO; every request and tool call at DEBUG."""

import logging

import pytest

from asimov_sync import AnthropicInferenceClient, InvalidRequestError, RateLimit, tool
from asimov_sync.testing import Failure, ModelServer, ScriptedInferenceClient, calls, tool_results

NOW = {"retry-after": "0"}
SECRET = "swordfish"


def messages(caplog, level=logging.DEBUG):
    """Return the messages of a level, with the seconds left out."""
    found = [record for record in caplog.records if record.name == "asimov_sync.inference"]
    return [without_seconds(one.getMessage()) for one in found if one.levelno == level]


def without_seconds(message):
    words = message.split()
    return " ".join(
        "…" if following.rstrip(":") == "s" else word
        for word, following in zip(words, words[1:] + [""])
    )


def test_requests(caplog):
    """DEBUG has each attempt's model, outcome, seconds and tokens; INFO has waits between them."""
    caplog.set_level(logging.DEBUG, "asimov_sync.inference")
    with ModelServer([Failure(529, headers=NOW, message=SECRET), SECRET]) as server:
        with AnthropicInferenceClient("m", api_key="none", api_url=server.url) as client:
            reply = client.generate(SECRET)
    tokens = f"{reply.usage.input_tokens} input and {reply.usage.output_tokens} output tokens"
    (first, failed, second, ended) = messages(caplog)
    assert first == second == "request to m (anthropic)"
    assert failed.startswith(
        "request to m (anthropic) failed after … s: "
        "OverloadedError (status 529, type overloaded_error"
    )
    assert ended == f"reply of m (anthropic) after … s: end_turn, {tokens}"
    (wait,) = messages(caplog, logging.INFO)
    assert wait.startswith("a request failed: OverloadedError (status 529")
    assert wait.endswith("; attempt 2 of 3 starts in … s")
    assert SECRET not in "".join(messages(caplog) + messages(caplog, logging.INFO))


def test_failed_stream(caplog):
    """A request that fails for good is logged once, without the provider's message."""
    caplog.set_level(logging.DEBUG, "asimov_sync.inference")
    client = ScriptedInferenceClient([Failure(400, message=SECRET)])
    with pytest.raises(InvalidRequestError, match=SECRET):
        client.stream("hello")
    assert messages(caplog)[-1].startswith(
        "request to scripted (scripted) failed after … s: InvalidRequestError (status 400"
    )
    assert not messages(caplog, logging.INFO)
    assert SECRET not in caplog.text


def test_rate_limit_pause(caplog, monkeypatch):
    """INFO has the wait for a slot of the rate limit."""
    monkeypatch.setattr("asimov_sync.inference.rate_limit.MINUTE", 0.02)
    caplog.set_level(logging.INFO, "asimov_sync.inference")
    client = ScriptedInferenceClient(["a", "b"], rate_limit=RateLimit(requests_per_minute=1))
    client.generate("x")
    assert not messages(caplog, logging.INFO)
    client.generate("x")
    assert messages(caplog, logging.INFO) == [
        "rate limit: a request to scripted waits for … s",
    ]


@pytest.mark.parametrize("max_workers", [0, None])
def test_tool_calls(max_workers, caplog):
    """Each tool call has two records. The name of an unknown tool, which the model made up, is
    left out.
    """
    caplog.set_level(logging.DEBUG, "asimov_sync.inference")

    @tool
    def look_up(word: str) -> str:
        """Look a word up."""
        if word == "nothing":
            raise LookupError(SECRET)
        return SECRET

    def model(body):
        if tool_results(body):
            return SECRET
        return calls(("look_up", {"word": SECRET}), ("look_up", {"word": "nothing"}), (SECRET, {}))

    ScriptedInferenceClient(model).run_tools("what?", [look_up], max_workers=max_workers)
    lines = [line for line in messages(caplog) if line.startswith("tool ")]
    assert sorted(lines) == [
        "tool (unknown) failed after … s: LookupError",
        "tool (unknown) started",
        "tool look_up failed after … s: LookupError",
        "tool look_up returned after … s",
        "tool look_up started",
        "tool look_up started",
    ]
    assert SECRET not in caplog.text
