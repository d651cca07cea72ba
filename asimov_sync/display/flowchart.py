"""Writes a graph as a Mermaid flowchart. Pure."""

from typing import List

from asimov_sync.display.folding import Box, fold
from asimov_sync.display.markup import make_visible, shorten
from asimov_sync.display.view import RunView
from asimov_sync.display.words import count_statuses, format_seconds

__all__ = ["mermaid"]

MAX_BOXES = 100
"""The number of boxes above which more is folded: Mermaid draws no chart of more than 500 edges,
and is slow long before."""

MAX_EDGES = 500
"""Mermaid's default limit, its option `maxEdges` (config.schema.yaml of Mermaid 11)."""

MAX_NAME = 80

SHAPES = {
    "failed": ("{{", "}}"),
    "partial": ("[/", "/]"),
    "parked": ("([", "])"),
    "skipped": ("[", "]"),
}
"""The brackets around the label of a box, by status; otherwise round ones."""

ARROWS = {"dependency": "-->", "unselected": "-.-", "spawned": "-.->", "loop": "-.->|back|"}

CLASSES = {
    "waiting": "fill:#8881,stroke:#888",
    "executing": "fill:#2f6fd622,stroke:#2f6fd6,stroke-width:2px",
    "parked": "fill:#8a5cd122,stroke:#8a5cd1,stroke-width:2px",
    "delayed": "fill:#c9781a22,stroke:#c9781a",
    "complete": "fill:#2a9a5c22,stroke:#2a9a5c",
    "partial": "fill:#c9a01a22,stroke:#c9a01a,stroke-width:2px",
    "failed": "fill:#d6404f22,stroke:#d6404f,stroke-width:2px",
    "skipped": "fill:#8880,stroke:#888,stroke-dasharray:4 3",
    "unselected": "fill:#8880,stroke:#8886,stroke-dasharray:2 3",
}
"""The style of each status. The fills are transparent, so that they suit light and dark pages."""


def mermaid(view: RunView) -> str:
    """Return the text of a Mermaid flowchart of a graph or a run.

    view: what to draw. The boxes have the status of their tasks in words, shape and colour.
    """
    boxes, arrows = fold(view.tasks, MAX_BOXES)
    ran = view.status is not None or any(task.status != "waiting" for task in view.tasks)
    lines = ["flowchart LR"]
    used: List[str] = []
    for number, box in enumerate(boxes):
        statuses = count_statuses(box.tasks)
        status = next(iter(statuses))
        left, right = SHAPES.get(status, ("(", ")"))
        name = "unselected" if status == "not selected" else status
        kind = f":::{name}" if ran else ""
        used.append(name)
        lines.append(f'    n{number}{left}"{_label(box, ran)}"{right}{kind}')
    for arrow in arrows[:MAX_EDGES]:
        lines.append(f"    n{arrow.source} {ARROWS[arrow.kind]} n{arrow.target}")
    if len(arrows) > MAX_EDGES:
        lines.append(f"    %% {len(arrows) - MAX_EDGES} more arrows are left out")
    if ran:
        for name in dict.fromkeys(used):
            lines.append(f"    classDef {name} {CLASSES[name]}")
    return "\n".join(lines) + "\n"


def _label(box: Box, ran: bool) -> str:
    label = _escape(box.label)
    if len(box.tasks) > 1:
        details = f"{len(box.tasks)} tasks"
        if ran:
            counts = count_statuses(box.tasks)
            details += ": " + ", ".join(f"{count} {status}" for status, count in counts.items())
    elif ran:
        task = box.tasks[0]
        details = task.status
        if task.seconds is not None and task.status in ("complete", "partial", "failed"):
            details += f", {format_seconds(task.seconds)}"
    else:
        task = box.tasks[0]
        details = ", ".join(([task.type] if task.type != task.name else []) + list(task.options))
    return f"{label}<br/>{_escape(details)}" if details else label


def _escape(text: str) -> str:
    """Shorten a text, and write all but letters, digits and harmless characters as entities."""
    visible = make_visible(shorten(text, MAX_NAME).replace("\n", " "))
    return "".join(
        one if one.isalnum() or one in " _-.,:…" else f"#{ord(one)};"
        for one in shorten(visible, MAX_NAME)
    )
