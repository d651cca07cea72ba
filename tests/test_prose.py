"""The prose check passes on the code base, and finds planted phrases."""

import pytest

from . import prose
from .tiers import suite


@suite
def test_checked_paths_pass():
    """The files and folders in CHECKED have no findings."""
    paths = [prose.ROOT / name for name in prose.CHECKED]
    findings = [
        str(finding) for path in prose.find_files(paths) for finding in prose.check_file(path)
    ]
    assert findings == []


@pytest.mark.parametrize(
    "source, line, what",
    [
        ('"""Summary.\n\nThe thread is\ntold so."""\n', 3, "is told"),
        ("value = 1\n# for whoever reads\n# this\n", 2, "whoever"),
        ("# how\n# manieth\n", 1, "how manieth"),
        ('raise ValueError("that is in vain")\n', 1, "in vain"),
        ('def call():\n    raise ValueError(\n        f"{1} is to be 2"\n    )\n', 3, "is to be"),
        ('logger.warning("the worker asks: %s", 1)\n', 1, "worker asks"),
        ('message = "the worker goes home"\n', 1, "goes home"),
        ('assert value, "it has heard"\n', 1, "has heard"),
        ('def call():\n    """What came of it."""\n', 2, "What came of"),
        ('def call():\n    """Whether it is done."""\n', 2, "Whether"),
        ('text = "{} is".format(1)\n', 1, ".format("),
        ('text = ("{} "\n    "is").format(1)\n', 2, ".format("),
        ("value = 1  # " + "x" * 100 + "\n", 1, "113 columns"),
    ],
)
def test_planted_finding(source, line, what, tmp_path):
    """A phrase is found in its line: in docstrings, comments and messages, also across lines."""
    path = tmp_path / "planted.py"
    path.write_text(source, encoding="utf-8")
    findings = prose.check_file(path)
    assert (line, what) in [(finding.line, finding.what) for finding in findings]
    assert str(findings[0]).startswith(f"{path.as_posix()}:{findings[0].line}: ")


@pytest.mark.parametrize(
    "source",
    [
        'told = {"told": 1}\nassert told["told"] == "so many"\n',
        'text = template.format("told")\n',
        'def call():\n    """Return whether it is done."""\n    return "whoever"\n',
    ],
)
def test_code_and_data_are_not_prose(source, tmp_path):
    """Names, data and templates that are formatted later are not checked."""
    path = tmp_path / "clean.py"
    path.write_text(source, encoding="utf-8")
    assert prose.check_file(path) == []


def test_documentation_is_checked(tmp_path):
    """In *.rst files all text is checked."""
    path = tmp_path / "page.rst"
    path.write_text("Title\n=====\n\nIt works all\nthe same.\n", encoding="utf-8")
    assert [(finding.line, finding.what) for finding in prose.check_file(path)] == [
        (4, "all the same")
    ]


def test_missing_path_is_an_error(tmp_path):
    """A path in the list that does not exist is reported, so that no file goes unchecked."""
    with pytest.raises(FileNotFoundError):
        prose.find_files([tmp_path / "moved.py"])


def test_main_prints_findings(capsys, tmp_path):
    """The program prints each finding and exits with 1, or prints nothing and exits with 0."""
    path = tmp_path / "planted.py"
    path.write_text("# in vain\n", encoding="utf-8")
    assert prose.main([str(path)]) == 1
    assert capsys.readouterr().out.startswith(f"{path.as_posix()}:1: 'in vain': ")
    path.write_text("# without effect\n", encoding="utf-8")
    assert prose.main([str(path)]) == 0
    assert capsys.readouterr().out == ""
