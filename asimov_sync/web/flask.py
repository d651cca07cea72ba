"""Responses of Flask."""

from typing import TYPE_CHECKING, Optional

from asimov_sync.web.body import Body

if TYPE_CHECKING:
    import flask

__all__ = ["stream_response"]


def stream_response(body: Optional[Body]) -> "flask.Response":
    """Return the response for a body: 200 with its headers; 204 for None.

    Open the events before, in the view: an error of the first request, such as a wrong key, is then
    the status of the response, and not an event in the middle of it.

    body: the result of `sse`, `ui_message_stream` or `ag_ui`.
    """
    import flask

    if body is None:
        return flask.Response(status=204)
    return flask.Response(body, headers=body.headers)
