"""A notebook: cells in a real Jupyter kernel, interrupted as its stop button does, and run again.

`python -m tests.hosts.notebook PLACE DIRECTORY` has a handler block in this place (a function of SETUP's), and tells as JSON
what came of every cell.
"""

import ast
import json
import os
import pathlib
import sys
import textwrap
import time

from jupyter_client import KernelManager

from ..waiting import DEADLINE, wait_for

SETUP = """
import asyncio, json, pathlib, sys, threading, time
from asimov_sync import AnthropicInferenceClient, MemoryCache, Task, TaskGraph, TaskScheduler
from asimov_sync.aio import to_async
from asimov_sync.testing import ModelServer

never, released = threading.Event(), threading.Event()

def hold(request, number):
    return None if number <= 3 or released.is_set() else never

server = ModelServer(lambda body: "one two", before_event=hold)
client = AnthropicInferenceClient(model="m", api_key="k", api_url=server.url)
cache = MemoryCache()

def blocked(task, context):
    started.touch()
    return globals()[place]()

def stream():
    return "".join(client.stream("hello").text_stream)

def sleep():
    time.sleep(0 if released.is_set() else 60)

def mailbox():
    return cache.get_message("letters")

def busy():
    while not released.is_set():
        pass

scheduler = TaskScheduler({"quick": lambda task, context: "done", "blocked": blocked}, max_workers=2)
graph = TaskGraph()
graph.add(Task(type="quick"), name="quick")
graph.add(Task(type="blocked"), name="blocked", depends_on="quick")
graph.add(Task(type="quick"), name="after", depends_on="blocked")
loop = asyncio.get_running_loop()
"""

CELLS = {
    "run": "result = scheduler.run(graph)",
    "stream": "for event in scheduler.stream(graph):\n    last = event\nresult = last.result",
    "await": "result = await loop.run_in_executor(None, scheduler.run, graph)",
    "facade": "facade = to_async(scheduler)\nresult = await facade.run(graph)",
    "facade's stream": "async for event in facade.stream(graph):\n    last = event\nresult = last.result",
}

# The client and the cache, synchronous and through the facade, in one cell.
BOTH = """
said = [client.generate("hello").text, "".join(client.stream("hello").text_stream)]
talker, store = to_async(client), to_async(cache)
said.append((await talker.generate("hello")).text)
async with talker.stream("hello") as stream:
    said.append("".join([text async for text in stream.text_stream]))
cache.set("key", "blocking")
read = [cache.get("key"), await store.get("key")]
reader = asyncio.ensure_future(store.get_message("answers"))
cache.publish_to_mailbox("answers", "a message")
read.append(await reader)
"""

# The clock is the machine's, so that the driver may compare.
TIMED = """
try:
{}
except BaseException:
    back = time.monotonic()
    raise
"""

RELEASE = """
released.set()
for _ in range(5):
    cache.publish_to_mailbox("letters", "a letter")
"""

LAST = "[scheduler.last_result.results, sorted(scheduler.last_result.errors), sorted(scheduler.last_result.skipped)]"


class Notebook:
    """A kernel of this Python, and the way to it."""

    def __init__(self):
        self.kernel = KernelManager()
        self.kernel.shutdown_wait_time = 2 * DEADLINE  # it is to end of its own accord, and not to be killed
        self.kernel.start_kernel(stdout=sys.stderr)
        self.client = self.kernel.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=2 * DEADLINE)

    def start(self, cell, **expressions):
        """Send a cell, and expressions to be evaluated after it; the number of the request."""
        told = {name: "json.dumps({})".format(expression) for name, expression in expressions.items()}
        return self.client.execute(cell, user_expressions=told, stop_on_error=False)  # or it may refuse the cell after that

    def finish(self, request):
        """Wait for the end of a cell: the name of the exception that it raised, and the values of the expressions."""
        while True:
            reply = self.client.get_shell_msg(timeout=DEADLINE)
            if reply["parent_header"].get("msg_id") == request:
                break
        content = reply["content"]
        if content["status"] != "ok":
            return content["ename"], {}
        told = content["user_expressions"].items()
        return None, {name: json.loads(ast.literal_eval(value["data"]["text/plain"])) for name, value in told}

    def run(self, cell, **expressions):
        """Run a cell that has to raise nothing; the values of the expressions."""
        error, values = self.finish(self.start(cell, **expressions))
        assert error is None, error
        return values

    def interrupt(self, cell, started):
        """Run a cell, and interrupt it once the file `started` is there.

        What it raised, and after how many seconds: in the cell, and as told to the user.
        """
        request = self.start(TIMED.format(textwrap.indent(cell, "    ")))
        wait_for(started.exists, "the start of the handler")
        started.unlink()
        time.sleep(0.1)  # until the cell is in its wait; either way the outcome is the same
        start = time.monotonic()
        self.kernel.interrupt_kernel()
        error, _ = self.finish(request)
        told = time.monotonic() - start
        return {"error": error, "control": self.run("", back="back")["back"] - start, "told": told}

    def close(self):
        """Shut the kernel down; in how many seconds."""
        start = time.monotonic()
        self.kernel.shutdown_kernel()
        return time.monotonic() - start


def main(place, directory):
    """Interrupt cells, release what they are blocked in, and run them again."""
    started = pathlib.Path(directory) / "started"
    notebook = Notebook()
    told = {"interrupted": {}, "run again": {}}
    try:
        notebook.run("place = {!r}".format(place))
        told.update(notebook.run(SETUP + "started = pathlib.Path({!r})".format(str(started)), loop="loop.is_running()"))
        notebook.finish(notebook.start("1 / 0"))  # for its first traceback, a kernel loads modules
        for name in ("run", "stream"):
            told["interrupted"][name] = notebook.interrupt(CELLS[name], started)
            told["interrupted"][name].update(notebook.run("", last=LAST))
        notebook.run(RELEASE)
        for name, cell in CELLS.items():
            told["run again"][name] = notebook.run(cell, status="result.status.name", names="list(result.results)")
        told["both"] = notebook.run(BOTH, said="said", read="read")
        told["shutdown"] = notebook.close()
    finally:
        notebook.kernel.shutdown_kernel(now=True)
    print(json.dumps(told))


if __name__ == "__main__":
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        os.environ[variable] = sys.argv[2]  # and not the user's own
    main(*sys.argv[1:])
