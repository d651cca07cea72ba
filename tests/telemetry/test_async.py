"""Spans of calls through the async facade are children of the coroutine's span."""

import asyncio

from asimov_sync import Agent, Task, TaskGraph, TaskScheduler, tool
from asimov_sync.aio import to_async
from asimov_sync.testing import ScriptedInferenceClient, calls


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return word


def model(body):
    return "done" if len(body["messages"]) > 1 else calls(("look_up", {"word": "bee"}))


def test_span_of_coroutine_is_ancestor(exported):
    """Runs, streams and agents of concurrent coroutines each have their own ancestor."""
    client = ScriptedInferenceClient(model)
    agent = Agent(client, tools=[look_up], name="agent")
    graph = TaskGraph("graph")
    graph.add(Task(type="ask", objective="bee"), name="ask")

    async def run():
        with exported.span("run"):
            async with to_async(TaskScheduler({"ask": agent})) as scheduler:
                await scheduler.run(graph)

    async def stream():
        with exported.span("stream"):
            events = await to_async(client).stream("go")
        async for _ in events:
            await asyncio.sleep(0)

    async def ask():
        with exported.span("ask"):
            await to_async(agent).run("bee")

    async def main():
        await asyncio.gather(run(), stream(), ask())

    asyncio.run(main())
    chat = "/chat " + client.model
    below_agent = ["", chat, chat, "/execute_tool look_up"]
    expected = ["/run", "/run/invoke_workflow graph", "/run/invoke_workflow graph/task ask"]
    expected += [
        "/run/invoke_workflow graph/task ask/invoke_agent agent" + end for end in below_agent
    ]
    expected += ["/stream", "/stream" + chat, "/ask"] + [
        "/ask/invoke_agent agent" + end for end in below_agent
    ]
    assert exported.paths() == sorted(expected)
