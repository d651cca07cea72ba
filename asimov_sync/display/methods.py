"""The functions behind methods of lower layers, which call them by name through `_drawing`."""

from typing import Mapping, Optional

from asimov_sync.cache.base import Cache
from asimov_sync.display.flowchart import mermaid
from asimov_sync.display.notebook import notebook_html
from asimov_sync.display.report import report_html
from asimov_sync.display.svg import graph_svg
from asimov_sync.display.view import Redact, view_graph, view_result
from asimov_sync.graph.results import RunResult
from asimov_sync.graph.task_graph import TaskGraph
from asimov_sync.usage import Price

__all__ = ["mermaid_of_graph", "notebook_html", "report_of_result", "svg_of_graph"]


def mermaid_of_graph(graph: TaskGraph) -> str:
    """Return the Mermaid flowchart of a graph. Raises GraphError if the graph is not valid."""
    return mermaid(view_graph(graph))


def svg_of_graph(graph: TaskGraph) -> str:
    """Return the picture of a graph. Raises GraphError if the graph is not valid."""
    return graph_svg(view_graph(graph))


def report_of_result(
    result: RunResult,
    *,
    redact: Optional[Redact],
    prices: Optional[Mapping[str, Price]],
    cache: Optional[Cache],
) -> str:
    """Return the report of a run as HTML. See `RunResult.save_report`."""
    return report_html(view_result(result, redact=redact, prices=prices, cache=cache))
