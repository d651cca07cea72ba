"""Guards: check who makes a request, and that a form was sent from a page of the application."""

import hmac
import secrets
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

from asimov_sync.web.wsgi import HttpError, Reply, Request

__all__ = [
    "Authorize",
    "CallerGuard",
    "Guard",
    "LocalGuard",
    "check_write",
    "csrf_cookie",
    "known_csrf",
]

Authorize = Callable[[Dict[str, Any]], Any]

CSRF_COOKIE = "asimov_csrf"


class Admitted(NamedTuple):
    """The outcome of a guard.

    user: who makes the request; empty if `reply` is sent in place of a page.
    reply: what is sent in place of a page.
    """

    user: str
    reply: Optional[Reply] = None


class Guard:
    """Decides about each request."""

    def admit(self, request: Request) -> Admitted:
        """Return who makes the request. Raises HttpError if it is refused."""
        raise NotImplementedError


class CallerGuard(Guard):
    """Asks a function of the embedding application.

    authorize: called with the WSGI environment; returns the name of the user, or None.

    Raises TypeError if it returns anything else.
    """

    def __init__(self, authorize: Authorize) -> None:
        self._authorize = authorize

    def admit(self, request: Request) -> Admitted:
        """Return who makes the request. Raises HttpError if it is refused."""
        user = self._authorize(request.environ)
        if user is None or user == "":
            raise HttpError(403, "You may not see this page.")
        if not isinstance(user, str):
            raise TypeError(
                f"authorize= returns the name of the user as a str, or None; not {user!r}"
            )
        return Admitted(user)


class LocalGuard(Guard):
    """Admits the browser of the person who started a server on this machine.

    A browser that opens the address with the token gets a cookie in exchange. A request
    under another name of this machine is refused, since a foreign page may have made that name
    resolve to it.

    user: the name of the person, for answers.
    port: the port of the server.
    """

    def __init__(self, user: str, port: int) -> None:
        self.token = secrets.token_urlsafe(24)
        self._user = user
        self._session = secrets.token_urlsafe(24)
        self._cookie = f"asimov_session_{port}"  # browsers do not separate cookies by port
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}

    def admit(self, request: Request) -> Admitted:
        """Return who makes the request. Raises HttpError if it is refused."""
        if (request.header("HTTP_HOST") or "").lower() not in self._hosts:
            raise HttpError(421, "This server answers to 127.0.0.1 and localhost only.")
        given = request.get("token")
        if given and request.method == "GET" and _equal(given, self.token):
            cookie = f"{self._cookie}={self._session}; Path=/; HttpOnly; SameSite=Strict"
            headers = (("Location", request.url("/")), ("Set-Cookie", cookie))
            return Admitted("", Reply(303, [], headers=headers))
        if not _equal(request.cookies().get(self._cookie, ""), self._session):
            raise HttpError(403, "Open the address that asimov-sync serve has printed.")
        return Admitted(self._user)


def known_csrf(request: Request) -> str:
    """Return the token that the browser has; empty if it has none."""
    known = request.cookies().get(CSRF_COOKIE, "")
    return known if len(known) == 32 and known.isalnum() else ""


def csrf_cookie(request: Request) -> Tuple[str, Tuple[Tuple[str, str], ...]]:
    """Return the token for the forms of a page, and the header fields that set its cookie."""
    known = known_csrf(request)
    if known:
        return known, ()
    token = secrets.token_hex(16)
    secure = "; Secure" if request.environ.get("wsgi.url_scheme") == "https" else ""
    path = request.url("/")
    cookie = f"{CSRF_COOKIE}={token}; Path={path}; HttpOnly; SameSite=Strict{secure}"
    return token, (("Set-Cookie", cookie),)


def check_write(request: Request, form: Dict[str, str]) -> None:
    """Raise HttpError unless a form was sent from a page of this application.

    Its Origin has to be that of the application, and its token that of the cookie, which pages of
    another origin cannot read.
    """
    origin = (request.header("HTTP_ORIGIN") or "").lower()
    schemes = ("https",) if request.environ.get("wsgi.url_scheme") == "https" else ("http", "https")
    host = (request.header("HTTP_HOST") or "").lower()
    if not host or origin not in [f"{scheme}://{host}" for scheme in schemes]:
        raise HttpError(
            403, "The form was sent from another site, or by a proxy that changes Host."
        )
    if request.header("HTTP_SEC_FETCH_SITE") not in (None, "same-origin"):
        raise HttpError(403, "The form was sent from another site.")
    known = known_csrf(request)
    if not known or not _equal(known, form.get("csrf", "")):
        raise HttpError(403, "The form is too old. Reload the page, and send it again.")


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8"), other.encode("utf-8"))
