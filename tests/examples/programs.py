"""Runs the examples in processes of their own, as a user does."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent.parent


def command(program, *arguments):
    """Return the command line of an example."""
    path = ROOT / "examples" / program
    return [sys.executable, str(path)] + [str(argument) for argument in arguments]


def run(program, *arguments, stdin=None, **environment):
    """Run an example, and return the finished process.

    stdin: the text of its standard input.
    environment: environment variables.
    """
    return subprocess.run(
        command(program, *arguments),
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, **environment),
        encoding="utf-8",
        timeout=60,
    )


# Texts that the examples read

BEES = """\
Bees gather nectar from flowers. A hive keeps its honey in combs of wax.

The weather was fine. Nobody flies in the snow.
"""
TRAINS = "Trains leave from the station at noon.\n\nA late train brings honey to nobody.\n"
