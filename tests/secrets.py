"""Finds API keys where none belongs: in log records, errors and their attributes, reprs, and spans.

Every key in the tests contains SECRET. Tracebacks are not searched: their frames hold all values
that the code worked with.
"""

import logging

SECRET = "sk-secret"
MAX_DEPTH = 12
"""The number of attributes, items and causes followed in a row."""


def find_secret(thing, depth=MAX_DEPTH, seen=None):
    """Return the path to a key inside an object, as text, or None. Follows attributes and items."""
    seen = set() if seen is None else seen
    if isinstance(thing, str):
        return "text" if SECRET in thing else None
    if isinstance(thing, (bytes, bytearray)):
        return "bytes" if SECRET.encode() in thing else None
    if depth == 0 or id(thing) in seen or isinstance(thing, (int, float, type, type(None))):
        return None
    seen.add(id(thing))
    for name, part in _parts(thing):
        path = find_secret(part, depth - 1, seen)
        if path is not None:
            return f"{name}.{path}"
    return None


def _parts(thing):
    if isinstance(thing, dict):
        yield from ((f"[{key!r}]", value) for key, value in list(thing.items()))
        yield from (("a key", key) for key in list(thing))
    elif isinstance(thing, (list, tuple, set, frozenset)):
        yield from ((f"[{index}]", value) for index, value in enumerate(list(thing)))
    if isinstance(thing, BaseException):
        yield from (("cause", thing.__cause__), ("context", thing.__context__))
        yield "args", thing.args
        yield "str", str(thing)
        yield "repr", repr(thing)
    yield from dict(getattr(thing, "__dict__", {})).items()  # a copy: other threads may change it
    for slot in getattr(type(thing), "__slots__", ()):
        yield slot, getattr(thing, slot, None)


class SecretWatch(logging.Handler):
    """Collects findings: log records at once; errors, clients and spans in `take_findings()`."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.errors = []
        self.clients = []
        self.spans = []
        self.findings = []
        self.records = 0

    def emit(self, record):
        self.records += 1
        error = record.exc_info[1] if record.exc_info else None
        path = find_secret([record.getMessage(), repr(record.args), error])
        if path is not None:
            self.findings.append(f"a log record of {record.name}: {path}")

    def take_findings(self):
        """Return the findings since the last call."""
        errors, self.errors = self.errors, []
        clients, self.clients = self.clients, []
        for error in errors:
            path = find_secret(error)
            if path is not None:
                self.findings.append(f"{type(error).__name__}: {path}")
        for client in clients:
            for text in (repr(client), str(client), str(vars(client))):
                if SECRET in text:
                    self.findings.append(f"the repr of {type(client).__name__}")
        spans, self.spans = self.spans, []
        for span in spans:
            values = [span.name, span.status.description, dict(span.attributes), list(span.events)]
            path = find_secret(values)
            if path is not None:
                self.findings.append(f"the span {span.name}: {path}")
        findings, self.findings = self.findings, []
        return findings
