"""Every code block of README.rst does what it says, and those of the documentation run."""

import pathlib
import re
import textwrap

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.rst"


def blocks(language, path=README):
    """The code blocks of a language in a file, but for those inside of lists."""
    pattern = r"^\.\. code-block:: {}\n\n((?:    .*\n|\n)+)".format(language)
    return [textwrap.dedent(block).strip() for block in re.findall(pattern, path.read_text(encoding="utf-8"), re.M)]


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


def test_the_documentation_runs():
    """The Python blocks of the documentation run, one after the other, but for those that need servers of their own."""
    for path in sorted((ROOT / "docs").glob("*.rst")):
        namespace = {}
        ran = 0
        for number, block in enumerate(blocks("python", path)):
            if "RedisCluster(" not in block:
                exec(compile(block, "{}, block {}".format(path.name, number + 1), "exec"), namespace)
                ran += 1
        assert ran >= 4, path
