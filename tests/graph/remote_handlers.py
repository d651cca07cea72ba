"""Handlers at the top level of a module, which other processes can import."""

import os
import time

from asimov_sync import Partial, Route, Task
from asimov_sync.testing import ScriptedInferenceClient


def echo(task, context):
    return (task.params, dict(context.inputs))


def name_process(task, context):
    return os.getpid()


def double(number):
    return 2 * number


def add(one, other):
    return one + other


def fail_once(task, context):
    if context.attempt == 1:
        raise ConnectionError("not yet")
    return context.attempt


class OwnError(Exception):
    pass


def raise_own(task, context):
    raise OwnError("of my own")


def kill_process(task, context):
    os.kill(os.getpid(), 9)


def kill_once(task, context):
    """Kill the process of the first attempt."""
    if context.attempt == 1:
        os.kill(os.getpid(), 9)
    return context.attempt


def report(task, context):
    context.report(0.5, "half", data={"a": 1})
    yield "yielded"
    return "reported"


def spawn(task, context):
    context.spawn(Task(type="echo", params={"n": 1}), name="child")
    context.spawn(double_item, params={"item": 4}, name="own")
    return "spawned"


def spawn_twice(task, context):
    context.spawn(Task(type="echo"), name="child")
    context.spawn(Task(type="echo"), name="child")


def double_item(task, context):
    return 2 * task.params["item"]


def partial(task, context):
    return Partial("some", "the rest is missing")


def partial_text(task, context):
    return "text"


def go_back_once(task, context):
    if context.visit == 1:
        return Route("start", result="again")
    return (context.visit, dict(context.feedback))


def see_feedback(task, context):
    return (context.visit, dict(context.feedback))


def return_lambda(task, context):
    return lambda: 0


def wait_for_cancel(task, context):
    context.cancellation.wait(20)
    context.cancellation.raise_if_cancelled()


def ask_model(task, context):
    return ScriptedInferenceClient(["an answer"], model="far").generate("?").text


def sleep(task, context):
    time.sleep(task.params["seconds"])


def odd(inputs):
    return sum(inputs.values()) % 2 == 1


def shout(call_next, task, context):
    return str(call_next()).upper()


class Greeter:
    """A handler with a state that can be pickled."""

    name = "greeter"

    def __init__(self, greeting):
        self.greeting = greeting

    def __call__(self, task, context):
        return f"{self.greeting} from {os.getpid()}"


HANDLERS = {
    name: value
    for name, value in dict(globals()).items()
    if getattr(value, "__code__", None) and value.__code__.co_varnames[:1] == ("task",)
}
"""The handlers, by task type."""
