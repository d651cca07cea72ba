"""Chooses how to ask a model for structured output, and asks again if a reply does not match."""

from typing import Any, Callable, Dict, List, Tuple, TypeVar

from asimov_sync.errors import ContextLengthExceeded, InvalidRequestError, OutputInvalid
from asimov_sync.inference.output.schema import FORMAT, PROMPT, TOOL, TRUNCATED_REASONS, Output
from asimov_sync.inference.request import Request
from asimov_sync.messages import Reply

__all__ = ["OutputStrategy"]

Sent = TypeVar("Sent")


class OutputStrategy:
    """Finds the method of asking that a client's model accepts, and remembers it.

    provider: the provider's name, for errors.
    native_first: whether the provider's own output format is tried before a forced tool.
    """

    def __init__(self, provider: str, native_first: bool) -> None:
        self._provider = provider
        self._native_first = native_first
        self._accepted: Dict[Tuple[str, bool], str] = {}  # by model, and whether it thinks

    def reply(
        self,
        request: Request,
        output: Output,
        native: Dict[str, Any],
        send: Callable[[Request], Reply],
    ) -> Reply:
        """Return the reply with its data in `.parsed`, after at most one correction.

        request: the request, without structured output.
        output: the type of the data.
        native: the options of the provider's own output format; empty if it has none.
        send: sends a request and returns its reply.

        Raises OutputInvalid, with the reply, if the corrected reply does not match either.
        """
        method, reply = self.send_first_accepted(request, output, native, send)
        try:
            return output.parse(reply)
        except ValueError as error:
            problem = str(error)
        if reply.stop_reason not in TRUNCATED_REASONS:
            messages = request.messages + output.correction(reply, problem)
            corrected = request._replace(messages=messages)
            reply = send(output.apply_to(corrected, method, native))
            try:
                return output.parse(reply)
            except ValueError as error:
                problem = str(error)
        raise OutputInvalid(
            f"the reply is not a valid {output.name}: {problem} (stop reason {reply.stop_reason})",
            provider=self._provider,
            partial=reply,
        )

    def send_first_accepted(
        self,
        request: Request,
        output: Output,
        native: Dict[str, Any],
        send: Callable[[Request], Sent],
    ) -> Tuple[str, Sent]:
        """Send the request with each method until one is accepted.

        The parameters are those of `reply`; `send` raises InvalidRequestError for a method that the
        model rejects.

        Returns the method, and what `send` returned. Raises the last error if all are rejected.
        """
        key = (request.model, "thinking" in request.options)
        methods = self._methods(key, bool(native))
        while True:
            method = methods.pop(0)
            try:
                sent = send(output.apply_to(request, method, native))
            except InvalidRequestError as error:
                # The last method changes the prompt only, so the request itself is invalid.
                if not methods or isinstance(error, ContextLengthExceeded):
                    raise
                continue
            self._accepted[key] = method
            return method, sent

    def _methods(self, key: Tuple[str, bool], native: bool) -> List[str]:
        """Return the methods to try, the best first, without those that were rejected before."""
        # Thinking and a forced tool exclude each other (Anthropic, "Extended thinking").
        native_first = self._native_first or key[1]
        methods = [FORMAT, TOOL, PROMPT] if native_first else [TOOL, FORMAT, PROMPT]
        if not native:
            methods.remove(FORMAT)
        accepted = self._accepted.get(key)
        return methods[methods.index(accepted) :] if accepted in methods else methods
