"""Drivers of durable runs in processes of their own, which tests crash, stop and kill.

A driver is a forked child: it opens the store itself, and reports through a pipe. What its handlers
do outside of the run they append to a file, each effect in one write, so a test can count effects.
"""

import json
import os
import signal
import traceback

import tenacity

from asimov_sync import (
    Partial,
    Retry,
    Route,
    RunStore,
    Task,
    TaskGraph,
    TaskScheduler,
)
from asimov_sync.cache.records import RecordStore
from asimov_sync.testing import ScriptedInferenceClient

from ..waiting import DEADLINE

CRASH = 137
"""The exit status of a driver that crashed on purpose, as after SIGKILL."""

RUN_ID = "r"


class Driver:
    """A forked child that calls a function."""

    def __init__(self, function, *args):
        reader, writer = os.pipe()
        self.status = None
        self.pid = os.fork()
        if not self.pid:
            os.close(reader)
            self._call(writer, function, args)
        os.close(writer)
        self._reader = reader

    @staticmethod
    def _call(writer, function, args):
        status = 1
        try:
            signal.alarm(int(3 * DEADLINE))
            reply = json.dumps(function(*args)).encode()
            while reply:
                reply = reply[os.write(writer, reply) :]
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def kill(self, number=signal.SIGKILL):
        """Send a signal."""
        os.kill(self.pid, number)

    @property
    def has_ended(self):
        """True if the process has ended."""
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, options) is not None

    def wait(self):
        """Wait for the end of the process. Returns its exit status, or minus the signal."""
        self.reply = b""
        while True:
            data = os.read(self._reader, 65536)
            if not data:
                break
            self.reply += data
        os.close(self._reader)
        _, status = os.waitpid(self.pid, 0)
        self.status = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return self.status

    def result(self):
        """Return what the function returned."""
        assert self.wait() == 0, f"the driver failed: status {self.status}"
        return json.loads(self.reply.decode())


class Interposed(RecordStore):
    """Records whose calls of some methods go through `on_call(method, call)`."""

    def __init__(self, records, on_call):
        self._records = records
        self._on_call = on_call

    def claim(self, *args, **kwargs):
        """Take a lease."""
        return self._on_call("claim", lambda: self._records.claim(*args, **kwargs))

    def commit(self, *args, **kwargs):
        """Write a change."""
        return self._on_call("commit", lambda: self._records.commit(*args, **kwargs))

    def post(self, *args, **kwargs):
        """Add fields."""
        return self._on_call("post", lambda: self._records.post(*args, **kwargs))

    def get(self, *args, **kwargs):
        """Return a record."""
        return self._on_call("get", lambda: self._records.get(*args, **kwargs))

    def wait(self, *args, **kwargs):
        """Wait for news."""
        return self._on_call("wait", lambda: self._records.wait(*args, **kwargs))

    def delete(self, *args, **kwargs):
        """Remove a record."""
        return self._records.delete(*args, **kwargs)

    def list(self, *args, **kwargs):
        """Return records."""
        return self._records.list(*args, **kwargs)

    def ready(self, *args, **kwargs):
        """Return the records that are due."""
        return self._records.ready(*args, **kwargs)

    def count(self):
        """Return the numbers of records."""
        return self._records.count()

    def read_log(self, *args, **kwargs):
        """Return entries of a log."""
        return self._records.read_log(*args, **kwargs)

    def now(self):
        """Return the present moment."""
        return self._records.now()


def interpose(cache, on_call):
    """Have the record stores that are opened on a cache call `on_call(method, call)`."""
    records = cache.records
    cache.records = lambda: Interposed(records(), on_call)
    return cache


def crash_at(number, after):
    """Return an `on_call` that ends the process at the n-th write. after: after the write."""
    count = 0

    def on_call(method, call):
        nonlocal count
        if method not in ("claim", "commit", "post"):
            return call()
        count += 1
        if count == number and not after:
            os._exit(CRASH)
        reply = call()
        if count == number:
            os._exit(CRASH)
        return reply

    return on_call


# The graph


def everything():
    """Return a graph with each kind of outcome."""
    graph = TaskGraph()

    def add(name, *depends_on, **options):
        graph.add(Task(type="act", objective=name), name=name, depends_on=depends_on, **options)

    add("flaky", retry=Retry(attempts=3, wait=tenacity.wait_none()))
    add("half", "flaky")
    add("broken")
    add("hopeless", "broken")
    add("mourner", "broken", allow_failure=True)
    add("never", when=lambda inputs: False)
    add("spawner", "half")
    add("heir", "spawner")
    add("fork", "heir")
    add("left", "fork")
    add("right", "fork")
    add("draft", "left", "right", "mourner")
    add("check", "draft")
    add("review", "check")
    pages = graph.map(
        Task(type="act", objective="page"), ["a", "b"], name="page", depends_on="review"
    )
    add("pay", *pages)
    add("sign", "pay")
    add("clean", "sign", always=True, timeout=DEADLINE)
    return graph


class Actor:
    """The handler of the graph. effects: the file of the effects."""

    def __init__(self, effects):
        self.file = os.open(str(effects), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._client = ScriptedInferenceClient(lambda body: "done")

    def effect(self, context):
        """Record an effect outside of the run."""
        os.write(self.file, f"{context.idempotency_key} {context.attempt}\n".encode())

    def __call__(self, task, context):
        name = context.name
        self.effect(context)
        if name != "pay":  # what its step commits must not be counted twice
            self._client.generate(name * context.visit)
        if name == "flaky" and context.attempt < 3:
            raise ValueError(f"attempt {context.attempt}")
        if name == "half":
            return Partial("most of it", "half of it")
        if name == "broken":
            raise LookupError("broken for good")
        if name == "spawner":
            context.spawn(Task(type="act", objective="named"), name="named")
            context.spawn(Task(type="act", objective="child"), before_dependents=True)
        if name == "spawner/1":
            context.spawn(Task(type="act", objective="grandchild"), depends_on=["named"])
        if name == "fork":
            return Route("left", result="to the left")
        if name == "review" and context.visit < 3:
            return Route("draft", result=f"not yet {context.visit}")
        if name == "pay":
            return [context.step("first", self._pay, context), context.step("then", str, 5)]
        if name == "sign":
            return context.wait_for("name", type=str)
        return [name, sorted(context.inputs), dict(context.feedback), context.visit]

    def _pay(self, context):
        self.effect(context)
        self._client.generate("pay")
        return "paid"


def drive(open_cache, effects, on_call=None, workers=0, answer="Ann", store_options=None):
    """Answer what waits, run the graph, and repeat that until the run has ended.

    Returns the outcome of the run.
    """
    cache = open_cache()
    if on_call is not None:
        interpose(cache, on_call)
    store = RunStore(cache, **(store_options or {}))
    actor = Actor(effects)
    with TaskScheduler({"act": actor}, max_workers=workers, runs=store) as scheduler:
        while True:
            result = scheduler.run(everything(), run_id=RUN_ID)
            if not result.waiting:
                return outcome(result)
            for wait in store.waits(RUN_ID):
                store.answer(RUN_ID, wait.name, answer)


def outcome(result):
    """Return what a result says, without what differs between equal runs."""
    return {
        "status": result.status.name,
        "results": {name: result.results[name] for name in sorted(result.results)},
        "statuses": {name: result.tasks[name].status.name for name in sorted(result.tasks)},
        "errors": {name: result.errors[name] for name in sorted(result.errors)},
        "exceptions": {name: repr(one) for name, one in sorted(result.exceptions.items())},
        "skipped": {name: result.skipped[name] for name in sorted(result.skipped)},
        "usage": tokens(result.usage),
        "usages": {name: tokens(usage) for name, usage in sorted(result.usages.items())},
    }


def tokens(usage):
    """Return the numbers of a usage that the graph has."""
    return [usage.requests, usage.input_tokens, usage.output_tokens]
