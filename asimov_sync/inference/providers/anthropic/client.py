"""Anthropic's Messages API, and whatever else speaks its wire, over HTTP."""

from typing import Any, Dict, Iterable, Mapping, Optional

from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import AuthenticationError, InferenceError
from asimov_sync.inference.http.client import HttpInferenceClient, resolve_api_key
from asimov_sync.inference.http.transport import Session
from asimov_sync.inference.output.schema import closed
from asimov_sync.inference.providers.anthropic.wire import (
    MessagesFold,
    decode_error,
    decode_reply,
    encode_request,
)
from asimov_sync.inference.providers.coerce import as_int
from asimov_sync.inference.providers.fold import Fold
from asimov_sync.inference.request import Request
from asimov_sync.messages import Reply

__all__ = ["AnthropicInferenceClient"]

API_URL = "https://api.anthropic.com/v1/messages"
API_VERSION = "2023-06-01"
COUNTED = frozenset("messages model system tools tool_choice thinking mcp_servers context_management".split())
"""What a request to count tokens may hold (Anthropic, "Count Message tokens")."""


class AnthropicInferenceClient(HttpInferenceClient):
    """Asks Anthropic's models, over the Messages API.

    api_key: $ANTHROPIC_API_KEY where not given; AuthenticationError without either. auth_token: a key that is sent as
    `Authorization: Bearer` in place of it ($ANTHROPIC_AUTH_TOKEN). api_url: the whole address of the messages endpoint.
    anthropic_version: the API version header; betas: names for the anthropic-beta header. headers: sent with every request,
    in place of ours where the names are the same. proxies: as requests takes them. session: a requests.Session of the
    application's own, to be used for every request. options: those of `InferenceClient`, and what every request is to be sent
    with; max_tokens, 4096 unless given, is the longest reply that is asked for.
    """

    provider = "anthropic"
    wire = "the Messages API"
    default_options = {"max_tokens": 4096}

    def __init__(
        self,
        model: str,
        api_key: Optional[str] = None,
        api_url: str = API_URL,
        auth_token: Optional[str] = None,
        anthropic_version: str = API_VERSION,
        betas: Iterable[str] = (),
        headers: Optional[Mapping[str, str]] = None,
        proxies: Optional[Mapping[str, str]] = None,
        session: Optional[Session] = None,
        **options: Any,
    ) -> None:
        try:
            key = resolve_api_key(self.provider, api_key, "ANTHROPIC_API_KEY") if auth_token is None else ""
            token = resolve_api_key(self.provider, auth_token, "ANTHROPIC_AUTH_TOKEN") if not key else ""
        except AuthenticationError:
            api_key = auth_token = None
            raise
        if not (key or token):
            raise AuthenticationError(
                "no API key: pass api_key=, or set the environment variable ANTHROPIC_API_KEY", provider=self.provider
            )
        sent = {"x-api-key": key} if key else {"authorization": "Bearer " + token}
        sent["anthropic-version"] = anthropic_version
        if betas:
            sent["anthropic-beta"] = ",".join(betas)
        super().__init__(model, api_url, sent, headers, proxies, session, options)

    def _encode(self, request: Request) -> Dict[str, Any]:
        return dict({"stream": True}, **encode_request(request))

    def _decode(self, body: Any) -> Reply:
        if body["type"] == "error":
            raise decode_error(self.provider, 200, {}, body)
        return decode_reply(body)

    def _new_fold(self) -> Fold:
        return MessagesFold(self.provider)

    def _decode_error(self, status: int, headers: Mapping[str, str], body: Any) -> InferenceError:
        return decode_error(self.provider, status, headers, body)

    def _count(self, request: Request, cancellation: Cancellation, deadline: Optional[float]) -> int:
        body = {name: value for name, value in encode_request(request).items() if name in COUNTED}
        with self._post(self.api_url + "/count_tokens", body, cancellation, deadline) as response:
            return self._read(response, _decoded_count)

    def _native_output(self, name: str, schema: Dict[str, Any]) -> Dict[str, Any]:
        return {"output_config": {"format": {"type": "json_schema", "schema": closed(schema)}}}


def _decoded_count(body: Any) -> int:
    """The number of tokens in an answer to count_tokens. ValueError if it is not a whole number."""
    tokens = as_int(body["input_tokens"])
    if tokens is None:
        raise ValueError(f"input_tokens must be a whole number, not {body['input_tokens']!r}")
    return tokens
