"""Client of Anthropic's Messages API, and of other servers with the same wire."""

from typing import Any, Dict, Iterable, Mapping, Optional

from typing_extensions import Unpack

from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import AuthenticationError, InferenceError
from asimov_sync.inference.http.client import HttpInferenceClient, resolve_api_key
from asimov_sync.inference.http.transport import Session
from asimov_sync.inference.options import MESSAGES_OPTIONS, MessagesClientOptions
from asimov_sync.inference.output.schema import strict_schema
from asimov_sync.inference.providers.anthropic.wire import (
    DEFAULT_MAX_TOKENS,
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
COUNT_PARAMETERS = frozenset(
    "messages model system tools tool_choice thinking mcp_servers context_management".split()
)
"""The parameters that a request to count tokens may have (Anthropic, "Count Message tokens")."""


class AnthropicInferenceClient(HttpInferenceClient):
    """Calls Anthropic's models over the Messages API.

    model: name of the model.
    api_key: default: $ANTHROPIC_API_KEY.
    api_url: the whole address of the messages endpoint.
    auth_token: a key sent as `Authorization: Bearer` in place of api_key; default, if there is no
        api_key: $ANTHROPIC_AUTH_TOKEN.
    anthropic_version: the API version header.
    betas: names for the anthropic-beta header.
    headers: sent with every request; they replace headers of the same name.
    proxies: by scheme, as requests takes them; default: those of the environment.
    session: the application's own requests.Session, used for every request.
    options: those of `InferenceClient`. max_tokens, the longest reply in tokens, is 4096 by
        default.

    Raises AuthenticationError if there is no key, and ValueError or TypeError for an invalid
    argument.
    """

    provider = "anthropic"
    wire = "the Messages API"
    endpoint = "/messages"
    default_options = {"max_tokens": DEFAULT_MAX_TOKENS}
    _option_names = MESSAGES_OPTIONS

    def __init__(
        self,
        model: str,
        *,
        api_key: Optional[str] = None,
        api_url: str = API_URL,
        auth_token: Optional[str] = None,
        anthropic_version: str = API_VERSION,
        betas: Iterable[str] = (),
        headers: Optional[Mapping[str, str]] = None,
        proxies: Optional[Mapping[str, str]] = None,
        session: Optional[Session] = None,
        **options: Unpack[MessagesClientOptions],
    ) -> None:
        try:
            key = (
                resolve_api_key(self.provider, api_key, "ANTHROPIC_API_KEY")
                if auth_token is None
                else ""
            )
            token = (
                resolve_api_key(self.provider, auth_token, "ANTHROPIC_AUTH_TOKEN")
                if not key
                else ""
            )
        except AuthenticationError:
            api_key = auth_token = None
            raise
        if not (key or token):
            raise AuthenticationError(
                "no API key: pass api_key=, or set the environment variable ANTHROPIC_API_KEY",
                provider=self.provider,
            )
        own_headers = {"x-api-key": key} if key else {"authorization": "Bearer " + token}
        own_headers["anthropic-version"] = anthropic_version
        if betas:
            own_headers["anthropic-beta"] = ",".join(betas)
        super().__init__(model, api_url, own_headers, headers, proxies, session, **options)

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

    def _count_tokens(
        self, request: Request, cancellation: Cancellation, deadline: Optional[float]
    ) -> int:
        body = {
            name: value
            for name, value in encode_request(request).items()
            if name in COUNT_PARAMETERS
        }
        url = self.api_url + "/count_tokens"
        with self._post(url, body, request, cancellation, deadline) as response:
            return self._read(response, _decode_count)

    def _native_output(self, name: str, schema: Dict[str, Any]) -> Dict[str, Any]:
        return {
            "output_config": {"format": {"type": "json_schema", "schema": strict_schema(schema)}}
        }


def _decode_count(body: Any) -> int:
    """Return the number of tokens in an answer of count_tokens.

    Raises ValueError if it is not a whole number.
    """
    tokens = as_int(body["input_tokens"])
    if tokens is None:
        raise ValueError(f"input_tokens must be a whole number, not {body['input_tokens']!r}")
    return tokens
