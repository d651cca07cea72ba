"""Client of OpenAI's chat completions, and of other servers with the same wire."""

from typing import Any, Dict, Mapping, Optional
from urllib.parse import urlsplit

from typing_extensions import Unpack

from asimov_sync.errors import AuthenticationError, InferenceError
from asimov_sync.inference.http.client import HttpInferenceClient, resolve_api_key
from asimov_sync.inference.http.transport import Session
from asimov_sync.inference.options import CHAT_OPTIONS, ChatClientOptions
from asimov_sync.inference.providers.fold import Fold
from asimov_sync.inference.providers.openai.errors import decode_error
from asimov_sync.inference.providers.openai.reply import ChatFold, decode_reply
from asimov_sync.inference.providers.openai.request import encode_request
from asimov_sync.inference.request import Request
from asimov_sync.messages import Reply

__all__ = ["OpenAIInferenceClient"]

API_URL = "https://api.openai.com/v1/chat/completions"

OPENAI = "api.openai.com"
WITHOUT_REASONING = (OPENAI, "api.groq.com")
"""Hosts that reject a message with reasoning. OpenAI sends none on this wire; Groq sends it but
does not accept it back."""


class OpenAIInferenceClient(HttpInferenceClient):
    """Calls OpenAI's models, and those of other servers of chat completions.

    Such servers are OpenRouter, DeepSeek, vLLM, llama.cpp and Ollama.

    model: name of the model.
    api_key: default: $OPENAI_API_KEY, for any address. Without either, no key is sent, as a local
        server needs none; for OpenAI's own address that is an AuthenticationError.
    api_url: the whole address of the endpoint, including /chat/completions.
    headers: sent with every request; they replace headers of the same name.
    proxies: by scheme, as requests takes them; default: those of the environment.
    session: the application's own requests.Session, used for every request.
    options: those of `InferenceClient`. stream_options is {"include_usage": True} by default,
        because most servers report usage only on demand; pass None for servers that reject it.

    Raises AuthenticationError if there is no key, and ValueError or TypeError for an invalid
    argument.
    """

    provider = "openai"
    wire = "the chat-completions API"
    endpoint = "/chat/completions"
    request_id_header = "x-request-id"
    default_options = {"stream_options": {"include_usage": True}}
    _option_names = CHAT_OPTIONS
    _prefers_native_output = True

    def __init__(
        self,
        model: str,
        *,
        api_key: Optional[str] = None,
        api_url: str = API_URL,
        headers: Optional[Mapping[str, str]] = None,
        proxies: Optional[Mapping[str, str]] = None,
        session: Optional[Session] = None,
        **options: Unpack[ChatClientOptions],
    ) -> None:
        try:
            key = resolve_api_key(self.provider, api_key, "OPENAI_API_KEY")
        except AuthenticationError:
            api_key = None
            raise
        if not key and _is_at(api_url, OPENAI):
            raise AuthenticationError(
                "no API key: pass api_key=, or set the environment variable OPENAI_API_KEY",
                provider=self.provider,
            )
        own_headers = {"authorization": "Bearer " + key} if key else {}
        super().__init__(model, api_url, own_headers, headers, proxies, session, **options)

    def _encode(self, request: Request) -> Dict[str, Any]:
        body = encode_request(
            request,
            completion_limit=_is_at(self.api_url, OPENAI),
            reasoning=not any(_is_at(self.api_url, host) for host in WITHOUT_REASONING),
        )
        body.setdefault("stream", True)
        if not body["stream"] and "stream_options" not in (request.options.get("extra") or {}):
            body.pop("stream_options", None)  # OpenAI rejects it for a reply that is not streamed
        return body

    def _decode(self, body: Any) -> Reply:
        return decode_reply(self.provider, body)

    def _new_fold(self) -> Fold:
        return ChatFold(self.provider)

    def _native_output(self, name: str, schema: Dict[str, Any]) -> Dict[str, Any]:
        # Not "strict": it supports only a part of JSON schema, and most servers ignore it.
        return {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": name, "schema": schema},
            }
        }

    def _decode_error(self, status: int, headers: Mapping[str, str], body: Any) -> InferenceError:
        return decode_error(self.provider, status, headers, body)


def _is_at(url: str, host: str) -> bool:
    """Return whether a URL is of this host or a subdomain of it; False for an invalid URL."""
    try:
        name = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return name == host or name.endswith("." + host)
