"""OpenTelemetry spans and metrics for runs, tasks, agents, model requests and tool calls.

The names follow OpenTelemetry's semantic conventions for generative AI. Importing this package
instruments nothing; `install()` starts it and `uninstall()` stops it::

    from asimov_sync import telemetry

    telemetry.install()

`install()` reads two environment variables:

- OTEL_SEMCONV_STABILITY_OPT_IN: a comma-separated list. If it contains
  `gen_ai_latest_experimental`, the names of the conventions under development are used; otherwise
  the names of their version 1.41.
- OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT: `SPAN_ONLY`, `SPAN_AND_EVENT` or `true`
  record messages and tool arguments on spans. By default no content is recorded.
"""

import os
from typing import Optional

from asimov_sync import instrumentation
from asimov_sync.concurrency.log_context import get_logger
from asimov_sync.telemetry.names import LATEST, V1_41
from asimov_sync.telemetry.spans import MeterProvider, Spans, TracerProvider

__all__ = ["install", "uninstall"]

logger = get_logger("asimov_sync.telemetry")

STABILITY_OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"
CAPTURE_CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
CAPTURE_VALUES = {
    "true": True,
    "span_only": True,
    "span_and_event": True,
    "event_only": False,
    "no_content": False,
    "false": False,
}
"""Maps each value of CAPTURE_CONTENT to whether spans record content. Events are not supported."""


def install(
    tracer_provider: Optional[TracerProvider] = None,
    meter_provider: Optional[MeterProvider] = None,
    *,
    openinference: bool = False,
) -> None:
    """Start recording spans and metrics. Replaces an earlier `install()`.

    Runs, streams and calls that are in progress keep the instrumentation they started with.

    tracer_provider: makes the spans. Default: OpenTelemetry's global tracer provider.
    meter_provider: makes the metrics. Default: OpenTelemetry's global meter provider.
    openinference: whether spans also have attributes that are not part of the conventions and that
        Phoenix and Langfuse display: the span kinds and values of OpenInference, and the costs of
        requests. Default: False.
    """
    opt_ins = [word.strip() for word in os.environ.get(STABILITY_OPT_IN, "").split(",")]
    generation = LATEST if "gen_ai_latest_experimental" in opt_ins else V1_41
    instrumentation.install(
        Spans(
            tracer_provider, meter_provider, generation, _read_capture_content(), openinference
        ).hooks
    )


def uninstall() -> None:
    """Stop recording spans and metrics. Does nothing if telemetry is not installed."""
    instrumentation.install(None)


def _read_capture_content() -> bool:
    value = os.environ.get(CAPTURE_CONTENT, "").strip().lower()
    if value and value not in CAPTURE_VALUES:
        logger.warning(
            "%s=%s is not one of %s; no content is captured",
            CAPTURE_CONTENT,
            value,
            ", ".join(CAPTURE_VALUES),
        )
    return CAPTURE_VALUES.get(value, False)
