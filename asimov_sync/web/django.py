"""Responses of Django, under WSGI and ASGI."""

import io
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Tuple, Union

from asimov_sync.web.body import AsyncBody, Body

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponseBase

__all__ = ["runs_view", "stream_response"]


def stream_response(
    request: "HttpRequest", body: Union[Body, AsyncBody, None]
) -> "HttpResponseBase":
    """Return the response for a body: 200 with its headers; 204 for None.

    Under ASGI, Django would collect a body for WSGI before it sends anything. So its events are
    then read on a thread, for the server's event loop. Views may be `def` or `async def`.

    Open the events before, in the view: an error of the first request, such as a wrong key, is then
    the status of the response, and not an event in the middle of it.

    request: the request of the view.
    body: the result of `sse`, `ui_message_stream` or `ag_ui`.

    Raises TypeError for an async body under WSGI, and RuntimeError under ASGI before Django 4.2,
    which cannot stream there.
    """
    import django
    from django.core.handlers.asgi import ASGIRequest
    from django.http import HttpResponse, StreamingHttpResponse

    if body is None:
        return HttpResponse(status=204)
    content: Any = body
    if not isinstance(request, ASGIRequest):
        if isinstance(body, AsyncBody):
            raise TypeError("WSGI cannot stream async events: use the blocking agent or client")
    elif django.VERSION < (4, 2):
        raise RuntimeError("streaming under ASGI needs Django 4.2 or newer")
    elif isinstance(body, Body):
        content = body.as_async()
    response = StreamingHttpResponse(content, content_type=body.headers["Content-Type"])
    for name, value in body.headers.items():
        response[name] = value
    return response


def runs_view(app: Callable[..., Any]) -> "Callable[..., HttpResponseBase]":
    """Return a view that answers with a WSGI application, such as that of `runs_app`.

    Add it as `re_path(r"^runs/(?P<path>.*)$", runs_view(app))`. The application finds the request
    as `environ["django.request"]`. Under ASGI it holds no connections.

    app: the application.
    """
    from django.views.decorators.csrf import csrf_exempt

    def view(request: "HttpRequest", path: str = "") -> "HttpResponseBase":
        started: List[Tuple[str, List[Tuple[str, str]]]] = []

        def start_response(status: str, headers: Any, exc_info: Any = None) -> None:
            started.append((status, headers))

        body = app(_make_environ(request, path), start_response)
        status, headers = started[-1]
        return _make_response(status, headers, body)

    exempt: "Callable[..., HttpResponseBase]" = csrf_exempt(view)
    return exempt


def _make_environ(request: "HttpRequest", path: str) -> Dict[str, Any]:
    """Return the WSGI environment of a request below the path of a view."""
    from django.core.handlers.asgi import ASGIRequest

    whole = request.path
    script = whole[: len(whole) - len(path)] if path else whole
    environ = dict(request.META)
    environ.update(
        {
            "SCRIPT_NAME": _as_wsgi(script.rstrip("/")),
            "PATH_INFO": _as_wsgi("/" + path),
            "wsgi.input": io.BytesIO(request.body),
            "wsgi.url_scheme": request.scheme,
            "wsgi.version": (1, 0),
            "django.request": request,
        }
    )
    if isinstance(request, ASGIRequest):
        environ["wsgi.multithread"] = False
    return environ


def _as_wsgi(path: str) -> str:
    """Return a path as PEP 3333 has it: the bytes, decoded as Latin-1."""
    return path.encode("utf-8").decode("latin-1")


def _make_response(status: str, headers: Any, body: Any) -> "HttpResponseBase":
    from django.http import HttpResponse, StreamingHttpResponse

    code = int(status.split()[0])
    response: Any
    if isinstance(body, list):
        response = HttpResponse(b"".join(body), status=code)
    else:
        response = StreamingHttpResponse(body, status=code)
    for name, value in headers:
        response[name] = value
    return response
