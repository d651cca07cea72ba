"""Watches a whole test run for keys in places where none belongs: log records, errors and what they hold, reprs, spans.

Every key in these tests holds the word SECRET. Tracebacks are not searched: their frames hold whatever the code worked with.
"""

import logging

SECRET = "sk-secret"
DEPTH = 12


def holds_secret(thing, depth=DEPTH, seen=None):
    """The way to a key inside an object, as text; None where there is none. Follows attributes, items and causes."""
    seen = set() if seen is None else seen
    if isinstance(thing, str):
        return "text" if SECRET in thing else None
    if isinstance(thing, (bytes, bytearray)):
        return "bytes" if SECRET.encode() in thing else None
    if depth == 0 or id(thing) in seen or isinstance(thing, (int, float, type, type(None))):
        return None
    seen.add(id(thing))
    for name, part in _parts(thing):
        way = holds_secret(part, depth - 1, seen)
        if way is not None:
            return "{}.{}".format(name, way)
    return None


def _parts(thing):
    if isinstance(thing, dict):
        yield from (("[{!r}]".format(key), value) for key, value in list(thing.items()))
        yield from (("a key", key) for key in list(thing))
    elif isinstance(thing, (list, tuple, set, frozenset)):
        yield from (("[{}]".format(place), value) for place, value in enumerate(list(thing)))
    if isinstance(thing, BaseException):
        yield from (("cause", thing.__cause__), ("context", thing.__context__), ("args", thing.args))
        yield "str", str(thing)
        yield "repr", repr(thing)
    yield from dict(getattr(thing, "__dict__", {})).items()  # a copy: other threads may be at work on it
    for slot in getattr(type(thing), "__slots__", ()):
        yield slot, getattr(thing, slot, None)


class Watch(logging.Handler):
    """Gathers what is to be looked at: log records at once, errors, clients and spans at the end of each test."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.errors = []
        self.clients = []
        self.spans = []
        self.found = []
        self.records = 0

    def emit(self, record):
        self.records += 1
        told = [record.getMessage(), repr(record.args), record.exc_info[1] if record.exc_info else None]
        way = holds_secret(told)
        if way is not None:
            self.found.append("a log record of {}: {}".format(record.name, way))

    def look(self):
        """The findings since the last look."""
        errors, self.errors = self.errors, []
        clients, self.clients = self.clients, []
        for error in errors:
            way = holds_secret(error)
            if way is not None:
                self.found.append("{}: {}".format(type(error).__name__, way))
        for client in clients:
            for told in (repr(client), str(client), "{}".format(vars(client))):
                if SECRET in told:
                    self.found.append("the repr of {}".format(type(client).__name__))
        spans, self.spans = self.spans, []
        for span in spans:
            way = holds_secret([span.name, span.status.description, dict(span.attributes), list(span.events)])
            if way is not None:
                self.found.append("the span {}: {}".format(span.name, way))
        found, self.found = self.found, []
        return found
