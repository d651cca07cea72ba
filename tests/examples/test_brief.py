"""The main job, as a user runs it: `python examples/brief.py FILE...`."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from ..tiers import suite

pytestmark = suite

ROOT = pathlib.Path(__file__).parent.parent.parent
TEXT = """# Bees

Bees gather nectar from flowers. A hive keeps its honey in combs of wax. The weather was fine.

## Winter

In winter the bees stay in the hive and eat their honey. Nobody flies in the snow. Flowers are rare then.
"""


def brief(*arguments, **environment):
    """The finished process of brief.py."""
    env = dict(os.environ, **environment)
    command = [sys.executable, str(ROOT / "examples" / "brief.py")] + [str(argument) for argument in arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, encoding="utf-8", timeout=60)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "bees.md"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_a_brief(text):
    """Every section is digested from its own sentences, with its source; progress and the stand-in are told."""
    done = brief(text)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("> No ANTHROPIC_API_KEY is set")
    assert done.stderr.startswith("No ANTHROPIC_API_KEY is set")
    assert len(re.findall(r"^\[\d/3\] .* complete$", done.stderr, re.M)) == 3
    digests = re.findall(r"^- \*\*(.*?)\*\*: (.*) \[(.*)\]$", done.stdout, re.M)
    assert [(title, source) for title, _, source in digests] == [("Bees", str(text)), ("Winter", str(text))]
    for _, digest, _ in digests:
        for sentence in re.split(r"(?<=\.) ", digest):
            assert sentence in TEXT
    assert "Bees gather nectar" in digests[0][1]
    assert "({} sections)".format(2) in done.stdout


def test_the_figures_add_up(text):
    """The tokens and seconds of the tasks are those of the total; every digest took two requests, for it called a tool."""
    rows = re.findall(r"^\| (.*?) \| (\d+) \| (\d+) \| (\d+) \| ([\d.]+) \|$", brief(text).stdout, re.M)
    *tasks, total = rows
    assert total[0] == "**total**"
    assert [int(row[1]) for row in tasks] == [2, 2, 1]
    for column in (1, 2, 3):
        assert sum(int(row[column]) for row in tasks) == int(total[column]) > 0
    assert abs(sum(float(row[4]) for row in tasks) - float(total[4])) < 0.02


def test_another_input_another_brief(text):
    """The brief follows from the text: a change of the words that repeat changes what is chosen."""
    first = brief(text).stdout
    text.write_text(
        TEXT.replace("The weather was fine.", "Weather, weather, weather. The weather was fine weather."), encoding="utf-8"
    )
    second = brief(text).stdout
    assert "weather" not in first.split("## Cost")[0]
    assert "weather" in second.split("## Cost")[0]


def test_another_tool_result_another_digest(tmp_path):
    """A section's digest depends on what the tool says of the whole source, which the section alone does not show."""
    section = "# One\n\nRoses are red today. Trains are late today. Clouds are grey today.\n\n"
    for word in ("roses", "trains", "clouds"):
        path = tmp_path / (word + ".md")
        path.write_text(section + "# Two\n\n" + "The {} again. ".format(word) * 5, encoding="utf-8")
        digest = re.search(r"^- \*\*One\*\*: (.*) \[", brief(path).stdout, re.M).group(1)
        assert word.capitalize() in digest


def test_redis_keeps_the_digests(text, redis_url):
    """With --redis a second brief asks for no digest again; a section that changed is asked for."""
    text.write_text(TEXT.replace("snow", "snow of {}".format(os.getpid())), encoding="utf-8")
    first, second = brief("--redis", redis_url, text), brief("--redis", redis_url, text)
    assert first.returncode == second.returncode == 0
    requests = [[int(count) for count in re.findall(r"^\| .*? \| (\d+) \|", one.stdout, re.M)] for one in (first, second)]
    assert requests == [[2, 2, 1, 5], [0, 0, 1, 1]]
    assert first.stdout.split("## Sources")[0] == second.stdout.split("## Sources")[0]


def test_the_output_file(text, tmp_path):
    """--output writes the brief to a file, and nothing to the standard output."""
    target = tmp_path / "brief.md"
    done = brief("--output", target, text)
    assert (done.returncode, done.stdout) == (0, "")
    assert "# Brief" in target.read_text(encoding="utf-8")


def test_text_without_headings(tmp_path):
    """A plain text is one section; reStructuredText's headings are headings."""
    plain = tmp_path / "plain.txt"
    plain.write_text("Only one sentence here, without any heading.", encoding="utf-8")
    rst = tmp_path / "a.rst"
    rst.write_text("Title\n=====\n\nSome words here.\n\nPart\n----\n\nOther words there.\n", encoding="utf-8")
    out = brief(plain, rst).stdout
    assert re.findall(r"^- \*\*(.*?)\*\*", out, re.M) == ["plain.txt", "Title", "Part"]
    assert "(1 section)" in out and "(2 sections)" in out


@pytest.mark.parametrize(
    "content, told",
    [(None, "No such file"), (b"\x00\x01\x02binary", "binary"), (b"\xff\xfe\x00", "not a text file"), (b" \n\t", "empty")],
)
def test_unusable_input(tmp_path, content, told):
    """A file that is missing, binary or empty: one line on stderr that names it, exit status 2, no traceback."""
    path = tmp_path / "input"
    if content is not None:
        path.write_bytes(content)
    done = brief(path)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert str(path) in done.stderr and told in done.stderr


def test_other_wrong_calls(text, tmp_path):
    """A folder, an unreachable Redis, an output that cannot be written, no file at all: exit status 2, no traceback."""
    for arguments in ([tmp_path], ["--redis", "redis://127.0.0.1:9/0", text], ["--redis", "nonsense", text], []):
        done = brief(*arguments)
        assert done.returncode == 2, arguments
        assert "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1].startswith("brief.py: ")
    done = brief("--output", tmp_path / "no" / "such" / "folder", text)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_a_key_that_does_not_work_is_told(text):
    """With a key the real client is used: here no way leads there, all fails, exit status 1."""
    proxy = "http://127.0.0.1:9"
    done = brief(text, ANTHROPIC_API_KEY="sk-none", HTTPS_PROXY=proxy, https_proxy=proxy)
    assert done.returncode == 1
    assert "stand" not in done.stdout and "No ANTHROPIC_API_KEY" not in done.stderr
    assert "ConnectionFailed" in done.stderr and "sk-none" not in done.stdout + done.stderr
