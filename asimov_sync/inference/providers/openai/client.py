"""OpenAI's chat completions, and the many servers that speak their wire, over HTTP."""

from typing import Any, Dict, Mapping, Optional
from urllib.parse import urlsplit

from asimov_sync.errors import AuthenticationError, InferenceError
from asimov_sync.inference.http.client import HttpInferenceClient, resolve_api_key
from asimov_sync.inference.http.transport import Session
from asimov_sync.inference.providers.fold import Fold
from asimov_sync.inference.providers.openai.errors import decode_error
from asimov_sync.inference.providers.openai.reply import ChatFold, decode_reply
from asimov_sync.inference.providers.openai.request import encode_request
from asimov_sync.inference.request import Request
from asimov_sync.messages import Reply

__all__ = ["OpenAIInferenceClient"]

API_URL = "https://api.openai.com/v1/chat/completions"
ENDPOINT = "/chat/completions"

OPENAI = "api.openai.com"
WITHOUT_REASONING = (OPENAI, "api.groq.com")
"""Hosts that refuse a message with reasoning in it: OpenAI tells none on this wire, Groq tells it and takes none back."""


class OpenAIInferenceClient(HttpInferenceClient):
    """Asks OpenAI's models, and those of whatever else speaks chat completions: OpenRouter, DeepSeek, vLLM, llama.cpp, Ollama.

    api_key: $OPENAI_API_KEY where not given, whatever the address. Without either, AuthenticationError if the address is
    OpenAI's own; elsewhere no key is sent, as suits a server of one's own. api_url: the whole address of the endpoint, up to
    and including /chat/completions. headers: sent with every request, in place of ours where the names are the same.
    proxies: as requests takes them. session: a requests.Session of the application's own, to be used for every request.
    options: those of `InferenceClient`, and what every request is to be sent with; stream_options={"include_usage": True}
    unless given, since most servers count tokens only when they are asked to; None for those that refuse it.
    """

    provider = "openai"
    wire = "the chat-completions API"
    request_id_header = "x-request-id"
    default_options = {"stream_options": {"include_usage": True}}
    _prefers_native_output = True

    def __init__(
        self,
        model: str,
        api_key: Optional[str] = None,
        api_url: str = API_URL,
        headers: Optional[Mapping[str, str]] = None,
        proxies: Optional[Mapping[str, str]] = None,
        session: Optional[Session] = None,
        **options: Any,
    ) -> None:
        try:
            key = resolve_api_key(self.provider, api_key, "OPENAI_API_KEY")
        except AuthenticationError:
            api_key = None
            raise
        if not key and _is_at(api_url, OPENAI):
            raise AuthenticationError(
                "no API key: pass api_key=, or set the environment variable OPENAI_API_KEY", provider=self.provider
            )
        own_headers = {"authorization": "Bearer " + key} if key else {}
        super().__init__(model, api_url, own_headers, headers, proxies, session, options)

    def _encode(self, request: Request) -> Dict[str, Any]:
        body = encode_request(
            request,
            completion_limit=_is_at(self.api_url, OPENAI),
            reasoning=not any(_is_at(self.api_url, host) for host in WITHOUT_REASONING),
        )
        body.setdefault("stream", True)
        if not body["stream"] and "stream_options" not in (request.options.get("extra") or {}):
            body.pop("stream_options", None)  # OpenAI refuses it beside a reply that is not streamed
        return body

    def _decode(self, body: Any) -> Reply:
        return decode_reply(self.provider, body)

    def _new_fold(self) -> Fold:
        return ChatFold(self.provider)

    def _native_output(self, name: str, schema: Dict[str, Any]) -> Dict[str, Any]:
        # Not "strict", which takes only a part of JSON schema, and is not told apart by most servers.
        return {"response_format": {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}}

    def _decode_error(self, status: int, headers: Mapping[str, str], body: Any) -> InferenceError:
        error = decode_error(self.provider, status, headers, body)
        if status in (404, 405) and not urlsplit(self.api_url).path.rstrip("/").endswith(ENDPOINT):
            hint = "{} (api_url is the whole address of the endpoint, and usually ends with {})"
            error.args = (hint.format(error.args[0], ENDPOINT),)
        return error


def _is_at(url: str, host: str) -> bool:
    """Whether an address is of this host, or of one below it, as eu.api.openai.com is. False if it is not an address."""
    try:
        name = urlsplit(url).hostname or ""
    except ValueError:  # "http://[::1", say; the request then fails with an error about the address
        return False
    return name == host or name.endswith("." + host)
