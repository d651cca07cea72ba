"""Handlers at the top level of a module, which other processes can import."""

import logging
import os
import signal
import time

from asimov_sync import (
    Agent,
    AnthropicInferenceClient,
    LogFilter,
    Partial,
    Route,
    Task,
    TaskGraph,
    TaskScheduler,
)
from asimov_sync.testing import ScriptedInferenceClient


def echo(task, context):
    return (task.params, dict(context.inputs))


def name_process(task, context):
    return os.getpid()


def double(number):
    return 2 * number


def add(one, other):
    return one + other


def add_all(*numbers):
    return sum(numbers)


def choose(task, context):
    return Route("chosen", result=context.inputs)


def run_nested(task, context):
    """Run a graph in this process, on threads."""
    graph = TaskGraph()
    graph.map(double, [5, 6], name="inner")
    with TaskScheduler() as scheduler:
        return scheduler.run(graph).results


def read_key(task, context):
    return (context.idempotency_key, context.step("once", double, 21))


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
    child = context.spawn(Task(type="echo", params={"n": 1}), name="child", before_dependents=True)
    context.spawn(
        double_item, params={"item": 4}, name="own", depends_on=child, before_dependents=True
    )
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


def ask_scripted_model(task, context):
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


def make_client(task):
    return AnthropicInferenceClient(
        model="claude-test", api_key=task.params.get("key", "sk-worker"), api_url=task.params["url"]
    )


def ask_model(task, context):
    """Stream the reply of a model."""
    with make_client(task) as client:
        with client.stream("a question") as stream:
            return "".join(stream.text_stream)


def look_up(word: str) -> str:
    """Look a word up."""
    return f"{word} means nothing"


def ask_agent(task, context):
    """Have an agent with a tool answer."""
    with make_client(task) as client:
        return Agent(client, tools=[look_up], name="agent")(task, context)


def use_cache(task, context):
    context.cache.set("mine", {"pid": os.getpid()})
    return context.cache.get("mine")["pid"] == os.getpid()


def report_and_wait(task, context):
    """Report, and then wait for a value that the reader of the report sets."""
    context.report(0.5, "begun")
    for _ in range(2000):
        if context.cache.get("seen", None):
            return "seen"
        time.sleep(0.01)


def note_cancel(task, context):
    """Wait for the cancellation, and note its reason in the cache."""
    context.report(text="begun")
    context.cancellation.wait(20)
    context.cache.set("reason", context.cancellation.reason)
    context.cancellation.raise_if_cancelled()


def step(task, context):
    """Take a step in this process, and fail once after it."""
    pid = context.step("pay", os.getpid)
    if context.attempt == 1:
        raise ConnectionError("after the step")
    return [pid, context.step("pay", os.getpid), context.idempotency_key]


def ask_human(task, context):
    return context.wait_for("review", prompt="Is it good?")


def log_something(task, context):
    """Return the attributes of a log record, as LogFilter sets them."""
    record = logging.LogRecord("name", logging.INFO, "path", 1, "message", (), None)
    LogFilter().filter(record)
    return [record.run_id, record.task, record.attempt]


def die_once(task, context):
    """Kill this process, if it is the victim that has not been killed yet."""
    os.makedirs(task.params["folder"], exist_ok=True)
    marker = os.path.join(task.params["folder"], "killed")
    if task.params["dies"] and not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def search_memory(task, context):
    """Return where the memory or the environment of this process has a text, given reversed."""
    backwards = task.params["reversed"].encode()
    found = [name for name, value in os.environb.items() if backwards in value[::-1]]
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        areas = [line.split() for line in maps]
        for area, rights, *_ in areas:
            start, end = (int(part, 16) for part in area.split("-"))
            while rights.startswith("rw") and start < end:
                try:
                    memory.seek(start)
                    piece = memory.read(min(end - start, 2**20))
                except (OSError, ValueError, OverflowError):
                    break
                # Reversed, so that this search does not find itself.
                if backwards in piece[::-1]:
                    found.append(area)
                start += 2**20
                del piece
    return found


def name_span(task, context):
    """Return the trace and the span that are current in this process."""
    from opentelemetry import trace

    current = trace.get_current_span().get_span_context()
    return [current.trace_id, current.span_id]


def ignore_cancel(task, context):
    for _ in range(400):
        time.sleep(0.1)


def leave():
    raise SystemExit("from a pickle")


class LeavesOnLoad:
    """A result that raises SystemExit when it is unpickled."""

    def __reduce__(self):
        return (leave, ())


class LeavesOnDump:
    """A result that raises SystemExit when it is pickled."""

    def __reduce__(self):
        raise SystemExit("from a pickle")


def return_hostile(task, context):
    return {"load": LeavesOnLoad, "dump": LeavesOnDump}[task.params["on"]]()


def leave_in_condition(inputs):
    raise SystemExit("from a condition")


def ask_in_condition(inputs, context):
    return context.wait_for("go")


def kill_process_later(task, context):
    """Kill this process when a file exists."""
    while not os.path.exists(task.params["path"]):
        time.sleep(0.01)
    os.kill(os.getpid(), 9)


def leave_in_retry(error):
    raise SystemExit("from a policy")


scripted_agent = Agent(ScriptedInferenceClient(lambda body: "an answer"), name="scripted")
"""An agent with a client, which every process that imports this module makes for itself."""


HANDLERS = {
    name: value
    for name, value in dict(globals()).items()
    if getattr(value, "__code__", None) and value.__code__.co_varnames[:2] == ("task", "context")
}
"""The handlers, by task type."""
