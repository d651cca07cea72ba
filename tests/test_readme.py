"""Every code block of README.rst does what it says."""

import pathlib
import re
import textwrap

README = pathlib.Path(__file__).parent.parent / "README.rst"


def blocks(language):
    found = re.findall(
        r"^\.\. code-block:: {}\n\n((?:    .*\n|\n)+)".format(language), README.read_text(encoding="utf-8"), re.M
    )
    return [textwrap.dedent(block).strip() for block in found]


def test_the_python_blocks_run(capsys):
    """The Python blocks run, one after the other, and their asserts hold."""
    python = blocks("python")
    assert len(python) >= 7
    namespace = {}
    for number, block in enumerate(python):
        exec(compile(block, "README.rst, block {}".format(number + 1), "exec"), namespace)
    printed = capsys.readouterr().out
    assert printed.startswith("Good evening.")
    assert "tokens in 2 requests" in printed
    namespace["scheduler"].close()
    namespace["client"].close()
    namespace["server"].close()


def test_there_are_two_commands():
    """The console blocks are the two commands, one line each."""
    console = blocks("console")
    assert len(console) == 2
    assert all("\n" not in command for command in console)
    assert "examples/brief.py README.rst" in console[0]
    assert "pytest tests/" in console[1]
