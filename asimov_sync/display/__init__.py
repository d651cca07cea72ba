"""Pictures and reports of graphs and runs: SVG, Mermaid, HTML, and what notebooks show.

Names are loaded when they are first used.
"""

from typing import TYPE_CHECKING

from asimov_sync._exports import export_lazily

if TYPE_CHECKING:
    from asimov_sync.display.flowchart import mermaid as mermaid
    from asimov_sync.display.markup import escape as escape
    from asimov_sync.display.report import report_html as report_html
    from asimov_sync.display.svg import graph_svg as graph_svg
    from asimov_sync.display.timeline import timeline_svg as timeline_svg
    from asimov_sync.display.view import (
        MessageView as MessageView,
        RunView as RunView,
        SpanView as SpanView,
        TaskView as TaskView,
        view_graph as view_graph,
        view_record as view_record,
        view_result as view_result,
    )

if not TYPE_CHECKING:  # a type checker reports every name that is not imported above
    __getattr__, __dir__, __all__ = export_lazily(
        __name__,
        {
            "markup": "escape",
            "flowchart": "mermaid",
            "report": "report_html",
            "svg": "graph_svg",
            "timeline": "timeline_svg",
            "view": "MessageView RunView SpanView TaskView view_graph view_record view_result",
        },
    )
