"""The error tree: its bases, its drawing, and pickling."""

import inspect
import pickle
import re

import pytest

from asimov_sync import errors
from asimov_sync.messages import ChatMessage, Reply, Usage

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, errors.AsimovError)
]


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_every_error_survives_pickling(error):
    """A pickled error keeps its type, message and attributes."""
    raised = error("what happened")
    if isinstance(raised, errors.InferenceError):
        raised = error(
            "what happened", provider="p", status=418, request_id="r", attempts=3, retry_after=1.5
        )
    unpickled = pickle.loads(pickle.dumps(raised))
    assert type(unpickled) is error
    assert str(unpickled) == str(raised)
    assert vars(unpickled) == vars(raised)


def test_the_drawing_is_complete():
    """The drawing in the module's docstring shows every class below its own base."""
    drawn = re.findall(r"^    ([│ ├└─]*)(\w+)(?: |$)", errors.__doc__, re.M)
    tree = [(len(line), name) for line, name in drawn]
    names = [name for _, name in tree]
    assert sorted(names) == sorted(error.__name__ for error in CLASSES)
    for index, (depth, name) in list(enumerate(tree))[1:]:
        above = reversed(tree[:index])
        parent = next(other for other_depth, other in above if other_depth < depth)
        assert getattr(errors, name).__mro__[1].__name__ == parent, name


def test_errors_derive_from_builtins():
    """Timeouts are TimeoutErrors, broken connections ConnectionErrors, invalid arguments
    ValueErrors."""
    for error in (
        errors.ConnectTimeout,
        errors.IdleTimeout,
        errors.DeadlineExceeded,
        errors.RunTimeout,
    ):
        assert issubclass(error, TimeoutError)
    for error in (errors.ConnectionFailed, errors.CacheUnavailable):
        assert issubclass(error, ConnectionError)
    for error in (
        errors.GraphError,
        errors.CacheKeyError,
        errors.CacheValueError,
        errors.ToolDefinitionError,
    ):
        assert issubclass(error, ValueError)
    assert issubclass(errors.ClosedError, RuntimeError)


def test_the_message_includes_the_details():
    """The text of an inference error has the status, type, request id and number of attempts, if
    known."""
    error = errors.OverloadedError(
        "busy", status=529, error_type="overloaded_error", request_id="req_1", attempts=3
    )
    assert str(error) == "busy (status 529, type overloaded_error, request id req_1, attempts 3)"
    assert str(errors.OverloadedError("busy")) == "busy"


def test_an_interrupted_stream_keeps_what_arrived():
    """StreamInterrupted has the partial reply, its text and its usage."""
    message = ChatMessage(role="assistant", content="half a")
    partial = Reply(message=message, usage=Usage(input_tokens=3))
    error = errors.StreamInterrupted("cut", partial=partial)
    assert (error.text, error.usage.input_tokens) == ("half a", 3)
    empty = errors.StreamInterrupted("cut")
    assert (empty.text, empty.usage) == ("", None)
