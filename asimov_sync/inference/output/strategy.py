"""Asking for structured output: one way after the other until the model takes one, and once more if a reply does not fit."""

from typing import Any, Callable, Dict, List, Tuple, TypeVar

from asimov_sync.errors import ContextLengthExceeded, InvalidRequestError, OutputInvalid
from asimov_sync.inference.output.schema import CUT_SHORT, FORMAT, PROMPT, TOOL, Output
from asimov_sync.inference.request import Request
from asimov_sync.messages import Reply

__all__ = ["OutputWays"]

Asked = TypeVar("Asked")


class OutputWays:
    """Which way of asking for structured output a client's models take: tried once, and remembered."""

    def __init__(self, provider: str, native_first: bool) -> None:
        self._provider = provider
        self._native_first = native_first
        self._taken: Dict[Tuple[str, bool], str] = {}  # by the model, and whether it was to think

    def reply(self, request: Request, output: Output, native: Dict[str, Any], ask: Callable[[Request], Reply]) -> Reply:
        """The reply with its data in `.parsed`, after one correction at the most; OutputInvalid with the reply otherwise.

        native: the options that ask for the provider's own structured output, empty where it has none.
        """
        way, reply = self.first(request, output, native, ask)
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

    def first(
        self, request: Request, output: Output, native: Dict[str, Any], ask: Callable[[Request], Asked]
    ) -> Tuple[str, Asked]:
        """The first way that the model takes, and what came of asking in it; arguments as of `reply`.

        ask: raises InvalidRequestError for a way that is not taken; its last one is raised where there is none.
        """
        key = (request.model, "thinking" in request.options)
        ways = self._ways(key, bool(native))
        while True:
            way = ways.pop(0)
            try:
                asked = ask(output.asked(request, way, native))
            except InvalidRequestError as error:
                # What the last way asks for is in the prompt alone: it is the request itself that is wrong.
                if not ways or isinstance(error, ContextLengthExceeded):
                    raise
                continue
            self._taken[key] = way
            return way, asked

    def _ways(self, key: Tuple[str, bool], native: bool) -> List[str]:
        """The ways that are still to be tried, the best first; what was refused before is not asked for again."""
        # Thinking and a forced tool exclude each other (Anthropic, "Extended thinking").
        ways = [FORMAT, TOOL, PROMPT] if self._native_first or key[1] else [TOOL, FORMAT, PROMPT]
        if not native:
            ways.remove(FORMAT)
        taken = self._taken.get(key)
        return ways[ways.index(taken) :] if taken in ways else ways
