"""OpenTelemetry: spans and metrics for runs, tasks, agents, requests to models and tool calls, by the GenAI conventions.

Nothing is instrumented by importing this. `install()` begins it, and `uninstall()` ends it::

    from asimov_sync import telemetry

    telemetry.install()

What is told, and under which names, is said by the environment, which is read by `install()`:

- OTEL_SEMCONV_STABILITY_OPT_IN, a list with commas: with `gen_ai_latest_experimental` in it the names are those of the
  conventions as they are being developed, without it those of their version 1.41.
- OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT: `SPAN_ONLY`, `SPAN_AND_EVENT` or `true` for spans that tell what was said
  to models and by them, and what tools were called with. Otherwise no message is in any span.
"""

import logging
import os
from typing import Optional

from asimov_sync import hooks
from asimov_sync.telemetry.names import LATEST, V1_41
from asimov_sync.telemetry.spans import MeterProvider, Spans, TracerProvider

__all__ = ["install", "uninstall"]

logger = logging.getLogger(__name__)

OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"
CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
ON_SPANS = {"true": True, "span_only": True, "span_and_event": True, "event_only": False, "no_content": False, "false": False}
"""Whether the content goes to spans; to events, which some of these ask for, nothing goes."""


def install(tracer_provider: Optional[TracerProvider] = None, meter_provider: Optional[MeterProvider] = None) -> None:
    """Have spans and metrics made from now on, by these providers; by OpenTelemetry's global ones where not given.

    It takes the place of an earlier `install()`. Runs, streams and calls that go on stay with what they began with.
    """
    opted = [word.strip() for word in os.environ.get(OPT_IN, "").split(",")]
    generation = LATEST if "gen_ai_latest_experimental" in opted else V1_41
    hooks.install(Spans(tracer_provider, meter_provider, generation, _content_is_asked_for()).hooks)


def uninstall() -> None:
    """Have no more spans and metrics made; harmless where nothing is installed."""
    hooks.install(None)


def _content_is_asked_for() -> bool:
    word = os.environ.get(CAPTURE, "").strip().lower()
    if word and word not in ON_SPANS:
        logger.warning("%s=%s is none of %s: no content is captured", CAPTURE, word, ", ".join(ON_SPANS))
    return ON_SPANS.get(word, False)
