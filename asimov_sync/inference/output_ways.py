"""Asking for structured output: one way after the other until the model takes one, and once more if a reply does not fit."""

from typing import Any, Callable, Dict, List, Tuple

from asimov_sync.errors import ContextLengthExceeded, InvalidRequestError, OutputInvalid
from asimov_sync.inference.output import CUT_SHORT, FORMAT, PROMPT, TOOL, Output
from asimov_sync.inference.request import Request
from asimov_sync.messages import Reply

__all__ = ["OutputWays"]


class OutputWays:
    """Which way of asking for structured output a client's models take: tried once, and remembered."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._taken: Dict[Tuple[str, bool], str] = {}  # by the model, and whether it was to think

    def reply(
        self, request: Request, output: Output, native: Dict[str, Any], native_first: bool, ask: Callable[[Request], Reply]
    ) -> Reply:
        """The reply with its data in `.parsed`, after one correction at the most; OutputInvalid with the reply otherwise.

        native: the options that ask for the provider's own structured output, empty where it has none.
        """
        way, reply = self._first(request, output, native, native_first, ask)
        try:
            return output.filled(reply)
        except ValueError as error:
            wrong = str(error)
        if reply.stop_reason not in CUT_SHORT:
            corrected = request._replace(messages=request.messages + output.correction(reply, wrong))
            reply = ask(output.asked(corrected, way, native))
            try:
                return output.filled(reply)
            except ValueError as error:
                wrong = str(error)
        raise OutputInvalid(
            "the reply is no {}: {} (it stopped with {})".format(output.name, wrong, reply.stop_reason),
            provider=self._provider,
            partial=reply,
        )

    def _first(
        self, request: Request, output: Output, native: Dict[str, Any], native_first: bool, ask: Callable[[Request], Reply]
    ) -> Tuple[str, Reply]:
        key = (request.model, "thinking" in request.options)
        ways = self._ways(key, bool(native), native_first)
        while True:
            way = ways.pop(0)
            try:
                reply = ask(output.asked(request, way, native))
            except InvalidRequestError as error:
                # What the last way asks for is in the prompt alone: it is the request itself that is wrong.
                if not ways or isinstance(error, ContextLengthExceeded):
                    raise
                continue
            self._taken[key] = way
            return way, reply

    def _ways(self, key: Tuple[str, bool], native: bool, native_first: bool) -> List[str]:
        """The ways that are still to be tried, the best first; what was refused before is not asked for again."""
        # Thinking and a forced tool exclude each other (Anthropic, "Extended thinking").
        ways = [FORMAT, TOOL, PROMPT] if native_first or key[1] else [TOOL, FORMAT, PROMPT]
        if not native:
            ways.remove(FORMAT)
        taken = self._taken.get(key)
        return ways[ways.index(taken) :] if taken in ways else ways
