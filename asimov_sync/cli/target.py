"""Target: a graph or a flow that an argument names, with the scheduler that runs it."""

import argparse
import inspect
import typing
from types import ModuleType
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

from asimov_sync._json import loads
from asimov_sync.cli.command import CommandError, UsageError
from asimov_sync.cli.loading import load_module, load_object, load_scheduler, print_user_traceback
from asimov_sync.graph.task_graph import TaskGraph
from asimov_sync.scheduler import TaskScheduler

__all__ = ["Target", "add_target", "build_graph", "load_target", "read_arguments"]

KIND = "a graph or a flow"
EXAMPLE = "myapp.tasks:report"


class Target(NamedTuple):
    """A graph or a flow to run.

    scheduler, path: the scheduler of a flow, or that of the module of a graph, and `module:name`
        of it; None without.
    flow: the name of the flow; None for a graph.
    function: the function that builds the graph; None if the argument names a graph.
    graph: the graph; None if a function builds it.
    """

    scheduler: Optional[TaskScheduler]
    path: Optional[str]
    flow: Optional[str]
    function: Any = None
    graph: Optional[TaskGraph] = None


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names a graph or a flow, and --arg."""
    parser.add_argument(
        "target",
        metavar="MODULE:NAME",
        help="a registered flow, a TaskGraph, or a function that returns one; the current folder "
        "is searched first",
    )
    parser.add_argument(
        "--arg",
        action="append",
        default=[],
        type=_read_argument,
        metavar="NAME=VALUE",
        help="an argument of the flow or function: JSON, or a text; may be repeated",
    )


def _read_argument(text: str) -> Tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"an argument is written name=value, not {text!r}")
    return name, value


def load_target(path: str, scheduler_path: Optional[str]) -> Target:
    """Load the graph or flow that `module:name` names.

    scheduler_path: `module:name` of the scheduler; by default that of the module, if it has one.

    Raises UsageError if there is no such graph or flow, and CommandError if a module raises.
    """
    module, name = load_module(path, KIND, EXAMPLE)
    if scheduler_path is not None:
        schedulers = {scheduler_path: load_scheduler(scheduler_path)}
    else:
        schedulers = _find_schedulers(module)
    for where, scheduler in schedulers.items():
        if name in scheduler.flows and scheduler.flows[name].__module__ == module.__name__:
            return Target(scheduler, where, name, scheduler.flows[name])
    value = load_object(path, KIND, EXAMPLE)
    for where, scheduler in schedulers.items():
        for flow, function in scheduler.flows.items():
            if function is value:
                return Target(scheduler, where, flow, function)
    only: Tuple[Optional[TaskScheduler], Optional[str]] = (None, None)
    if len(schedulers) == 1:
        only = next((scheduler, where) for where, scheduler in schedulers.items())
    if isinstance(value, TaskGraph):
        return Target(*only, None, graph=value)
    if callable(value) and not isinstance(value, type):
        return Target(*only, None, function=value)
    raise UsageError(f"{path} is {value!r}, not a flow, a TaskGraph or a function that returns one")


def _find_schedulers(module: ModuleType) -> Dict[str, TaskScheduler]:
    """Return the schedulers of a module, each once, by `module:name`."""
    found: Dict[int, Tuple[str, TaskScheduler]] = {}
    for name, value in vars(module).items():
        if isinstance(value, TaskScheduler):
            found.setdefault(id(value), (f"{module.__name__}:{name}", value))
    return dict(found.values())


def build_graph(target: Target, arguments: List[Tuple[str, str]]) -> TaskGraph:
    """Return the graph of a target, which a function may have to build."""
    values = read_arguments(target, arguments)
    if target.graph is not None:
        return target.graph
    try:
        graph = target.function(**values)
    except Exception as error:
        print_user_traceback(error)
        raise CommandError("the graph could not be built") from None
    if not isinstance(graph, TaskGraph):
        raise UsageError(f"{target.function.__name__} returned {graph!r}, not a TaskGraph")
    return graph


def read_arguments(target: Target, arguments: List[Tuple[str, str]]) -> Dict[str, Any]:
    """Return the arguments of a flow or function by name.

    A value is the text itself where the function says `str`, otherwise JSON if it can be.

    Raises UsageError for arguments that do not fit the function.
    """
    if target.graph is not None:
        if arguments:
            raise UsageError("--arg is for flows and functions, and this is a graph")
        return {}
    try:
        hints = typing.get_type_hints(target.function)
    except Exception:  # a name that only a type checker knows, for example
        hints = {}
    values = {name: _read_value(text, hints.get(name)) for name, text in arguments}
    try:
        signature: Union[inspect.Signature, None] = inspect.signature(target.function)
    except (TypeError, ValueError):  # a builtin
        signature = None
    if signature is not None:
        try:
            signature.bind(**values)
        except TypeError as error:
            name = target.flow or target.function.__name__
            raise UsageError(f"{name}{signature}: {error}; give --arg name=value") from None
    return values


def _read_value(text: str, hint: Any) -> Any:
    if hint in (str, Optional[str]):
        return text
    try:
        return loads(text)
    except ValueError:
        return text
