"""The error tree: what derives from what, and that nothing is lost on the way to another process."""

import inspect
import pickle
import re

import pytest

from asimov_sync import errors
from asimov_sync.messages import ChatMessage, Reply, Usage

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, errors.AsimovError)]


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_every_error_survives_pickling(error):
    """A worker process can hand on any error, its message and its facts with it."""
    raised = error("what happened")
    if isinstance(raised, errors.InferenceError):
        raised = error("what happened", provider="p", status=418, request_id="r", attempts=3, retry_after=1.5)
    again = pickle.loads(pickle.dumps(raised))
    assert type(again) is error
    assert str(again) == str(raised)
    assert vars(again) == vars(raised)


def test_the_tree_is_drawn_whole():
    """The drawing at the top of the module shows every class, under its own base."""
    drawn = re.findall(r"^    ([│ ├└─]*)(\w+)(?: |$)", errors.__doc__, re.M)
    tree = [(len(line), name) for line, name in drawn]
    names = [name for _, name in tree]
    assert sorted(names) == sorted(error.__name__ for error in CLASSES)
    for place, (depth, name) in list(enumerate(tree))[1:]:
        parent = next(other for other_depth, other in reversed(tree[:place]) if other_depth < depth)
        assert getattr(errors, name).__mro__[1].__name__ == parent, name


def test_errors_are_what_callers_already_catch():
    """Time-outs are TimeoutErrors, broken connections ConnectionErrors, misuse ValueErrors."""
    for error in (errors.ConnectTimeout, errors.IdleTimeout, errors.DeadlineExceeded, errors.RunTimeout):
        assert issubclass(error, TimeoutError)
    for error in (errors.ConnectionFailed, errors.CacheUnavailable):
        assert issubclass(error, ConnectionError)
    for error in (errors.GraphError, errors.CacheKeyError, errors.CacheValueError, errors.ToolError):
        assert issubclass(error, ValueError)


def test_the_message_has_the_facts():
    """An inference error says status, type, request id and the number of attempts, where they are known."""
    error = errors.OverloadedError("busy", status=529, error_type="overloaded_error", request_id="req_1", attempts=3)
    assert str(error) == "busy (status 529, type overloaded_error, request id req_1, attempts 3)"
    assert str(errors.OverloadedError("busy")) == "busy"


def test_a_cut_stream_holds_what_arrived():
    """StreamInterrupted has the partial reply, its text and its usage."""
    partial = Reply(message=ChatMessage(role="assistant", content="half a"), usage=Usage(input_tokens=3))
    error = errors.StreamInterrupted("cut", partial=partial)
    assert (error.text, error.usage.input_tokens) == ("half a", 3)
    assert (errors.StreamInterrupted("cut").text, errors.StreamInterrupted("cut").usage) == ("", None)


def test_described():
    """An exception in one line; the type alone where there is no message."""
    assert errors.described(ValueError("no")) == "ValueError: no"
    assert errors.described(KeyError()) == "KeyError"
