"""Checks the prose of the code base. Run by `tox -e lint` as `python -m tests.prose [PATH …]`.

It reads docstrings, comments, and the messages of errors, logs and assertions in *.py, and all text
in *.rst. It reports phrases that are hard to read (PHRASES), docstrings that start with a relative
clause (FIRST_WORDS), `.format()` on a literal, and Python lines above MAX_COLUMNS.

Without arguments it checks CHECKED, the paths that are already rewritten. Add a path there once its
prose passes. Only the standard library is imported, so that the lint environment needs no more.
"""

import pathlib
import re
import sys
import tokenize
from typing import Iterator, List, NamedTuple, Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent

CHECKED = [
    "CHANGES.rst",
    "README.rst",
    "asimov_sync",
    "benchmarks",
    "docs",
    "examples",
    "setup.py",
    "tests",
]
"""Files and folders that are checked, relative to the root of the repository."""

EXCLUDED = ["tests/prose.py", "tests/test_prose.py"]
"""Files whose phrases are not checked, because they quote them. Their lines are."""

MAX_COLUMNS = 100

PHRASES = {
    # Relative clauses and riddling pronouns
    r"what (?:came|comes|becomes|became) of": "the result of; the outcome of",
    r"who(?:m|so)?ever": "name it: the caller, the thread, the reader",
    r"the one (?:that|who|which)": "name it",
    r"(?:one|ones|those|that) of (?:its|their) own": "its own, with the noun",
    r"who (?:asks|waits|calls|reads|asked|waited|called) (?:for|is|was|has)": "the caller",
    r"nobody's": "name it, or use 'unused', 'shared'",
    r"(?:what|that|which) (?:is|are) no(?! (?:longer|more)\b)": "an object that is not a …",
    # Passive and modal constructions
    r"(?:is|are|was|were|be|been|being) told": "receives; is passed; is notified",
    r"told": "receive, pass, report, notify; or the name of the value",
    r"(?:is|are|was|were) to be": "must be; will be; or the plain verb",
    r"(?:is|are|was|were) said": "is recorded, sent or documented",
    r"(?:is|are|was|were|has|have|had) (?:been )?heard": "is received; is notified",
    r"(?:is|are) none of": "is not one of",
    r"(?:is|are|was|were|has been) let go": "is released",
    r"has an ear": "handles; subscribes to",
    # Dated or Germanic idioms
    r"so many": "this number of; or give the name of the number",
    r"(?:the )?how manieth": "the index of; the number of (1-based)",
    r"in vain": "without effect; for nothing",
    r"all the same": "still; anyway",
    r"none the less": "still",
    r"come[s]? to pass": "happens",
    r"on its way": "in progress; while it is sent",
    r"by turns": "alternately",
    r"each its own": "their own",
    r"a moment when": "while; when",
    r"in its place": "instead",
    r"inside of": "inside; in",
    r"has no say": "must not affect",
    r"(?:its|their) own words?": "the provider's name; verbatim",
    r"in (?:our|ours|their|theirs|its) words?": "name the format",
    r"has (?:a|no|the) words? for": "can express; has a name for",
    # People-verbs for threads and objects
    r"goes? home": "returns; exits",
    r"go(?:es)? on": "continues; runs; is in progress",
    r"went on": "continued",
    r"(?:has|have|had) heard": "was notified; received",
    r"g[oi]ve[sn]? up on": "abandons",
    r"takes? the place of": "replaces",
    r"says? goodbye": "sends close_notify; closes cleanly",
    r"(?:thread|worker|process|lock|socket|connection|server|run|task|hook|pool)s?"
    r" (?:that )?(?:asks?|hears?|knows?|thinks?|wants?|wishes|minds|complains?|says?|tells?)": (
        "describe the action: waits, reads, returns, logs"
    ),
}
"""Each phrase (a regular expression; a space matches any white space) and what to write instead."""

FIRST_WORDS = {
    "What": "start with a verb or with the name of the thing",
    "Who": "start with a verb or with the name of the thing",
    "Whom": "start with a verb or with the name of the thing",
    "Whose": "start with a verb or with the name of the thing",
    "Those": "start with a verb or with the name of the thing",
    "Where": "start with a verb or with the name of the thing",
    "It": "name the subject",
    "Its": "name the subject",
    "They": "name the subject",
    "Their": "name the subject",
    "So": "name the subject",
    "Also": "name the subject",
    "Whether": "Return whether; or: True if",
    "How": "start with a verb or with the name of the thing",
}
"""Words that a docstring must not start with, and what to write instead."""

MESSAGE_NAMES = frozenset(
    "fail log logger logging message print reason skip warn warning warnings".split()
)
"""A statement that holds one of these names holds a message for people."""

_PHRASES = [
    (re.compile(r"\b" + phrase.replace(" ", r"\s+") + r"\b", re.IGNORECASE), better)
    for phrase, better in PHRASES.items()
]
_FIRST_WORD = re.compile(r"\s*(\w+)\b")
_STRING = re.compile(r"""[rbuf]*(\"{3}|'{3}|"|')(.*)\1\Z""", re.IGNORECASE | re.DOTALL)
_SKIPPED = (tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.COMMENT)
_FSTRING_MIDDLE = getattr(tokenize, "FSTRING_MIDDLE", None)


class Text(NamedTuple):
    """A piece of prose. line: the line it starts at. is_docstring: whether it stands alone."""

    line: int
    text: str
    is_docstring: bool = False


class Finding(NamedTuple):
    """A place that a check refuses. what: the phrase or the rule. better: what to write instead."""

    path: pathlib.Path
    line: int
    what: str
    better: str

    def __str__(self) -> str:
        path = self.path
        if ROOT in path.parents:
            path = path.relative_to(ROOT)
        return f"{path.as_posix()}:{self.line}: {self.what!r}: {self.better}"


def find_files(paths: Sequence[pathlib.Path]) -> List[pathlib.Path]:
    """Return the *.py and *.rst files of some files and folders, sorted.

    Raises FileNotFoundError if a path does not exist, so that a moved file does not go unchecked.
    """
    found = set()
    for path in paths:
        if path.is_dir():
            found.update(file for file in path.rglob("*") if file.suffix in (".py", ".rst"))
        elif path.is_file():
            found.add(path)
        else:
            raise FileNotFoundError(path)
    return sorted(found)


def check_file(path: pathlib.Path) -> List[Finding]:
    """Return all findings in a file."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".rst":
        return check_texts(path, [Text(1, source)])
    tokens = list(tokenize.generate_tokens(iter(source.splitlines(True)).__next__))
    findings = check_lines(path, source) + check_formats(path, tokens)
    if path not in [ROOT / name for name in EXCLUDED]:
        findings += check_texts(path, [*read_comments(tokens), *read_strings(tokens)])
    return sorted(findings, key=lambda finding: finding.line)


def check_lines(path: pathlib.Path, source: str) -> List[Finding]:
    """Find lines above MAX_COLUMNS."""
    return [
        Finding(path, number, f"{len(line)} columns", f"at most {MAX_COLUMNS}")
        for number, line in enumerate(source.splitlines(), 1)
        if len(line) > MAX_COLUMNS
    ]


def check_formats(path: pathlib.Path, tokens: Sequence[tokenize.TokenInfo]) -> List[Finding]:
    """Find calls of `.format()` on a string literal, parenthesized literals included."""
    code = [token for token in tokens if token.type not in _SKIPPED]
    return [
        Finding(path, dot.start[0], ".format(", "an f-string")
        for before, dot, name, bracket in zip(code, code[1:], code[2:], code[3:])
        if (dot.string, name.string, bracket.string) == (".", "format", "(")
        and (before.type == tokenize.STRING or _closes_literal(code, before))
    ]


def _closes_literal(code: Sequence[tokenize.TokenInfo], closing: tokenize.TokenInfo) -> bool:
    """Return whether a token is the `)` of parentheses with nothing but string literals inside."""
    if closing.string != ")":
        return False
    position = code.index(closing) - 1
    strings = 0
    while code[position].type == tokenize.STRING:
        position, strings = position - 1, strings + 1
    return bool(strings) and code[position].string == "("


def check_texts(path: pathlib.Path, texts: Sequence[Text]) -> List[Finding]:
    """Find hard phrases, and docstrings with a refused first word."""
    findings = []
    for line, text, is_docstring in texts:
        taken: List[range] = []
        for pattern, better in _PHRASES:
            for match in pattern.finditer(text):
                if any(match.start() in span for span in taken):
                    continue  # part of a longer phrase that was found already
                taken.append(range(*match.span()))
                number = line + text.count("\n", 0, match.start())
                findings.append(Finding(path, number, " ".join(match.group().split()), better))
        word = _FIRST_WORD.match(text)
        if is_docstring and word is not None and word.group(1) in FIRST_WORDS:
            findings.append(Finding(path, line, word.group(1), FIRST_WORDS[word.group(1)]))
    return findings


def read_comments(tokens: Sequence[tokenize.TokenInfo]) -> Iterator[Text]:
    """Yield the comments. Comments on consecutive lines are one text."""
    lines: List[str] = []
    start = previous = 0
    for token in tokens:
        if token.type != tokenize.COMMENT:
            continue
        number = token.start[0]
        if lines and number != previous + 1:
            yield Text(start, "\n".join(lines))
            lines = []
        if not lines:
            start = number
        lines.append(token.string.lstrip("#"))
        previous = number
    if lines:
        yield Text(start, "\n".join(lines))


def read_strings(tokens: Sequence[tokenize.TokenInfo]) -> Iterator[Text]:
    """Yield docstrings, and the strings of statements that raise, assert, log, print or warn."""
    statement: List[tokenize.TokenInfo] = []
    for token in tokens:
        if token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
            yield from _strings_of(statement)
            statement = []
        elif token.type not in _SKIPPED:
            statement.append(token)


def _strings_of(statement: Sequence[tokenize.TokenInfo]) -> Iterator[Text]:
    if not statement:
        return
    if len(statement) == 1 and statement[0].type == tokenize.STRING:
        yield Text(statement[0].start[0], _unquote(statement[0].string), is_docstring=True)
        return
    names = {token.string for token in statement if token.type == tokenize.NAME}
    if statement[0].string not in ("raise", "assert") and not names & MESSAGE_NAMES:
        return
    asserted = statement[0].string == "assert"
    for previous, token in zip([statement[0], *statement], statement):
        if asserted and previous.string != ",":
            continue  # only the message of an assertion, not the data that it compares
        if token.type == tokenize.STRING:
            yield Text(token.start[0], _unquote(token.string))
        elif _FSTRING_MIDDLE is not None and token.type == _FSTRING_MIDDLE:
            yield Text(token.start[0], token.string)


def _unquote(literal: str) -> str:
    match = _STRING.match(literal)
    return match.group(2) if match is not None else literal


def main(arguments: Sequence[str]) -> int:
    """Check the paths given, or CHECKED. Prints each finding. Returns 1 if there is one, else 0."""
    paths = [ROOT / argument for argument in arguments or CHECKED]
    findings = [finding for path in find_files(paths) for finding in check_file(path)]
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
