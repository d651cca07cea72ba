"""Must pass a type check, and each name must have its own type, not Any."""

from asimov_sync import MISSING, AnthropicInferenceClient, MemoryCache, Reply, Task, TaskGraph, TaskScheduler

task: Task = TaskGraph().add(Task(type="a", objective="b"))
reply: Reply = AnthropicInferenceClient(model="m", api_key="k").generate("hello")
status: str = TaskScheduler().run(TaskGraph()).status.name
MemoryCache().get("key", default=MISSING).anything_at_all()
