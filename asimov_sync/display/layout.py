"""Places the boxes of a graph in columns, so that the arrows point to the right. Pure.

The steps are those of layered drawing (Sugiyama, Tagawa and Toda 1981): columns by the longest
path, an order within each column by barycentres, and heights by least squares. Ties are broken by
the order of the tasks, so the same graph always gives the same picture.
"""

from typing import Dict, Iterable, List, NamedTuple, Sequence, Tuple

__all__ = ["Layout", "find_layers", "place"]

SWEEPS = 6
"""The number of passes over the columns that reduce the crossings."""

ALIGNMENTS = "before after before after both both before"
"""The passes over the columns that straighten the arrows: the neighbours that a point follows."""

MAX_BENDS = 3000
"""The number of bends of long arrows above which they are drawn without bends, which bounds the
time."""

GAP = 1.4
"""The distance of boxes in a column, in heights of a box."""

LANE = 0.45
"""The distance of an arrow that passes a column from its neighbours, in heights of a box."""


class Layout(NamedTuple):
    """The positions of the boxes of a graph.

    columns: the column of each box, from 0 on.
    heights: the height of each box's centre, in heights of a box, from 0 on.
    bends: for each edge, the points (column, height) at which its arrow passes a column.
    size: the number of columns, and the largest height.
    """

    columns: List[int]
    heights: List[float]
    bends: Dict[Tuple[int, int], List[Tuple[int, float]]]
    size: Tuple[int, float]


def find_layers(count: int, edges: Iterable[Tuple[int, int]]) -> List[int]:
    """Return for each box the length of the longest path to it.

    An edge that would close a cycle is left out. Takes time in proportion to the edges.
    """
    after: List[List[int]] = [[] for _ in range(count)]
    pending = [0] * count
    for source, target in edges:
        if source != target:
            after[source].append(target)
            pending[target] += 1
    layers = [0] * count
    done = [False] * count
    ready = [box for box in range(count) if not pending[box]]
    first = 0
    while True:
        for box in ready:  # grows during the walk
            done[box] = True
            for target in after[box]:
                if not done[target]:
                    layers[target] = max(layers[target], layers[box] + 1)
                    pending[target] -= 1
                    if not pending[target]:
                        ready.append(target)
        while first < count and done[first]:
            first += 1
        if first == count:
            return layers
        ready = [first]  # in a cycle, which a stored run might have


def place(count: int, edges: Sequence[Tuple[int, int]]) -> Layout:
    """Return the layout of boxes that are numbered from 0 to `count` - 1.

    edges: pairs of boxes, (from, to).
    """
    layers = find_layers(count, edges)
    forward = [edge for edge in dict.fromkeys(edges) if layers[edge[0]] < layers[edge[1]]]
    lengths = sum(layers[target] - layers[source] - 1 for source, target in forward)
    paths: Dict[Tuple[int, int], List[int]] = {}
    columns = list(layers)
    before: List[List[int]] = [[] for _ in range(count)]
    after: List[List[int]] = [[] for _ in range(count)]
    for source, target in forward:
        path = []
        if lengths <= MAX_BENDS:
            for layer in range(layers[source] + 1, layers[target]):
                path.append(len(columns))
                columns.append(layer)
                before.append([])
                after.append([])
        paths[source, target] = path
        points = [source, *path, target]
        for one, other in zip(points, points[1:]):
            after[one].append(other)
            before[other].append(one)
    rows: List[List[int]] = [[] for _ in range(max(columns, default=-1) + 1)]
    for point, column in enumerate(columns):
        rows[column].append(point)
    _order(rows, before, after)
    heights = _align(rows, before, after, count)
    bends = {
        edge: [(columns[point], heights[point]) for point in path] for edge, path in paths.items()
    }
    return Layout(layers, heights[:count], bends, (len(rows), max(heights, default=0.0)))


def _order(rows: List[List[int]], before: List[List[int]], after: List[List[int]]) -> None:
    """Order each column so that few arrows cross. Keeps the best order of all passes."""
    if len(rows) < 2:
        return
    position = [0.0] * len(before)
    best, fewest = [list(row) for row in rows], _count_crossings(rows, after)
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        walk = rows if downwards else rows[::-1]
        neighbours = before if downwards else after
        for row in walk:
            for place_in_row, point in enumerate(row):
                near = neighbours[point]
                if near:
                    position[point] = sum(position[one] for one in near) / len(near)
                else:
                    position[point] = float(place_in_row)
            row.sort(key=position.__getitem__)
            for place_in_row, point in enumerate(row):
                position[point] = float(place_in_row)
        crossings = _count_crossings(rows, after)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
        if not fewest:
            break
    rows[:] = best


def _count_crossings(rows: List[List[int]], after: List[List[int]]) -> int:
    """Count the crossings of arrows between neighbouring columns (Barth, Juenger, Mutzel 2002)."""
    total = 0
    for left, right in zip(rows, rows[1:]):
        place_of = {point: place_in_row for place_in_row, point in enumerate(right)}
        size = len(right)
        tree = [0] * (size + 1)
        seen = 0
        for point in left:
            targets = sorted(place_of[one] for one in after[point])
            for target in targets:
                index, not_above = target + 1, 0
                while index:
                    not_above += tree[index]
                    index &= index - 1
                total += seen - not_above
            for target in targets:
                index = target + 1
                while index <= size:
                    tree[index] += 1
                    index += index & -index
            seen += len(targets)
    return total


def _align(
    rows: List[List[int]], before: List[List[int]], after: List[List[int]], count: int
) -> List[float]:
    """Return the height of each point: near its neighbours, and apart from others in its column."""
    heights = [0.0] * len(before)
    offsets: List[List[float]] = []
    for row in rows:
        offset, total = [], 0.0
        for number, point in enumerate(row):
            if number:
                boxes = (point < count) + (row[number - 1] < count)
                total += (LANE, (GAP + LANE) / 2, GAP)[boxes]
            offset.append(total)
        offsets.append(offset)
        for point, height in zip(row, offset):
            heights[point] = height - total / 2
    for number, side in enumerate(ALIGNMENTS.split()):
        walk = range(len(rows)) if number % 2 == 0 else range(len(rows) - 1, -1, -1)
        for column in walk:
            row = rows[column]
            wanted = []
            for point in row:
                near = (before[point] if side != "after" else []) + (
                    after[point] if side != "before" else []
                )
                middle = sorted(heights[one] for one in near or [point])
                half = len(middle) // 2
                wanted.append((middle[half] + middle[~half]) / 2)
            for point, height in zip(row, _separate(wanted, offsets[column])):
                heights[point] = height
    lowest = min(heights, default=0.0)
    return [height - lowest for height in heights]


def _separate(wanted: Sequence[float], offsets: Sequence[float]) -> List[float]:
    """Return heights that keep the distances of `offsets`, as near to those wanted as possible.

    Without the offsets it is isotonic regression, which pooling adjacent violators solves.
    """
    pools: List[Tuple[float, int]] = []  # the mean and the size of each
    for height, offset in zip(wanted, offsets):
        mean, size = height - offset, 1
        while pools and pools[-1][0] > mean:
            other, number = pools.pop()
            mean, size = (mean * size + other * number) / (size + number), size + number
        pools.append((mean, size))
    means = [mean for mean, size in pools for _ in range(size)]
    return [mean + offset for mean, offset in zip(means, offsets)]
