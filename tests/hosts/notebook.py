"""A notebook: cells in a real Jupyter kernel, interrupted like with its stop button, and run again.

`python -m tests.hosts.notebook PLACE DIRECTORY` blocks a handler in PLACE, a function of SETUP, and
prints the outcome of every cell as JSON.
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

def stop_reply(request, number):
    return None if number <= 3 or released.is_set() else never

server = ModelServer(lambda body: "one two", before_event=stop_reply)
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

handlers = {"quick": lambda task, context: "done", "blocked": blocked}
scheduler = TaskScheduler(handlers, max_workers=2)
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
    "facade's stream": """
async for event in facade.stream(graph):
    last = event
result = last.result
""",
}

# The client and the cache, blocking and through the async facade, in one cell.
BOTH = """
texts = [client.generate("hello").text, "".join(client.stream("hello").text_stream)]
async_client, async_cache = to_async(client), to_async(cache)
texts.append((await async_client.generate("hello")).text)
async with async_client.stream("hello") as stream:
    texts.append("".join([text async for text in stream.text_stream]))
cache.set("key", "blocking")
read = [cache.get("key"), await async_cache.get("key")]
waiting = asyncio.ensure_future(async_cache.get_message("answers"))
cache.publish_to_mailbox("answers", "a message")
read.append(await waiting)
"""

# time.monotonic is the same clock in the kernel and in this process.
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

LAST = """[
    scheduler.last_result.results,
    sorted(scheduler.last_result.errors),
    sorted(scheduler.last_result.skipped),
]"""


class Notebook:
    """A running Jupyter kernel and its client."""

    def __init__(self):
        self.kernel = KernelManager()
        self.kernel.shutdown_wait_time = 2 * DEADLINE  # long enough not to be killed
        self.kernel.start_kernel(stdout=sys.stderr)
        self.client = self.kernel.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=2 * DEADLINE)

    def start(self, cell, **expressions):
        """Send a cell, with expressions to evaluate after it; return the id of the request."""
        encoded = {name: f"json.dumps({expression})" for name, expression in expressions.items()}
        # With stop_on_error, the kernel might refuse the next cell after an error.
        return self.client.execute(cell, user_expressions=encoded, stop_on_error=False)

    def finish(self, request):
        """Wait for the end of a cell; return its exception's name, and the expressions' values.

        In place of the values, a cell with an exception has its traceback.
        """
        while True:
            reply = self.client.get_shell_msg(timeout=DEADLINE)
            if reply["parent_header"].get("msg_id") == request:
                break
        content = reply["content"]
        if content["status"] != "ok":
            return content["ename"], {"traceback": "\n".join(content["traceback"])}
        expressions = content["user_expressions"].items()
        return None, {
            name: json.loads(ast.literal_eval(value["data"]["text/plain"]))
            for name, value in expressions
        }

    def run(self, cell, **expressions):
        """Run a cell that must succeed; return the values of the expressions."""
        error, values = self.finish(self.start(cell, **expressions))
        assert error is None, error
        return values

    def interrupt(self, cell, started):
        """Run a cell, and interrupt it once the file `started` exists.

        Returns the exception's name, the lines of its traceback, and the seconds until control
        returned in the cell and to the user.
        """
        request = self.start(TIMED.format(textwrap.indent(cell, "    ")))
        wait_for(started.exists, "the start of the handler")
        started.unlink()
        time.sleep(0.1)  # let the cell start its wait; the outcome is the same either way
        start = time.monotonic()
        self.kernel.interrupt_kernel()
        error, values = self.finish(request)
        seconds = time.monotonic() - start
        return {
            "error": error,
            "lines": len(values.get("traceback", "").splitlines()),
            "seconds_in_cell": self.run("", back="back")["back"] - start,
            "seconds": seconds,
        }

    def close(self):
        """Shut the kernel down; return the seconds it took."""
        start = time.monotonic()
        self.kernel.shutdown_kernel()
        return time.monotonic() - start


def main(place, directory):
    """Interrupt cells, unblock their handlers, and run the cells again."""
    started = pathlib.Path(directory) / "started"
    notebook = Notebook()
    report = {"interrupted": {}, "run again": {}}
    try:
        notebook.run(f"place = {place!r}")
        report.update(
            notebook.run(
                SETUP + f"started = pathlib.Path({str(started)!r})", loop="loop.is_running()"
            )
        )
        notebook.finish(notebook.start("1 / 0"))  # the first traceback loads modules
        for name in ("run", "stream"):
            report["interrupted"][name] = notebook.interrupt(CELLS[name], started)
            report["interrupted"][name].update(notebook.run("", last=LAST))
        notebook.run(RELEASE)
        for name, cell in CELLS.items():
            report["run again"][name] = notebook.run(
                cell, status="result.status.name", names="list(result.results)"
            )
        report["both"] = notebook.run(BOTH, texts="texts", read="read")
        report["shutdown"] = notebook.close()
    finally:
        notebook.kernel.shutdown_kernel(now=True)
    print(json.dumps(report))


if __name__ == "__main__":
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        os.environ[variable] = sys.argv[2]  # not the directories of the user
    main(*sys.argv[1:])
