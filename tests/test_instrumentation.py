"""Instrumentation: observations end once and never fail; listeners receive the text of replies."""

import contextvars
import logging
import threading

import pytest

from asimov_sync import ChatMessage, Reply, ReplyDone, TextDelta, ThinkingDelta, instrumentation
from asimov_sync.concurrency import scope
from asimov_sync.instrumentation import Instrumentation, Observation, install, listen_to_reply
from asimov_sync.testing import ScriptedInferenceClient

variable = contextvars.ContextVar("variable", default="default")


@pytest.fixture(autouse=True)
def uninstalled():
    """Remove the hooks after each test."""
    before = instrumentation.installed
    yield
    install(before)


def recorder(ends):
    """A hook that records its arguments and those of its end."""

    def hook(*arguments):
        return lambda *end: ends.append((arguments, end))

    return hook


# Observations


def test_an_observation_ends_once():
    """Only the first end is reported."""
    ends = []
    observation = Observation(recorder(ends), "it", 2)
    observation.end("first")
    observation.end("second")
    observation.end(None, ValueError())
    assert ends == [(("it", 2), ("first", None, []))]


def test_run_ends_with_the_result():
    """`run` returns the function's result, and ends the operation with it."""
    ends = []
    assert Observation(recorder(ends)).run(int, "7") == 7
    assert ends == [((), (7, None, []))]


def test_run_ends_with_the_error():
    """`run` and `run_step` raise the function's error, and end the operation with it."""
    for method in (Observation.run, Observation.run_step):
        ends = []
        with pytest.raises(ZeroDivisionError) as caught:
            method(Observation(recorder(ends)), lambda: 1 / 0)
        assert ends == [((), (None, caught.value, []))]


def test_run_step_does_not_end():
    """A step that returns leaves the operation open."""
    ends = []
    observation = Observation(recorder(ends))
    assert observation.run_step(int, "7") == 7
    assert ends == []


def test_chunks_are_timed():
    """The end receives the seconds to each chunk."""
    ends = []
    observation = Observation(recorder(ends))
    observation.record_chunk()
    observation.record_chunk()
    observation.end("done")
    ((_, (_, _, (first, second))),) = ends
    assert 0 <= first <= second


def test_a_hook_may_set_context_variables():
    """A variable that a hook sets applies to all steps of the operation and nowhere else."""

    def hook():
        variable.set("set by the hook")
        return lambda *end: None

    observation = Observation(hook)
    assert observation.run_step(variable.get) == "set by the hook"
    assert variable.get() == "default"
    own = contextvars.copy_context()
    assert Observation(hook, context=own).context is own
    assert own.run(variable.get) == "set by the hook"


def test_concurrent_ends_are_reported_once():
    """Of several threads that end an observation at once, one is reported."""
    for _ in range(100):
        ends = []
        observation, start = Observation(recorder(ends)), threading.Barrier(4)

        def end(observation=observation, start=start):
            start.wait(10)
            observation.end("done")

        threads = [threading.Thread(target=end) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(ends) == 1


def fail_at_begin(*arguments):
    raise RuntimeError("hook")


def fail_at_end(*arguments):
    return fail_at_begin


@pytest.mark.parametrize("hook", [fail_at_begin, fail_at_end])
def test_failures_of_hooks_are_logged_once(hook, caplog):
    """A failing hook does not affect the operation. Its first failure is logged, and again after
    another install."""
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            install(Instrumentation(hook, hook, hook, hook, hook))
            for _ in range(3):
                assert Observation(instrumentation.installed.run, "id", None).run(int, "7") == 7
    message = (
        "an instrumentation hook failed; the operation continues, "
        "and further failures of hooks are not logged"
    )
    assert [record.getMessage() for record in caplog.records] == [message, message]
    assert "RuntimeError: hook" in caplog.text


def test_install():
    """install replaces the hooks; None removes them."""
    hook = recorder([])
    hooks = Instrumentation(hook, hook, hook, hook, hook)
    install(hooks)
    assert instrumentation.installed is hooks
    install(None)
    assert instrumentation.installed is None


# Text listeners


class Listener:
    """Records the texts of each reply."""

    def __init__(self):
        self.replies = []

    def __call__(self):
        texts = []
        self.replies.append(texts)
        return texts.append


def done(text):
    return ReplyDone(Reply(message=ChatMessage(role="assistant", content=text)))


def test_no_listeners():
    """Without listeners there is nothing to call."""
    assert listen_to_reply(()) is None


def test_streamed_text():
    """Each listener receives each piece of text once; the whole text at the end is not repeated."""
    first, second = Listener(), Listener()
    on_event = listen_to_reply((first, second))
    for event in (TextDelta("a"), ThinkingDelta("hm"), TextDelta("b"), done("ab")):
        on_event(event)
    assert first.replies == second.replies == [["a", "b"]]


def test_a_reply_in_one_piece():
    """The text of a reply that is not streamed is passed on at the end. Empty texts are left
    out."""
    listener = Listener()
    for events in ([done("ab")], [TextDelta(""), done("ab")], [done("")]):
        on_event = listen_to_reply((listener,))
        for event in events:
            on_event(event)
    assert listener.replies == [["ab"], ["ab"], []]


def test_a_client_feeds_the_listeners_of_its_caller():
    """A reply is passed on to the listeners of the context that requested it, even if it is read
    in another context.
    """
    client = ScriptedInferenceClient(["one two", "three"])
    listener = Listener()

    def request():
        scope.extend(text_listener=listener)
        return client.stream("x"), client.generate("x")

    stream, _ = contextvars.copy_context().run(request)
    list(stream)
    assert sorted("".join(texts) for texts in listener.replies) == ["one two", "three"]
    assert scope.current().text_listeners == ()
