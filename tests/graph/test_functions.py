"""Handlers and plain functions in place of tasks: add, call and map."""

import functools
import pickle

import pytest

import asimov_sync
from asimov_sync import (
    Agent,
    GraphError,
    Partial,
    Retry,
    Route,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
)
from asimov_sync.testing import ScriptedInferenceClient


def fetch(url, upper=False):
    return url.upper() if upper else "text of " + url


def join(*texts, sep=" "):
    return sep.join(texts)


def show(task, context):
    return {"type": task.type, "params": task.params, "inputs": dict(context.inputs)}


class Shelf:
    def put(self, task, context):
        return task.params["book"]


# add


def test_handler_in_place_of_a_task():
    """The task of a handler has its qualified name as the type, and the objective and params."""
    graph = TaskGraph()
    task = graph.add(show, objective="look", params={"a": 1}, name="x")
    method = graph.add(Shelf().put, params={"book": "b"}, depends_on=task)
    assert (task.type, task.objective, task.params) == ("show", "look", {"a": 1})
    assert method.type == "Shelf.put"
    assert asimov_sync.run(graph).results == {
        "x": {"type": "show", "params": {"a": 1}, "inputs": {}},
        "put": "b",
    }


def test_names_after_handlers():
    """A handler without a name= is named after itself; the second one has a number."""
    graph = TaskGraph()
    for _ in range(3):
        graph.add(show)
    graph.add(functools.partial(show), name="show-5")
    graph.add(functools.partial(show))
    graph.add(show)
    assert list(graph) == ["show", "show-2", "show-3", "show-5", "show-4", "show-6"]


def test_own_handler_goes_first():
    """The handler of a task is used even if the scheduler has another for the task's type."""
    graph = TaskGraph()
    graph.add(show, name="own")
    graph.add(Task(type="show"), name="by type")
    with TaskScheduler({"show": lambda task, context: "the scheduler's"}) as scheduler:
        result = scheduler.run(graph)
    assert result["own"]["type"] == "show" and result["by type"] == "the scheduler's"


def test_agent_in_place_of_a_task():
    """An agent's name is the type of its task, and an agent without one is refused."""
    client = ScriptedInferenceClient(lambda request: "the answer")
    graph = TaskGraph()
    task = graph.add(Agent(client, name="writer"), objective="Write.")
    assert (task.type, list(graph)) == ("writer", ["writer"])
    assert asimov_sync.run(graph)["writer"] == "the answer"
    assert "Write." in str(client.requests[0]["messages"])
    with pytest.raises(GraphError, match=r"has no name.*Agent\(…, name="):
        graph.add(Agent(client))


def test_spawned_handler():
    """context.spawn takes a handler, too; without name=, the task is named after the handler."""

    def parent(task, context):
        return context.spawn(show, params={"a": 1}, depends_on="parent").type

    graph = TaskGraph()
    graph.add(parent)
    result = asimov_sync.run(graph)
    assert result["parent"] == "show"
    assert result["show-2"] == {"type": "show", "params": {"a": 1}, "inputs": {"parent": "show"}}


def test_graph_of_handlers_is_copied_and_pickled():
    """A copy, a subgraph and a pickle keep the handlers, the functions and the references."""
    graph = TaskGraph()
    one = graph.add(show, params={"a": 1})
    two = graph.call(fetch, "u")
    graph.call(join, two, graph.map(fetch, ["v"], name="page")[0], sep="/")
    graph.call(len, [one, two])
    expected = {"join": "text of u/text of v", "len": 2}
    outer = TaskGraph()
    outer.add_graph(graph, name="in")
    for twin in (graph.copy(), pickle.loads(pickle.dumps(graph)), outer["in.join"] and outer):
        results = asimov_sync.run(twin).results
        assert {name.replace("in.", ""): value for name, value in results.items()}.items() >= (
            expected.items()
        )


# call


def test_refused_call_uses_no_name():
    """A call with invalid options adds nothing, and does not use up a name."""
    graph = TaskGraph()
    graph.call(fetch, "u")
    for _ in range(2):
        with pytest.raises(GraphError):
            graph.with_options(timeout=0).call(fetch, "v")
    graph.call(fetch, "w")
    assert list(graph) == ["fetch", "fetch-2"]


def test_call_of_a_plain_function():
    """Arguments are passed as they are, and are the params of the task by their names."""
    graph = TaskGraph()
    task = graph.call(fetch, "u", upper=True)
    graph.call(fetch, "v")
    graph.call(max, 3, 4)
    assert task.type == "fetch" and task.params == {"url": "u", "upper": True}
    assert list(graph) == ["fetch", "fetch-2", "max"]
    assert asimov_sync.run(graph).results == {"fetch": "U", "fetch-2": "text of v", "max": 4}


def test_tasks_as_arguments():
    """A task is a dependency and arrives as its result, also in a list, a tuple or a dict."""

    def collect(plain, inside, *rest, **named):
        return plain, inside, rest, named

    graph = TaskGraph()
    one, two = graph.call(fetch, "1"), graph.add(show)
    pages = graph.map(str, [5, 6], name="page")
    graph.call(collect, one, {"a": one, "b": 7}, pages, (two, 8), key=[one], other="text")
    assert {before for before, after in graph.edges if after == "collect"} == {
        "fetch",
        "show",
        "page[0]",
        "page[1]",
    }
    result = asimov_sync.run(graph)
    assert result["collect"] == (
        "text of 1",
        {"a": "text of 1", "b": 7},
        (["5", "6"], (result["show"], 8)),
        {"key": ["text of 1"], "other": "text"},
    )
    assert graph["collect"].params["plain"] != "text of 1"


def test_argument_without_a_result():
    """The function receives None for a failed task (allow_failure), and for one not selected."""
    graph = TaskGraph()
    bad = graph.call(int, "no number")
    graph.with_options(allow_failure=True).call(repr, bad)
    graph.add(lambda task, context: Route("left"), name="choose")
    left = graph.with_options(name="left", depends_on="choose").call(fetch, "l")
    right = graph.with_options(name="right", depends_on="choose").call(fetch, "r")
    graph.with_options(name="both").call(repr, [left, right])
    result = asimov_sync.run(graph)
    assert result["repr"] == "None" and result["both"] == "['text of l', None]"


def test_call_options():
    """with_options takes the options of add for one call."""
    attempts = []

    def flaky(value):
        attempts.append(value)
        if len(attempts) < 2:
            raise ConnectionError("again")
        return value

    graph = TaskGraph()
    options = graph.with_options(
        name="x", retry=Retry(2, wait=lambda state: 0.0), timeout=20, when=lambda inputs: True
    )
    options.call(flaky, 5)
    graph.with_options(depends_on="x", when=lambda inputs: inputs["x"] > 5).call(flaky, 6)
    result = asimov_sync.run(graph)
    assert (result.results, attempts) == ({"x": 5}, [5, 5])
    assert list(result.skipped) == ["flaky"]


def test_call_options_keep_an_iterator_of_middleware():
    """Each call of one with_options has its middleware, even if that was given as an iterator."""
    called = []

    def note(call_next, task, context):
        called.append(context.name)
        return call_next()

    graph = TaskGraph()
    noted = graph.with_options(middleware=iter([note]))
    noted.call(str, 1)
    noted.call(str, 2)
    asimov_sync.run(graph)
    assert sorted(called) == ["str", "str-2"]


def test_plain_function_returns_what_a_handler_may():
    """A plain function may return a Partial or a Route. A generator is run to its end."""

    def generate():
        yield 1
        return "the end"

    graph = TaskGraph()
    graph.call(Partial, "half", "the rest is missing")
    graph.call(Route, result="routed")
    graph.call(generate)
    result = asimov_sync.run(graph)
    assert result.results == {"Partial": "half", "Route": "routed", "generate": "the end"}
    assert result.tasks["Partial"].status is TaskStatus.PARTIAL


def test_call_is_refused_at_the_call():
    """`call` raises GraphError at once, and adds no task.

    Covered: wrong arguments, a coroutine function, a str as the function, a task of another graph,
    and invalid options.
    """

    async def wait():
        pass

    graph, other = TaskGraph(), TaskGraph()
    stranger = other.call(fetch, "u")
    for call, words in (
        (lambda: graph.call(fetch), "'fetch' cannot be called .*: missing a required argument"),
        (lambda: graph.call(fetch, "u", loud=1), "unexpected keyword argument 'loud'"),
        (lambda: graph.call(wait), "'.*wait' is a coroutine function.*asyncio.run"),
        (lambda: graph.call("fetch", 1), "call takes a function and its arguments, not 'fetch'"),
        (lambda: graph.call(fetch, stranger), "task 'fetch', which was not added to this graph"),
        (lambda: graph.call(join, [stranger]), "which was not added to this graph"),
        (lambda: graph.with_options(depends_on=None).call(fetch, "u"), "depends_on= of"),
        (lambda: graph.with_options(timeout=0).call(fetch, "u"), "timeout= of 'fetch'"),
    ):
        with pytest.raises(GraphError, match=words):
            call()
    assert len(graph) == 0


# map


def test_map_of_a_function():
    """A function of one parameter receives the item, and names the map."""
    graph = TaskGraph()
    graph.map(fetch, ["a", "b"])
    graph.map(fetch, ["c"])
    graph.map(str, [5], name="text")
    graph.map(len, ["four"])
    assert graph["fetch[0]"].params == {"item": "a"}
    assert asimov_sync.run(graph).results == {
        "fetch[0]": "text of a",
        "fetch[1]": "text of b",
        "fetch-2[0]": "text of c",
        "text[0]": "5",
        "len[0]": 4,
    }


def test_map_of_a_handler():
    """A function of (task, context) is a handler, which finds the item in the params."""
    graph = TaskGraph()
    graph.map(show, ["a"], params={"depth": 2}, name="page")
    assert asimov_sync.run(graph)["page[0]"]["params"] == {"depth": 2, "item": "a"}


def test_map_over_tasks():
    """An item that is a task of the graph is a dependency; the function receives its result."""
    graph = TaskGraph()
    pages = graph.map(fetch, ["a", "b"], name="page")
    graph.map(len, pages, name="length")
    graph.map(lambda pair: pair[0] + str(pair[1]), zip(pages, (1, 2)), name="pair")
    assert ("page[1]", "length[1]") in graph.edges and ("page[0]", "length[1]") not in graph.edges
    results = asimov_sync.run(graph).results
    assert [results["length[1]"], results["pair[1]"]] == [9, "text of b2"]


def test_map_with_a_key():
    """The key names the copies; two items with one key, and an error in it, add nothing."""
    items = [{"id": "x", "n": 1}, {"id": "y", "n": 2}]
    graph = TaskGraph()
    graph.map(lambda item: item["n"], items, name="page", key=lambda item: item["id"])
    graph.map(Task(type="t"), items, name="task", key=lambda item: item["n"])
    assert list(graph) == ["page[x]", "page[y]", "task[1]", "task[2]"]
    graph.call(sum, [graph["page[x]"], graph["page[y]"]])
    del items[1]["n"]
    with pytest.raises(GraphError, match=r"two items of the map 'b' have the same key: 'b\[1\]'"):
        graph.map(len, ["1", "1"], name="b", key=int)
    with pytest.raises(KeyError):
        graph.map(len, items, name="b", key=lambda item: item["n"])
    with pytest.raises(GraphError, match="key= of 'b' is a function of an item, not 'id'"):
        graph.map(len, items, name="b", key="id")
    assert len(graph) == 5 and "b[x]" not in graph


@pytest.mark.parametrize(
    "function",
    [
        lambda: None,
        lambda task, context, more: None,
        lambda *items: None,
        lambda item, *, key: None,
    ],
)
def test_map_refuses_other_signatures(function):
    """A callable that takes neither the item nor (task, context) is a GraphError."""
    with pytest.raises(GraphError, match="is a function of the item, or a handler of .*takes"):
        TaskGraph().map(function, [1], name="x")
