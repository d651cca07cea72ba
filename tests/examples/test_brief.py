"""examples/brief.py: the main job, as a user runs it."""

import os
import re

import pytest

from ..tiers import by_tier, soak, suite
from .programs import run

pytestmark = suite

TEXT = """# Bees

Bees gather nectar from flowers. A hive keeps its honey in combs of wax. The weather was fine.

## Winter

In winter the bees stay in the hive and eat their honey. Nobody flies in the snow.
Flowers are rare then.
"""


def brief(*arguments, **environment):
    """Run brief.py, and return the finished process."""
    return run("brief.py", *arguments, **environment)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "bees.md"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_brief(text):
    """Every section is digested from its own sentences. The output says that a stand-in was
    used.
    """
    done = brief(text)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("> No ANTHROPIC_API_KEY is set")
    assert done.stderr.startswith("No ANTHROPIC_API_KEY is set")
    assert len(re.findall(r"^\[\d/3\] .* complete$", done.stderr, re.M)) == 3
    digests = re.findall(r"^- \*\*(.*?)\*\*: (.*) \[(.*)\]$", done.stdout, re.M)
    assert [(title, source) for title, _, source in digests] == [
        ("Bees", str(text)),
        ("Winter", str(text)),
    ]
    for _, digest, _ in digests:
        for sentence in re.split(r"(?<=\.) ", digest):
            assert sentence in TEXT
    assert "Bees gather nectar" in digests[0][1]
    assert "(2 sections)" in done.stdout


def test_figures_add_up(text):
    """The totals are the sums of the tasks; each digest took two requests, as it called a tool."""
    rows = re.findall(
        r"^\| (.*?) \| (\d+) \| (\d+) \| (\d+) \| ([\d.]+) \|$", brief(text).stdout, re.M
    )
    *tasks, total = rows
    assert total[0] == "**total**"
    assert [int(row[1]) for row in tasks] == [2, 2, 1]
    for column in (1, 2, 3):
        assert sum(int(row[column]) for row in tasks) == int(total[column]) > 0
    assert abs(sum(float(row[4]) for row in tasks) - float(total[4])) < 0.02


def test_another_input(text):
    """Other frequent words in the text lead to another choice of sentences."""
    first = brief(text).stdout
    text.write_text(
        TEXT.replace(
            "The weather was fine.", "Weather, weather, weather. The weather was fine weather."
        ),
        encoding="utf-8",
    )
    second = brief(text).stdout
    assert "weather" not in first.split("## Cost")[0]
    assert "weather" in second.split("## Cost")[0]


def test_another_tool_result(tmp_path):
    """A digest depends on the frequent words of the whole source, which only the tool knows."""
    section = "# One\n\nRoses are red today. Trains are late today. Clouds are grey today.\n\n"
    for word in ("roses", "trains", "clouds"):
        path = tmp_path / (word + ".md")
        path.write_text(section + "# Two\n\n" + f"The {word} again. " * 5, encoding="utf-8")
        digest = re.search(r"^- \*\*One\*\*: (.*) \[", brief(path).stdout, re.M).group(1)
        assert word.capitalize() in digest


def test_redis_keeps_the_digests(text, redis_url):
    """With --redis, a second brief sends no request for an unchanged section."""
    text.write_text(TEXT.replace("snow", f"snow of {os.getpid()}"), encoding="utf-8")
    first, second = brief("--redis", redis_url, text), brief("--redis", redis_url, text)
    assert first.returncode == second.returncode == 0
    requests = [
        [int(count) for count in re.findall(r"^\| .*? \| (\d+) \|", one.stdout, re.M)]
        for one in (first, second)
    ]
    assert requests == [[2, 2, 1, 5], [0, 0, 1, 1]]
    assert first.stdout.split("## Sources")[0] == second.stdout.split("## Sources")[0]


def test_output_file(text, tmp_path):
    """--output writes the brief to a file, and nothing to standard output."""
    target = tmp_path / "brief.md"
    done = brief("--output", target, text)
    assert (done.returncode, done.stdout) == (0, "")
    assert "# Brief" in target.read_text(encoding="utf-8")


def test_text_without_headings(tmp_path):
    """Plain text is one section; reStructuredText headings are recognized."""
    plain = tmp_path / "plain.txt"
    plain.write_text("Only one sentence here, without any heading.", encoding="utf-8")
    rst = tmp_path / "a.rst"
    rst.write_text(
        "Title\n=====\n\nSome words here.\n\nPart\n----\n\nOther words there.\n", encoding="utf-8"
    )
    out = brief(plain, rst).stdout
    assert re.findall(r"^- \*\*(.*?)\*\*", out, re.M) == ["plain.txt", "Title", "Part"]
    assert "(1 section)" in out and "(2 sections)" in out


@pytest.mark.parametrize(
    "content, error",
    [
        (None, "No such file"),
        pytest.param(b"\x00\x01\x02binary", "binary", marks=soak),
        pytest.param(b"\xff\xfe\x00", "not a text file", marks=soak),
        pytest.param(b" \n\t", "empty", marks=soak),
    ],
)
def test_unusable_input(tmp_path, content, error):
    """A missing, binary or empty file gives one line with its name, exit status 2, no traceback."""
    path = tmp_path / "input"
    if content is not None:
        path.write_bytes(content)
    done = brief(path)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert str(path) in done.stderr and error in done.stderr


def test_invalid_arguments(text, tmp_path):
    """A folder, an unreachable Redis, an unwritable output or no file: exit status 2, no
    traceback.
    """
    few = [[tmp_path], ["--redis", "redis://127.0.0.1:9/0", text]]
    for arguments in by_tier(few, soak=[*few, ["--redis", "nonsense", text], []]):
        done = brief(*arguments)
        assert done.returncode == 2, arguments
        assert "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1].startswith("brief.py: ")
    done = brief("--output", tmp_path / "no" / "such" / "folder", text)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_failing_key(text):
    """With a key the real client is used: here every request fails, and the exit status is 1."""
    proxy = "http://127.0.0.1:9"
    done = brief(text, ANTHROPIC_API_KEY="sk-none", HTTPS_PROXY=proxy, https_proxy=proxy)
    assert done.returncode == 1
    assert "stand" not in done.stdout and "No ANTHROPIC_API_KEY" not in done.stderr
    assert "ConnectionFailed" in done.stderr and "sk-none" not in done.stdout + done.stderr
