"""Namespaces and stored keys."""

import hypothesis
from hypothesis import strategies

from asimov_sync.cache.keys import RAW, Namespace

texts = strategies.text(
    strategies.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=6
)
affixes = strategies.lists(strategies.tuples(strategies.booleans(), texts), max_size=3)


def namespace(parts, separator=":"):
    result = Namespace(separator=separator)
    for prefix, text in parts:
        result = result.with_prefix(text) if prefix else result.with_suffix(text)
    return result


@hypothesis.given(affixes, texts)
def test_split_reverses_key(parts, name):
    """split() returns the name and kind that key() was called with, for any text."""
    result = namespace(parts)
    assert result.split(result.key(name)) == (name, "")
    assert result.split(result.key(name, RAW)) == (name, RAW)


@hypothesis.given(texts.filter(bool), texts.filter(bool), texts)
def test_prefixes_are_disjoint(one, other, name):
    """Two different prefixes share no key."""
    first, second = Namespace().with_prefix(one), Namespace().with_prefix(other)
    assert (second.split(first.key(name)) is None) == (one != other)


@hypothesis.given(affixes, affixes, texts)
def test_parent_contains_its_children(outer, inner, name):
    """A child's key is a key of its parent."""
    parent = namespace(outer)
    child = namespace(outer + inner)
    seen = parent.split(child.key(name))
    assert seen is not None
    assert parent.key(seen[0]) == child.key(name)


def test_key_format():
    """The format is prefix:key:suffix; a separator inside a prefix or suffix is escaped."""
    result = Namespace().with_prefix("app").with_prefix("user-7").with_suffix("draft")
    assert result.key("letter") == "app:user-7:letter:draft"
    assert Namespace().with_prefix("a:b%").key("c:d") == "a%3Ab%25:c:d"
    assert Namespace(separator="/").with_prefix("a/b:c").key("k") == "a%2Fb:c/k"
    assert Namespace(separator="::").with_prefix("a:b").key("k") == "a%3Ab::k"
