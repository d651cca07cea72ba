"""Small graphs, for tests."""

from asimov_sync import Task, TaskGraph


def single(type, task=None, **options):
    """One task, named "x"."""
    graph = TaskGraph()
    graph.add(task or Task(type=type), name="x", **options)
    return graph


def chain(*types):
    """One task after the other, named "a", "b" …"""
    graph = TaskGraph()
    for place, type in enumerate(types):
        graph.add(Task(type=type), name="abcdefgh"[place], depends_on="abcdefgh"[place - 1] if place else ())
    return graph


def wide(type, count, **options):
    """Tasks that wait for nothing, named by the type: "type[0]" …"""
    graph = TaskGraph()
    graph.map(Task(type=type), range(count), **options)
    return graph
