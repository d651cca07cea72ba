"""The examples of docs/command.rst are executed, and print what the page says."""

import io
import os
import re
import shlex
import sys

from asimov_sync.cli.main import COMMANDS, main

from ..test_readme import DOCS, blocks
from ..tiers import suite

PAGE = DOCS / "command.rst"

VARYING = [
    (r"\d{4}-\d\d-\d\d( \d\d:\d\d(:\d\d UTC)?)?", "(time)"),
    (r"^\d\d:\d\d:\d\d", "(time)"),
    (r"\d+(\.\d+)? (ms|s)\b", "(duration)"),
    (r'"(started|ended|seconds)": [\d.e-]+', r'"\1": (number)'),
    (r" +", " "),
]
"""Parts of the output that are different each time; columns are as wide as their values."""


def normalize(text):
    for pattern, name in VARYING:
        text = re.sub(pattern, name, text, flags=re.M)
    return text.strip()


def examples():
    """Return the commands of the page, each with the output below it."""
    found = []
    for block in blocks("console", PAGE):
        for line in block.split("\n"):
            if line.startswith("$ "):
                found.append([line[2:], []])
            else:
                found[-1][1].append(line)
    return [(command, "\n".join(lines)) for command, lines in found]


@suite
def test_the_examples(folder, write_module, capsys, monkeypatch):
    """Each example prints the output that is shown, apart from times and durations."""
    (module,) = blocks("python", PAGE)
    name = write_module(module)
    status = None
    for command, shown in examples():
        if command == "echo $?":
            assert shown == str(status)
            continue
        given, _, command = command.rpartition(" | ")
        text = given[len("echo ") :].strip("'") + "\n"
        monkeypatch.setattr(sys, "stdin", io.StringIO(text if given else ""))
        program, *arguments = shlex.split(command.replace("myapp:", name + ":"))
        assert program == "asimov-sync"
        capsys.readouterr()
        status = main(arguments)
        out, err = capsys.readouterr()
        if "Traceback" in err:  # of the function of a failed task
            err = ""
        assert normalize(out + err).replace(name, "myapp") == normalize(shown), command
    sys.modules[name].scheduler.close()
    assert os.path.exists("report-1.html") and os.path.exists("report.svg")


def test_the_page_has_every_command():
    """The table of commands has every command, in the order of the help."""
    table = PAGE.read_text(encoding="utf-8").split("The store\n---")[0]
    assert re.findall(r"^``(\w+)(?: |``)", table, re.M) == list(COMMANDS)
