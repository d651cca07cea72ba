"""Options of clients and calls: names, values, time-outs and retries.

Most clients of these tests have no server: an invalid option is an error before a request is sent.
"""

import threading

import pytest

from asimov_sync import (
    AnthropicInferenceClient,
    BedrockInferenceClient,
    Cancellation,
    Cancelled,
    DeadlineExceeded,
    InferenceError,
    OpenAIInferenceClient,
    OverloadedError,
    Timeout,
    tool,
)
from asimov_sync.testing import Failure, ModelServer, ScriptedInferenceClient, calls

from ..tiers import suite
from ..waiting import Background
from .silent_server import SilentServer

UNUSED_URL = "http://127.0.0.1:9/v1/messages"

CONSTRUCTORS = {
    "anthropic": lambda **options: AnthropicInferenceClient("m", api_key="none", **options),
    "bedrock": lambda **options: BedrockInferenceClient("m", api_key="none", **options),
    "openai": lambda **options: OpenAIInferenceClient("m", api_key="none", **options),
    "scripted": lambda **options: ScriptedInferenceClient([], **options),
}

CALLS = {
    "generate": lambda client, **options: client.generate("hello", **options),
    "stream": lambda client, **options: client.stream("hello", **options),
    "run_tools": lambda client, **options: client.run_tools("hello", [], **options),
    "stream_tools": lambda client, **options: client.stream_tools("hello", [], **options),
    "count_tokens": lambda client, **options: client.count_tokens("hello", **options),
    "with_options": lambda client, **options: client.with_options(**options),
}

MISTAKES = [
    ({"max_retries": -1}, ValueError, "max_retries must be 0 or more, not -1"),
    ({"max_retries": True}, TypeError, "max_retries must be a whole number, not True"),
    ({"max_retries": 1.5}, TypeError, "max_retries must be a whole number, not 1.5"),
    ({"max_tokens": "a"}, TypeError, "max_tokens must be a whole number, not 'a'"),
    ({"max_tokens": -1}, ValueError, "max_tokens must be 0 or more, not -1"),
    ({"temperature": float("nan")}, ValueError, "temperature must be a finite number, not nan"),
    ({"temperature": False}, TypeError, "temperature must be a number, not False"),
    ({"top_p": "1"}, TypeError, "top_p must be a number, not '1'"),
    ({"stop_sequences": "END"}, TypeError, r"stop_sequences must be a list of texts: \['END'\]"),
    ({"prompt_cache": True}, ValueError, 'prompt_cache must be "auto" or None'),
    ({"timeout": "30"}, TypeError, "timeout= takes a number of seconds or a Timeout.*not '30'"),
    ({"timeout": True}, TypeError, "timeout= takes a number of seconds or a Timeout.*not True"),
    ({"timeout": float("nan")}, ValueError, "total=…"),
    ({"timeout": Timeout(idle="5")}, TypeError, "idle=….*not '5'"),
]


@pytest.mark.parametrize("options, kind, message", MISTAKES, ids=str)
def test_invalid_values(options, kind, message):
    """Constructor and calls raise an error for a value of the wrong type or out of range."""
    for make in CONSTRUCTORS.values():
        with pytest.raises(kind, match=message):
            make(**options)
    client = CONSTRUCTORS["anthropic"](api_url=UNUSED_URL)
    for call in CALLS.values():
        with pytest.raises(kind, match=message):
            call(client, **options)


@pytest.mark.parametrize("name", ["budget", "rate_limit"])
def test_invalid_limits(name):
    """The constructor and with_options raise an error for a limit of the wrong type."""
    for make in (*CONSTRUCTORS.values(), ScriptedInferenceClient([]).with_options):
        with pytest.raises(TypeError, match=f"{name} must be a (Budget|RateLimit), not 5"):
            make(**{name: 5})


@pytest.mark.parametrize(
    "misspelt, intended",
    [
        ("temprature", "temperature"),
        ("max_retires", "max_retries"),
        ("time_out", "timeout"),
        ("bugdet", "budget"),
        ("max_token", "max_tokens"),
    ],
)
def test_unknown_names(misspelt, intended):
    """The error names a similar option and lists all options, also those of the client only."""
    listed = "valid options: .*max_retries.*timeout.*top_p"
    for make in CONSTRUCTORS.values():
        with pytest.raises(TypeError, match=f"'{misspelt}' .did you mean {intended}.*{listed}"):
            make(**{misspelt: 1})
    client = CONSTRUCTORS["anthropic"](api_url=UNUSED_URL)
    for call in CALLS.values():
        with pytest.raises(
            TypeError, match=f"'{misspelt}' .did you mean {intended}.*{listed}"
        ) as caught:
            call(client, **{misspelt: 1})
        assert "budget" in str(caught.value) and "rate_limit" in str(caught.value)


def test_a_similar_parameter():
    """The error for a misspelt parameter of a constructor names the parameter."""
    with pytest.raises(TypeError, match="'api_ulr' .did you mean api_url"):
        AnthropicInferenceClient("m", api_key="none", api_ulr=UNUSED_URL)


@pytest.mark.parametrize("name", ["budget", "rate_limit", "model"])
def test_options_of_the_client_only(name):
    """If a call receives an option of the client, the error mentions with_options."""
    client = CONSTRUCTORS["anthropic"](api_url=UNUSED_URL)
    for call in CALLS.values():
        if call is not CALLS["with_options"]:
            with pytest.raises(TypeError, match=rf"client\.with_options\({name}=…\)"):
                call(client, **{name: None})


def test_options_of_other_providers():
    """An option of another provider is unknown. extra= accepts any parameter."""
    with pytest.raises(TypeError, match="unknown option 'thinking', 'top_k'"):
        CONSTRUCTORS["openai"](thinking={}, top_k=1)
    with pytest.raises(TypeError, match="unknown option 'seed'"):
        CONSTRUCTORS["anthropic"](seed=1)
    client = ScriptedInferenceClient(["hi"])
    client.generate("hello", extra={"seed": 1})
    assert client.requests[0]["seed"] == 1


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_optional_arguments_are_keyword_only(call):
    """Optional arguments cannot be passed by position."""
    client = CONSTRUCTORS["anthropic"](api_url=UNUSED_URL)
    name = next(name for name, function in CALLS.items() if function is call)
    arguments = {"with_options": (), "run_tools": ("x", []), "stream_tools": ("x", [])}
    with pytest.raises(TypeError, match="positional"):
        getattr(client, name)(*arguments.get(name, ("x",)), "You are brief.")


def test_none_resets():
    """None removes an option, and restores the default of time-outs and retries."""
    client = ScriptedInferenceClient(["hi"], temperature=1, timeout=5, max_retries=0)
    reset = client.with_options(temperature=None, timeout=None, max_retries=None)
    assert (reset.timeout, reset.max_retries) == (Timeout(), 2)
    reset.generate("hello")
    assert "temperature" not in client.requests[0]


def test_timeout_in_seconds():
    """A number of seconds is Timeout(total=…), in the constructor and in with_options."""
    client = ScriptedInferenceClient([], timeout=30)
    assert client.timeout == Timeout(total=30)
    assert client.with_options(timeout=2.5).timeout == Timeout(total=2.5)


@pytest.mark.parametrize("name", sorted(set(CALLS) - {"with_options"}))
def test_timeout_of_a_call(name):
    """timeout= of a call limits that call only."""
    with SilentServer("headers") as server:
        client = AnthropicInferenceClient("m", api_key="none", api_url=server.url)
        with pytest.raises(DeadlineExceeded, match="timeout.total, 0.05 s"):
            Background(CALLS[name], client, timeout=0.05).result()
    assert client.timeout == Timeout()


@pytest.mark.parametrize("name", sorted(set(CALLS) - {"count_tokens", "with_options"}))
def test_retries_of_a_call(name):
    """max_retries= of a call replaces the client's value."""
    overloaded = Failure(529, "overloaded_error", headers={"retry-after": "0"})
    with ModelServer(lambda body: overloaded) as server:
        client = AnthropicInferenceClient("m", api_key="none", api_url=server.url, max_retries=0)
        with pytest.raises(OverloadedError) as caught:
            CALLS[name](client, max_retries=3)
        assert (caught.value.attempts, client.max_retries) == (4, 0)


@pytest.mark.parametrize("name", ["run_tools", "stream_tools"])
@pytest.mark.parametrize("max_workers", [None, 0])
def test_total_timeout_of_a_loop(name, max_workers):
    """The total time-out of a loop also ends its tools, with DeadlineExceeded."""
    client = ScriptedInferenceClient([calls(("hurry", {}), ("wait", {})), "done"])

    @tool
    def hurry() -> str:
        """Return at once."""
        return "in time"

    @tool
    def wait() -> str:
        """Wait until the call is cancelled."""
        token = Cancellation.current()
        token.wait(20)
        token.raise_if_cancelled()
        return "never"

    def run():
        options = {"timeout": 0.05, "max_workers": max_workers}
        if name == "run_tools":
            client.run_tools("go", [hurry, wait], **options)
        else:
            list(client.stream_tools("go", [hurry, wait], **options))

    with pytest.raises(DeadlineExceeded, match="longer than timeout.total") as caught:
        Background(run).result()
    assert len(client.requests) == 1
    results = caught.value.messages[-1].content
    assert ["in time", "TimeoutError: the tool had not ended"] == [
        str(result["content"])[:36] for result in results
    ]
    assert client.run_tools(caught.value.messages, [hurry, wait]).text == "done"


def test_total_timeout_of_the_client():
    """The client's total time-out limits each request, not the tools of a loop."""
    never_set = threading.Event()

    @tool
    def wait() -> str:
        """Wait longer than the client's total."""
        never_set.wait(0.1)
        return "late"

    client = ScriptedInferenceClient([calls(("wait", {})), "done"], timeout=0.05)
    assert client.run_tools("go", [wait]).text == "done"


def test_total_timeout_of_an_endless_loop():
    """A loop whose model never stops ends with DeadlineExceeded."""

    @tool
    def find() -> str:
        """Find nothing."""
        return "nothing"

    client = ScriptedInferenceClient(lambda body: calls(("find", {})))
    with pytest.raises(InferenceError) as caught:
        Background(client.run_tools, "go", [find], timeout=0.1, max_iterations=1_000_000).result()
    assert isinstance(caught.value, DeadlineExceeded)
    assert len(caught.value.messages) == 1 + 2 * len(client.requests) > 3


@suite
def test_total_timeout_of_a_summary():
    """A summary that takes too long is a DeadlineExceeded, with the history so far."""

    @tool
    def look() -> str:
        """Look."""
        return "nothing " * 100

    script = [calls(("look", {})), calls(("look", {})), "done"]
    with SilentServer("headers") as server:
        silent = AnthropicInferenceClient("m", api_key="none", api_url=server.url)
        options = {"compact_at": 1, "compact_with": silent, "timeout": 0.2}
        with pytest.raises(DeadlineExceeded) as caught:
            Background(ScriptedInferenceClient(script).run_tools, "go", [look], **options).result()
    assert caught.value.messages[0].text == "go"
    assert len(server.reached) == 1


def test_cancelled_loop_with_a_timeout():
    """A cancellation before the total time-out raises Cancelled."""
    cancellation = Cancellation()

    @tool
    def cancel() -> str:
        """Cancel the run."""
        cancellation.cancel("enough")
        return ""

    client = ScriptedInferenceClient([calls(("cancel", {})), "done"])
    with pytest.raises(Cancelled, match="enough"):
        client.run_tools("go", [cancel], timeout=20, cancellation=cancellation)
