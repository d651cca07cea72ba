"""Small graphs for tests."""

from asimov_sync import Task, TaskGraph


def single(type="echo", task=None, **options):
    """Return a graph of one task, "x"."""
    graph = TaskGraph()
    graph.add(task or Task(type=type, objective="x"), name="x", **options)
    return graph


def chain(*types):
    """Return a chain of tasks, "a", "b" …"""
    graph = TaskGraph()
    for index, type in enumerate(types):
        graph.add(
            Task(type=type),
            name="abcdefgh"[index],
            depends_on="abcdefgh"[index - 1] if index else (),
        )
    return graph


def record_events(scheduler):
    """Return a list that receives all events of the scheduler's runs from now on."""
    events = []
    scheduler.on_event(events.append)
    return events


def wide(type, count, **options):
    """Return a graph of independent tasks, named by the type: "type[0]" …"""
    graph = TaskGraph()
    graph.map(Task(type=type), range(count), **options)
    return graph
