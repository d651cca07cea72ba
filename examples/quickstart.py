"""Two agents in a graph, without a key: one writes, and the other one works with its result.

python examples/quickstart.py
"""

from asimov_sync import Agent, Task, TaskGraph, TaskScheduler
from asimov_sync.testing import ScriptedInferenceClient

# Returns these replies in place of a model. AnthropicInferenceClient("claude-haiku-4-5") calls a
# real model: it reads the key from ANTHROPIC_API_KEY.
client = ScriptedInferenceClient(["Bees make honey.", "Les abeilles font du miel."])

handlers = {
    "write": Agent(client, system="You write one short sentence."),
    "translate": Agent(client, system="You translate into French."),
}

graph = TaskGraph()
graph.add(Task(type="write", objective="Write about bees."), name="text")
graph.add(Task(type="translate", objective="Translate."), name="french", depends_on="text")

with TaskScheduler(handlers) as scheduler:
    result = scheduler.run(graph)

result.raise_for_failure()
for name, answer in result.results.items():
    print(f"{name}: {answer}")
