"""Must pass a type check, in which each name has its own type and not Any."""

from typing import List

from asimov_sync import (
    MISSING,
    Agent,
    AnthropicInferenceClient,
    MemoryCache,
    Reply,
    RunResult,
    Task,
    TaskGraph,
    TaskScheduler,
    ToolRun,
)
from asimov_sync.aio import to_async

task: Task = TaskGraph().add(Task(type="a", objective="b"))
reply: Reply = AnthropicInferenceClient(model="m", api_key="k").generate("hello")
status: str = TaskScheduler().run(TaskGraph()).status.name
MemoryCache().get("key", default=MISSING).anything_at_all()


async def main(client: AnthropicInferenceClient) -> None:
    """Check the async facade as well."""
    (await to_async(MemoryCache()).get("k")).anything_at_all()
    deleted: bool = await to_async(MemoryCache()).delete("k")
    reply: Reply = await to_async(client).generate("hello")
    async with to_async(client).stream("hello") as stream:
        texts: List[str] = [text async for text in stream.text_stream]
        reply = stream.reply
    run: ToolRun = await to_async(Agent(client)).run("hello")
    result: RunResult = await to_async(TaskScheduler()).run(TaskGraph())
    kinds: List[str] = [event.type async for event in to_async(TaskScheduler()).stream(TaskGraph())]
    print(deleted, reply, texts, run, result, kinds)
