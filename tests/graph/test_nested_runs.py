"""Runs inside of tasks, at any depth, from tools' threads, and across schedulers: nobody waits for ever."""

import concurrent.futures

import pytest

from asimov_sync import Agent, Task, TaskGraph, TaskScheduler, TaskStatus, tool
from asimov_sync.testing import ScriptedInferenceClient, calls

from ..waiting import Background
from .graphs import chain, single, wide

MODES = [(1, False), (3, False), (0, False), (1, True)]


@pytest.fixture(params=MODES, ids=["one thread", "three threads", "calling thread", "executor of one thread"])
def make(request):
    """Makes schedulers of one mode; those with an executor have one of their own each."""
    made = []

    def scheduler():
        workers, foreign = request.param
        executor = concurrent.futures.ThreadPoolExecutor(1) if foreign else None
        made.append((TaskScheduler({"quick": lambda task, context: context.name}, workers, executor=executor), executor))
        return made[-1][0]

    yield scheduler
    for scheduler, executor in made:
        scheduler.close()
        if executor is not None:
            executor.shutdown()


def test_three_levels(make):
    """A task runs a graph whose tasks run graphs whose tasks run graphs, all on one scheduler."""
    scheduler = make()

    def deeper(task, context):
        level = task.params["level"]
        graph = wide("quick", 3)
        if level:
            graph.map(Task(type="deeper", params={"level": level - 1}), range(2), name="d")
        result = scheduler.run(graph)
        assert result.status is TaskStatus.COMPLETE, result.errors
        return 1 + sum(value for name, value in result.results.items() if name.startswith("d"))

    scheduler.handlers["deeper"] = deeper
    graph = TaskGraph()
    graph.map(Task(type="deeper", params={"level": 2}), range(3), name="d")
    result = Background(scheduler.run, graph).result()
    assert list(result.results.values()) == [7, 7, 7], result.errors


def test_two_schedulers(make):
    """Tasks of each of two schedulers run graphs on the other one, to and fro."""
    one, two = make(), make()

    def over(task, context):
        left = task.params["left"]
        graph = single("quick") if not left else TaskGraph()
        if left:
            graph.map(Task(type="over", params={"left": left - 1}), range(2))
        result = (two if left % 2 else one).run(graph)
        assert result.status is TaskStatus.COMPLETE, result.errors
        return left

    one.handlers["over"] = two.handlers["over"] = over
    graph = TaskGraph()
    graph.map(Task(type="over", params={"left": 3}), range(3))
    assert list(Background(one.run, graph).result().results.values()) == [3, 3, 3]


def test_from_a_tool_of_an_agent(make):
    """An agent's tools, which are called side by side, run graphs on the scheduler whose only worker is in that agent."""
    scheduler = make()

    @tool
    def look_up(number: int) -> str:
        return ",".join(scheduler.run(chain("quick", "quick")).results)

    wanted = calls(*[("look_up", {"number": number}) for number in range(3)])
    client = ScriptedInferenceClient(lambda body: "done" if len(body["messages"]) > 1 else wanted)
    scheduler.handlers["agent"] = Agent(client, tools=[look_up])
    graph = TaskGraph()
    graph.add(Task(type="agent", objective="look it up"), name="x")
    result = Background(scheduler.run, graph).result()
    assert result.status is TaskStatus.COMPLETE, result.errors
    assert result.usages["x"].requests == 2


def test_a_nested_run_ends_with_its_task(make):
    """Where the outer run is cancelled, the inner one is, too: its tasks are freed, and the graph may run again."""
    scheduler, inner = make(), single("wait")
    seen = []

    def outer(task, context):
        seen.append(scheduler.run(inner).errors)

    scheduler.handlers["wait"] = lambda task, context: context.cancellation.wait(20)
    scheduler.handlers["outer"] = outer
    result = Background(scheduler.run, single("outer"), timeout=0.1).result()
    assert "time-out" in result.errors["x"]
    scheduler.handlers["wait"] = lambda task, context: "freed"
    assert Background(scheduler.run, chain("quick")).result().status is TaskStatus.COMPLETE
    assert Background(scheduler.run, inner).result().results == {"x": "freed"}
    assert seen and "time-out" in seen[0]["x"]


def test_a_nested_stream(make):
    """A task reads the events of a run on its own scheduler, and leaves it in the middle."""
    scheduler = make()

    def outer(task, context):
        for event in scheduler.stream(wide("quick", 5)):
            if event.type == "task_finished":
                return event.name

    scheduler.handlers["outer"] = outer
    result = Background(scheduler.run, wide("outer", 4)).result()
    assert set(result.results.values()) <= {"quick[{}]".format(number) for number in range(5)}
    assert len(result.results) == 4
