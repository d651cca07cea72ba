"""`asimov-sync graph`: draws a graph, without running it."""

import argparse

from asimov_sync.cli.command import Command, write_file
from asimov_sync.cli.exit_status import FAILED, OK
from asimov_sync.cli.output import Output
from asimov_sync.cli.target import add_target, build_graph, load_target
from asimov_sync.cli.text import escape
from asimov_sync.display.words import plural

__all__ = ["COMMAND"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_target(parser)
    parser.add_argument(
        "--svg", metavar="FILE", help="write a picture to this file; by default, print Mermaid"
    )


def execute(options: argparse.Namespace, output: Output) -> int:
    """Run the command. Returns its exit status."""
    graph = build_graph(load_target(options.target, None), options.arg)
    if options.svg is None:
        output.write(escape(graph.to_mermaid()))
        return OK
    write_file(options.svg, graph.to_svg())
    output.line(f"{options.svg} has the picture of {plural(len(graph), 'task')}")
    return OK


COMMAND = Command(
    "Draw a graph, or that of a flow, without running it: as a Mermaid flowchart, which Markdown\n"
    "on GitHub shows, or as an SVG picture.",
    [
        "graph myapp.tasks:report --arg topic=bees > report.mmd",
        "graph myapp.tasks:graph --svg graph.svg",
    ],
    {FAILED: "the module or the function raised, or the file cannot be written"},
    add_arguments,
    execute,
)
