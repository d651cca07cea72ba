"""docs/check_links.py finds the broken links of a site."""

import importlib.util

import pytest

from .test_readme import DOCS


@pytest.fixture
def broken_links():
    spec = importlib.util.spec_from_file_location("check_links", str(DOCS / "check_links.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.broken_links


def test_missing_files_and_anchors_are_found(tmp_path, broken_links):
    """A link without its file or anchor is broken. Links to other sites are not checked."""
    (tmp_path / "guides").mkdir()
    (tmp_path / "index.html").write_text(
        '<h1 id="top">Home</h1> <a href="#top">1</a> <a href="guides/a.html#one">2</a>'
        ' <a href="guides/a.html#two">3</a> <a href="guides/b.html">4</a>'
        ' <a href="https://example.com/none">5</a>',
        encoding="utf-8",
    )
    (tmp_path / "guides" / "a.html").write_text(
        '<p id="one"></p> <img src="../logo.png">', encoding="utf-8"
    )
    count, broken = broken_links(tmp_path)
    assert count == 5
    assert sorted(broken) == [
        ("guides/a.html", "../logo.png"),
        ("index.html", "guides/a.html#two"),
        ("index.html", "guides/b.html"),
    ]
