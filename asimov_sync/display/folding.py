"""Folds the tasks of a large graph into few boxes, and finds the arrows between these. Pure."""

import collections
import re
from typing import Callable, Dict, Hashable, List, NamedTuple, Sequence, Tuple

from asimov_sync.display.layout import find_layers
from asimov_sync.display.view import TaskView

__all__ = ["Arrow", "Box", "fold", "fold_name"]

MAX_BOXES = 120
"""The number of boxes in a picture above which more is folded."""

MAX_COLUMNS = 40
"""The number of columns in a picture above which neighbouring columns are folded."""

MAX_ITEMS = 12
"""The number of items of a map above which they are folded to one box."""

MAX_APART = 6
"""The number of failed and parked tasks up to which they have boxes of their own."""

_ITEM = re.compile(r"\[[^\[\]]*\]|(?<=[^\d\[\]])\d+(?=\.|$)")


class Box(NamedTuple):
    """A box of a picture.

    label: the name of its task; for several tasks, what they have in common.
    tasks: its tasks.
    """

    label: str
    tasks: Tuple[TaskView, ...]


class Arrow(NamedTuple):
    """An arrow between two boxes, by their numbers.

    kind: "dependency"; "unselected" for a dependency whose Route did not select the dependent;
        "spawned"; or "loop" for a Route that went back.
    """

    source: int
    target: int
    kind: str


def fold(tasks: Sequence[TaskView], limit: int = MAX_BOXES) -> Tuple[List[Box], List[Arrow]]:
    """Return the boxes and the arrows of a picture.

    The items of a long map, and tasks whose names differ by a last number, become one box. If there
    are still more than `limit` boxes, those of several maps, then the tasks of a type, and at last
    whole columns do. Only tasks of one column, or neighbouring columns as a whole, are folded, so
    that no arrow is reversed. A few failed or parked tasks keep boxes of their own.
    """
    numbers = {task.name: number for number, task in enumerate(tasks)}
    arrows = _find_arrows(tasks, numbers)
    forward = [(one.source, one.target) for one in arrows if one.kind != "loop"]
    layers = find_layers(len(tasks), forward)
    apart = {number for number, task in enumerate(tasks) if task.status in ("failed", "parked")}
    if len(apart) > MAX_APART:
        apart = set()
    patterns = [fold_name(task.name) for task in tasks]
    maps = [fold_name(task.name, last_only=True) for task in tasks]
    columns = max(layers, default=0) + 1
    step = -(-columns // min(MAX_COLUMNS, limit))
    sizes = collections.Counter(
        (layers[number], maps[number], task.type) for number, task in enumerate(tasks)
    )

    def by_long_map(number: int) -> Hashable:
        key = (layers[number], maps[number], tasks[number].type)
        return key if sizes[key] > MAX_ITEMS else number

    def by_map(number: int) -> Hashable:
        return layers[number], patterns[number], tasks[number].type

    def by_type(number: int) -> Hashable:
        return layers[number], tasks[number].type

    def by_columns(number: int) -> Hashable:
        return layers[number] // step

    ways: List[Callable[[int], Hashable]] = [by_long_map, by_map, by_type]
    for way in ways if step == 1 else []:
        keys = [number if number in apart else way(number) for number in range(len(tasks))]
        if len(set(keys)) <= limit:
            break
    else:
        keys = [by_columns(number) for number in range(len(tasks))]
    members: Dict[Hashable, List[int]] = {}
    for number, key in enumerate(keys):
        members.setdefault(key, []).append(number)
    box_of: Dict[int, int] = {}
    boxes: List[Box] = []
    for these in members.values():
        for number in these:
            box_of[number] = len(boxes)
        own = tuple(tasks[number] for number in these)
        boxes.append(Box(_label([patterns[number] for number in these], own), own))
    return boxes, _fold_arrows(arrows, box_of)


def _fold_arrows(arrows: Sequence[Arrow], box_of: Dict[int, int]) -> List[Arrow]:
    """Return the arrows between boxes, of which a dependency hides others of the same boxes.

    arrows: the arrows between tasks.
    box_of: the box of each task.
    """
    folded = dict.fromkeys(
        Arrow(box_of[one.source], box_of[one.target], one.kind)
        for one in arrows
        if box_of[one.source] != box_of[one.target] or one.kind == "loop"
    )
    plain = {(one.source, one.target) for one in folded if one.kind == "dependency"}
    return [
        one
        for one in folded
        if one.kind in ("dependency", "loop") or (one.source, one.target) not in plain
    ]


def fold_name(name: str, last_only: bool = False) -> str:
    """Return a name without keys of maps and numbers: "page[3].fetch-2" is "page[…].fetch-…".

    last_only: replace the last of them only; default False.
    """
    matches = list(_ITEM.finditer(name))
    for match in reversed(matches[-1:] if last_only else matches):
        shown = "[…]" if match.group().startswith("[") else "…"
        name = name[: match.start()] + shown + name[match.end() :]
    return name


def _label(patterns: Sequence[str], tasks: Sequence[TaskView]) -> str:
    if len(tasks) == 1:
        return tasks[0].name
    maps = {fold_name(task.name, last_only=True) for task in tasks}
    if len(maps) == 1:
        return maps.pop()
    if len(set(patterns)) == 1:
        return patterns[0]
    types = list(dict.fromkeys(task.type for task in tasks))
    return types[0] if len(types) == 1 else f"{tasks[0].name} … {tasks[-1].name}"


def _find_arrows(tasks: Sequence[TaskView], numbers: Dict[str, int]) -> List[Arrow]:
    arrows = []
    for number, task in enumerate(tasks):
        for name in task.depends_on:
            if name in numbers:
                route = tasks[numbers[name]].route
                unselected = route is not None and task.name not in route
                kind = "unselected" if unselected else "dependency"
                arrows.append(Arrow(numbers[name], number, kind))
        if task.spawned_by in numbers and task.spawned_by not in task.depends_on:
            arrows.append(Arrow(numbers[task.spawned_by], number, "spawned"))
        for name in task.returned_from:
            if name in numbers:
                arrows.append(Arrow(numbers[name], number, "loop"))
    return arrows
