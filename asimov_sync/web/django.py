"""Responses of Django, under WSGI and ASGI."""

from typing import TYPE_CHECKING, Any, Union

from asimov_sync.web.body import AsyncBody, Body

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponseBase

__all__ = ["stream_response"]


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
