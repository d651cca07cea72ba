"""Draws a graph as SVG: a box for each task, which shows its status by colour, sign and words."""

from typing import Callable, Dict, List, Optional, Sequence, Tuple

from asimov_sync.display.folding import Arrow, Box, fold
from asimov_sync.display.layout import Layout, place
from asimov_sync.display.markup import escape, escape_short, make_visible, shorten
from asimov_sync.display.style import PICTURE_STYLE, THEME
from asimov_sync.display.view import RunView, TaskView
from asimov_sync.display.words import (
    count_statuses,
    format_seconds,
    shorten_to_width,
    text_width,
)

__all__ = ["draw_svg", "graph_svg", "sign"]

Link = Callable[[str], Optional[str]]

BOX_HEIGHT = 46
MARGIN = 14
COLUMN_GAP = 56
MIN_WIDTH = 112
MAX_WIDTH = 216
TEXT_START = 32
NAME_SIZE = 14.5  # 13 pixels in bold
DETAIL_SIZE = 11
MAX_TITLE = 300
MIN_FIT, MAX_FIT = 780, 1700
"""The widths of pictures that a page may shrink to its own width."""

SIGNS = {
    "complete": "M-4 .5l3 3 5-6.5",
    "failed": "M-3.5-3.5l7 7m0-7l-7 7",
    "partial": "M-4 0h8",
    "executing": "M-2.5-4l6 4-6 4z",
    "parked": "M-2.5-4v8m5-8v8",
    "delayed": "M0-4v4l3 2",
    "skipped": "M-4 4l8-8",
    "not selected": "M-3 0h.1M0 0h.1M3 0h.1",
    "waiting": "",
}
"""The path of each status's sign, drawn inside a circle."""


def graph_svg(view: RunView, *, link: Optional[Link] = None, style: bool = True) -> str:
    """Return the picture of a graph or a run as an `<svg>` element.

    view: what to draw. Large graphs are folded (see `folding`).
    link: a function that returns for the name of a task the address that its box links to, or
        None. By default, no box is a link.
    style: include the style sheet; default True. A page that has THEME and PICTURE_STYLE already
        needs none.
    """
    boxes, arrows = fold(view.tasks)
    ran = view.status is not None or any(task.status != "waiting" for task in view.tasks)
    layout = place(len(boxes), [(one.source, one.target) for one in arrows if one.kind != "loop"])
    widths = [MIN_WIDTH] * layout.size[0]
    texts = [(_one_line(box.label), _one_line(_details(box, ran))) for box in boxes]
    for column, (label, details) in zip(layout.columns, texts):
        needed = max(text_width(label, NAME_SIZE), text_width(details, DETAIL_SIZE))
        widths[column] = max(widths[column], min(MAX_WIDTH, round(needed) + TEXT_START + 12))
    frame = _Frame(layout, widths)
    loops = [one for one in arrows if one.kind == "loop"]
    lines = _draw_arrows(arrows, frame)
    height = frame.height + (26 if loops else 0)
    count = len(view.tasks)
    title = f"{shorten(view.title or 'Graph', MAX_TITLE)}: {count} task{'' if count == 1 else 's'}"
    shown = "".join(
        _draw_box(box, text, frame.corner(number), frame.width(number), ran, link)
        for number, (box, text) in enumerate(zip(boxes, texts))
    )
    role = "img" if link is None else "group"  # the parts of an image are not reachable
    fits = MIN_FIT < frame.total <= MAX_FIT and not style
    return draw_svg(lines + shown, frame.total, height, title, role=role, style=style, fits=fits)


def draw_svg(
    content: str, width: int, height: int, title: str, *, role: str, style: bool, fits: bool
) -> str:
    """Return an `<svg>` element.

    title: its name, for screen readers.
    role: its ARIA role.
    style: whether it has the style sheet of pictures in it.
    fits: whether it becomes as narrow as the page.
    """
    fit = " fit" if fits else ""
    sheet = f"<style>{THEME}{PICTURE_STYLE}</style>" if style else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="asy{fit}" width="{width}" '
        f'height="{height}" viewBox="0 0 {width} {height}" role="{role}" '
        f'aria-label="{escape(title)}">{sheet}{content}</svg>'
    )


class _Frame:
    """Positions in pixels."""

    def __init__(self, layout: Layout, widths: Sequence[int]) -> None:
        self.layout = layout
        self.widths = widths
        self.lefts: List[int] = []
        left = MARGIN
        for width in widths:
            self.lefts.append(left)
            left += width + COLUMN_GAP
        self.total = max(left - COLUMN_GAP, MARGIN) + MARGIN
        self.height = round(layout.size[1] * BOX_HEIGHT) + BOX_HEIGHT + 2 * MARGIN

    def y(self, height: float) -> float:
        """Return the vertical position of a centre."""
        return round(MARGIN + BOX_HEIGHT / 2 + height * BOX_HEIGHT, 1)

    def width(self, box: int) -> int:
        return self.widths[self.layout.columns[box]]

    def corner(self, box: int) -> Tuple[int, float]:
        """Return the upper left corner of a box."""
        left = self.lefts[self.layout.columns[box]]
        return left, round(self.y(self.layout.heights[box]) - BOX_HEIGHT / 2, 1)

    def points(self, arrow: Arrow) -> List[Tuple[float, float]]:
        """Return pairs of points between which an arrow is curved; between pairs it is straight."""
        layout = self.layout
        source, target = layout.columns[arrow.source], layout.columns[arrow.target]
        start = (self.lefts[source] + self.widths[source], self.y(layout.heights[arrow.source]))
        points: List[Tuple[float, float]] = [start]
        for column, height in layout.bends.get((arrow.source, arrow.target), ()):
            points.append((self.lefts[column], self.y(height)))
            points.append((self.lefts[column] + self.widths[column], self.y(height)))
        points.append((self.lefts[target] - 1, self.y(layout.heights[arrow.target])))
        return points


def _draw_arrows(arrows: Sequence[Arrow], frame: _Frame) -> str:
    paths: Dict[str, List[str]] = {}
    heads: Dict[str, List[str]] = {}
    for arrow in arrows:
        if arrow.kind == "loop":
            path, head = _draw_loop(arrow, frame)
        else:
            points = frame.points(arrow)
            path = "M%g %g" % points[0]
            for (x1, y1), (x2, y2) in zip(points[::2], points[1::2]):
                if (x1, y1) != points[0]:
                    path += f"H{x1:g}"
                if y1 == y2:
                    path += f"H{x2:g}"
                else:
                    middle = (x1 + x2) / 2
                    path += f"C{middle:g} {y1:g} {middle:g} {y2:g} {x2:g} {y2:g}"
            x, y = points[-1]
            head = f"M{x - 7:g} {y - 4:g}L{x:g} {y:g}L{x - 7:g} {y + 4:g}z"
        paths.setdefault(arrow.kind, []).append(path)
        heads.setdefault(arrow.kind, []).append(head)
    lines = []
    for kind, these in paths.items():
        style = "arrow" if kind == "dependency" else f"arrow {kind}"
        lines.append(f'<path class="{style}" d="{"".join(these)}"/>')
        style = "loophead" if kind == "loop" else "head"
        lines.append(f'<path class="{style}" d="{"".join(heads[kind])}"/>')
    return "".join(lines)


def _draw_loop(arrow: Arrow, frame: _Frame) -> Tuple[str, str]:
    """Draw a Route that went back: below the boxes, from the bottom of one to that of the other."""
    (left, top), (end_left, end_top) = frame.corner(arrow.source), frame.corner(arrow.target)
    x1 = left + frame.width(arrow.source) / 2 + 10
    x2 = end_left + frame.width(arrow.target) / 2 - 10
    y1, y2 = top + BOX_HEIGHT, end_top + BOX_HEIGHT
    columns = sorted((frame.layout.columns[arrow.source], frame.layout.columns[arrow.target]))
    lowest = max(
        frame.y(height) + BOX_HEIGHT / 2
        for column, height in zip(frame.layout.columns, frame.layout.heights)
        if columns[0] <= column <= columns[1]
    )
    lane = lowest + 20
    turn = min(24.0, abs(x1 - x2) / 2)
    side = -turn if x2 <= x1 else turn
    path = (
        f"M{x1:g} {y1:g}V{lane - 12:g}Q{x1:g} {lane:g} {x1 + side:g} {lane:g}"
        f"H{x2 - side:g}Q{x2:g} {lane:g} {x2:g} {lane - 12:g}V{y2 + 2:g}"
    )
    return path, f"M{x2 - 4:g} {y2 + 8:g}L{x2:g} {y2 + 1:g}L{x2 + 4:g} {y2 + 8:g}z"


def _draw_box(
    box: Box,
    text: Tuple[str, str],
    corner: Tuple[int, float],
    width: int,
    ran: bool,
    link: Optional[Link],
) -> str:
    left, top = corner
    counts = count_statuses(box.tasks)
    status = next(iter(counts)) if ran else "waiting"
    room = width - TEXT_START - 8
    label = escape(shorten_to_width(text[0], room, NAME_SIZE))
    details = escape(shorten_to_width(text[1], room, DETAIL_SIZE))
    middle = 20 if details else 27
    parts = [f"<title>{escape_short(_title(box, ran), 2 * MAX_TITLE)}</title>"]
    if len(box.tasks) > 1:
        parts.append(
            f'<rect class="under" x="5" y="4" width="{width}" height="{BOX_HEIGHT}" rx="9"/>'
        )
    parts.append(f'<rect class="box" width="{width}" height="{BOX_HEIGHT}" rx="9"/>')
    parts.append(f'<rect class="tint" width="{width}" height="{BOX_HEIGHT}" rx="9"/>')
    parts.append(f'<g transform="translate(17 {BOX_HEIGHT / 2:g})">{sign(status)}</g>')
    parts.append(f'<text class="strong" x="{TEXT_START}" y="{middle}">{label}</text>')
    if details:
        parts.append(f'<text class="quiet" x="{TEXT_START}" y="{middle + 16}">{details}</text>')
    if "when" in box.tasks[0].options and len(box.tasks) == 1:
        x = width - 13
        parts.append(f'<path class="sign" d="M{x - 5} 12L{x} 7L{x + 5} 12L{x} 17z"/>')
    if len(box.tasks) > 1 and ran:
        parts.append(_draw_shares(counts, width))
    kind = f"s-{status.replace(' ', '-')}" if ran else "s-none"
    group = f'<g class="{kind}" transform="translate({left} {top:g})">{"".join(parts)}</g>'
    address = link(box.tasks[0].name) if link is not None else None
    return group if address is None else f'<a href="{escape(address)}">{group}</a>'


def _draw_shares(counts: Dict[str, int], width: int) -> str:
    """Draw a bar that shows the share of each status among the tasks of a folded box."""
    parts, left, room = [], float(TEXT_START), width - TEXT_START - 10
    total = sum(counts.values())
    for status, count in reversed(list(counts.items())):
        share = round(room * count / total, 1)
        kind = f"s-{status.replace(' ', '-')}"
        parts.append(
            f'<g class="{kind}"><rect class="fill" x="{left:g}" y="{BOX_HEIGHT - 6}" '
            f'width="{share:g}" height="2.5"/></g>'
        )
        left += share
    return "".join(parts)


def sign(status: str) -> str:
    """Return the sign of a status: a circle around 0, 0 with a shape of the status inside."""
    path = SIGNS.get(status, "")
    dashes = ' stroke-dasharray="2.5 2.5"' if status in ("waiting", "not selected") else ""
    circle = f'<circle class="sign" r="8"{dashes}/>'
    return circle + (f'<path class="sign" d="{path}"/>' if path else "")


def _one_line(text: str) -> str:
    return make_visible(shorten(text, MAX_TITLE).replace("\n", " "))


def _details(box: Box, ran: bool) -> str:
    if len(box.tasks) > 1:
        if not ran:
            return f"{len(box.tasks)} tasks"
        counts = count_statuses(box.tasks)
        if len(counts) == 1:
            return f"{len(box.tasks)} {next(iter(counts))}"
        return ", ".join(f"{count} {status}" for status, count in counts.items())
    task = box.tasks[0]
    if not ran:
        return ", ".join(([task.type] if task.type != task.name else []) + list(task.options))
    parts = [task.status]
    if task.seconds is not None and task.status in ("complete", "partial", "failed"):
        parts.append(format_seconds(task.seconds))
    if task.visits > 1:
        parts.append(f"{task.visits} visits")
    if task.attempts > 1:
        parts.append(f"{task.attempts} attempts")
    return " · ".join(parts)


def _title(box: Box, ran: bool) -> str:
    if len(box.tasks) > 1:
        names = ", ".join(task.name for task in box.tasks[:5])
        more = ", …" if len(box.tasks) > 5 else ""
        return f"{len(box.tasks)} tasks: {names}{more}"
    return _describe(box.tasks[0], ran)


def _describe(task: TaskView, ran: bool) -> str:
    lines = [shorten(task.name, MAX_TITLE)]
    if task.type != task.name:
        lines.append(f"type: {shorten(task.type, MAX_TITLE)}")
    if task.objective:
        lines.append(shorten(task.objective, MAX_TITLE))
    if ran:
        lines.append(task.status)
    if task.spawned_by is not None:
        lines.append(f"spawned by {task.spawned_by}")
    if task.route is not None:
        lines.append(f"route: {', '.join(task.route) or 'nothing'}")
    if task.error is not None:
        lines.append(shorten(task.error, MAX_TITLE))
    return "\n".join(lines)
