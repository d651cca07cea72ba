"""Finds API keys in log records, errors and their attributes, reprs, and spans.

Every key in the tests contains SECRET. Tracebacks are not searched, because their frames hold all
values that the code worked with.
"""

import logging

SECRET = "sk-secret"
MAX_DEPTH = 12
"""The highest number of attributes, items and causes on the path to a key."""


def find_secret(target, depth=MAX_DEPTH, seen=None):
    """Return the path to a key inside an object, as text, or None. Follows attributes and items."""
    seen = set() if seen is None else seen
    if isinstance(target, str):
        return "text" if SECRET in target else None
    if isinstance(target, (bytes, bytearray)):
        return "bytes" if SECRET.encode() in target else None
    if depth == 0 or id(target) in seen or isinstance(target, (int, float, type, type(None))):
        return None
    seen.add(id(target))
    for name, part in _parts(target):
        path = find_secret(part, depth - 1, seen)
        if path is not None:
            return f"{name}.{path}"
    return None


def _parts(target):
    if isinstance(target, dict):
        yield from ((f"[{key!r}]", value) for key, value in list(target.items()))
        yield from (("a key", key) for key in list(target))
    elif isinstance(target, (list, tuple, set, frozenset)):
        yield from ((f"[{index}]", value) for index, value in enumerate(list(target)))
    if isinstance(target, BaseException):
        yield from (("cause", target.__cause__), ("context", target.__context__))
        yield "args", target.args
        yield "str", str(target)
        yield "repr", repr(target)
    yield from dict(getattr(target, "__dict__", {})).items()  # a copy: other threads may change it
    for slot in getattr(type(target), "__slots__", ()):
        yield slot, getattr(target, slot, None)


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
