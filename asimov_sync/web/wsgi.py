"""Requests and replies of the WSGI application: values, and the header fields of every reply."""

import base64
import hashlib
import http
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Tuple
from urllib.parse import parse_qs, parse_qsl, quote

__all__ = ["HttpError", "Reply", "Request", "content_policy", "send"]

MAX_BODY = 2_000_000
"""The longest body of a request, in bytes."""

MAX_FIELDS = 500
"""The number of fields that a form or a query may have."""


class HttpError(Exception):
    """Ends a request with a status and a message for the person who made it.

    status: the status code.
    message: what to do.
    headers: more header fields.
    """

    def __init__(
        self, status: int, message: str, headers: Tuple[Tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


class Reply(NamedTuple):
    """A reply.

    status: the status code.
    body: the chunks of the body.
    content_type: the media type.
    headers: more header fields.
    """

    status: int
    body: Iterable[bytes]
    content_type: str = "text/html; charset=utf-8"
    headers: Tuple[Tuple[str, str], ...] = ()

    @property
    def status_line(self) -> str:
        """The status as WSGI has it."""
        return f"{self.status} {http.HTTPStatus(self.status).phrase}"


class Request:
    """A request, as far as the application reads it.

    environ: the WSGI environment.
    path: the path below the application, such as "/runs/r".
    query: the fields of the query, by name.

    Raises HttpError for a path or a query that is not UTF-8, and for a query with too many fields.
    """

    def __init__(self, environ: Dict[str, Any]) -> None:
        self.environ = environ
        self.method = environ.get("REQUEST_METHOD", "GET").upper()
        try:
            # PEP 3333: the bytes of the path, decoded as Latin-1.
            self.path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8") or "/"
            query = environ.get("QUERY_STRING", "")
            self.query = parse_qs(query, max_num_fields=MAX_FIELDS, errors="strict")
        except ValueError:
            raise HttpError(400, "The address cannot be read.") from None

    def get(self, name: str) -> str:
        """Return a field of the query; empty without one."""
        return str(self.query.get(name, [""])[-1])

    def header(self, name: str) -> Optional[str]:
        """Return a header field, by the name that it has in the WSGI environment."""
        value: Optional[str] = self.environ.get(name)
        return value

    def url(self, path: str) -> str:
        """Return the address of a path below the application."""
        script: str = self.environ.get("SCRIPT_NAME", "")
        return quote(script.encode("latin-1") + path.encode("utf-8"), safe="/:@-._~")

    @property
    def may_hold(self) -> bool:
        """True if the server answers other requests while this one is held open."""
        return bool(self.environ.get("wsgi.multithread"))

    def cookies(self) -> Mapping[str, str]:
        """Return the cookies. Of several with one name, the first counts."""
        found: Dict[str, str] = {}
        for part in self.environ.get("HTTP_COOKIE", "").split(";"):
            name, _, value = part.strip().partition("=")
            found.setdefault(name, value)
        return found

    def read_form(self) -> Dict[str, str]:
        """Read the body as a form. Of several fields with one name, the last counts.

        Raises HttpError for a body that is not a form, or is too long.
        """
        kind = self.environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            raise HttpError(415, "The body has to be a form.")
        try:
            length = int(self.environ.get("CONTENT_LENGTH") or "")
        except ValueError:
            raise HttpError(411, "The request has to tell the length of its body.") from None
        if not 0 <= length <= MAX_BODY:
            raise HttpError(413, f"The form has more than {MAX_BODY:,} bytes.")
        data = self.environ["wsgi.input"].read(length)
        if len(data) < length:  # the browser has left: a part of an answer is not an answer
            raise HttpError(400, "The form did not arrive whole.")
        try:
            pairs = parse_qsl(
                data.decode("ascii"),
                keep_blank_values=True,
                max_num_fields=MAX_FIELDS,
                errors="strict",
            )
        except ValueError:
            raise HttpError(400, "The form cannot be read.") from None
        return dict(pairs)


_HEADERS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    # Not no-referrer: then browsers send "null" as the Origin of a form.
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


def content_policy(styles: Iterable[str] = (), scripts: Iterable[str] = ()) -> str:
    """Return a content security policy that allows these inline elements, and forms and requests to
    the same origin, and nothing else.

    styles, scripts: the exact text of each element.
    """
    allowed = {"style-src": styles, "script-src": scripts}
    parts = ["default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'", "img-src data:"]
    parts += ["form-action 'self'", "connect-src 'self'"]
    for name, texts in allowed.items():
        hashes = [_hash(text) for text in texts]
        if hashes:
            parts.append(f"{name} {' '.join(hashes)}")
    return "; ".join(parts)


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def send(reply: Reply, policy: str, method: str, start_response: Any) -> Iterable[bytes]:
    """Start a reply, and return its body.

    policy: the content security policy.
    """
    headers: List[Tuple[str, str]] = [("Content-Type", reply.content_type)]
    headers += _HEADERS
    headers.append(("Content-Security-Policy", policy))
    headers += reply.headers
    body = reply.body
    if isinstance(body, list):
        headers.append(("Content-Length", str(sum(map(len, body)))))
    start_response(reply.status_line, headers)
    if method == "HEAD":
        _close(body)
        return []
    return body


def _close(body: Iterable[bytes]) -> None:
    if isinstance(body, Iterator):
        close = getattr(body, "close", None)
        if close is not None:
            close()
