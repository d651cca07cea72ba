"""The web: streams for browsers, and what browsers send back.

`asimov_sync.web.flask` and `asimov_sync.web.django` make responses of them.
"""

from typing import TYPE_CHECKING

from asimov_sync._exports import export_lazily

if TYPE_CHECKING:
    from asimov_sync.web.ag_ui_events import (
        AG_UI_HEADERS as AG_UI_HEADERS,
        ag_ui as ag_ui,
        read_ag_ui as read_ag_ui,
    )
    from asimov_sync.web.body import AsyncBody as AsyncBody, Body as Body
    from asimov_sync.web.browser_request import BrowserRequest as BrowserRequest
    from asimov_sync.web.http_errors import error_status as error_status
    from asimov_sync.web.runs import (
        RunLog as RunLog,
        answer_waits as answer_waits,
        follow as follow,
    )
    from asimov_sync.web.runs_application import runs_app as runs_app
    from asimov_sync.web.server_sent_events import (
        SSE_HEADERS as SSE_HEADERS,
        read_last_event_id as read_last_event_id,
        sse as sse,
    )
    from asimov_sync.web.ui_messages import (
        UI_MESSAGE_HEADERS as UI_MESSAGE_HEADERS,
        read_ui_messages as read_ui_messages,
        ui_message_stream as ui_message_stream,
    )

if not TYPE_CHECKING:  # a type checker reports every name that is not imported above
    __getattr__, __dir__, __all__ = export_lazily(
        __name__,
        {
            "ag_ui_events": "AG_UI_HEADERS ag_ui read_ag_ui",
            "body": "AsyncBody Body",
            "browser_request": "BrowserRequest",
            "http_errors": "error_status",
            "runs": "RunLog answer_waits follow",
            "runs_application": "runs_app",
            "server_sent_events": "SSE_HEADERS read_last_event_id sse",
            "ui_messages": "UI_MESSAGE_HEADERS read_ui_messages ui_message_stream",
        },
    )
