"""Amazon Bedrock: Anthropic's models over InvokeModel, and all models over Converse."""

import os
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Dict, Iterable, Iterator, Mapping, Optional

from typing_extensions import Unpack

from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import AuthenticationError, ProviderError
from asimov_sync.inference.http.client import NetworkClient, check_url, resolve_api_key
from asimov_sync.inference.http.redaction import Headers
from asimov_sync.inference.http.response import Response
from asimov_sync.inference.http.transport import HttpTransport
from asimov_sync.inference.options import MESSAGES_OPTIONS, MessagesClientOptions
from asimov_sync.inference.providers.anthropic.wire import DEFAULT_MAX_TOKENS, decode_reply
from asimov_sync.inference.providers.bedrock.converse import (
    ConverseFold,
    decode_reply as decode_converse,
    encode_request,
)
from asimov_sync.inference.providers.bedrock.errors import PROVIDER, REQUEST_ID
from asimov_sync.inference.providers.bedrock.invoke import InvokeFold, encode_body
from asimov_sync.inference.providers.bedrock.runtime import (
    KEY_VARIABLE,
    Runtime,
    Session,
    read_events,
)
from asimov_sync.inference.providers.coerce import as_int
from asimov_sync.inference.providers.errors import parse_error_body
from asimov_sync.inference.providers.fold import Fold, events_of, fold_stream
from asimov_sync.inference.reply_events import ReplyEvents
from asimov_sync.inference.request import Request, Timeout
from asimov_sync.messages import Reply

__all__ = ["BedrockInferenceClient", "whole_reply_timeout"]

ANTHROPIC_VERSION = "bedrock-2023-05-31"

SECONDS_PER_TOKEN = 3600 / 128000
"""Time for a token of a reply that is not streamed, as Anthropic's own SDK estimates it."""
UNBOUNDED_SECONDS = 600.0
"""Time for such a reply if the request does not limit its tokens."""

OPERATIONS = {
    ("invoke", True): "invoke_model_with_response_stream",
    ("invoke", False): "invoke_model",
    ("converse", True): "converse_stream",
    ("converse", False): "converse",
}


class BedrockInferenceClient(NetworkClient):
    """Calls models on Amazon Bedrock, through boto3.

    model: id of a model or an inference profile, or its ARN.
    region_name: default: that of the session, its profile, $AWS_REGION or $AWS_DEFAULT_REGION.
        Without any, the first request raises ValueError.
    api: "invoke" (InvokeModel, for Anthropic's models, with every boto3) or "converse" (Converse,
        for all models, with boto3 1.34.116 or newer).
    api_key: a Bedrock API key; default: $AWS_BEARER_TOKEN_BEDROCK. With a key no credentials are
        needed.
    endpoint_url: address of the endpoint; default: that of the region.
    session: the application's own boto3.Session, for credentials and region. Do not use it on
        another thread during the first request.
    headers: sent with every request, not signed.
    proxies: by scheme, as requests takes them; default: those of the environment.
    betas: Anthropic's names of features.
    anthropic_version: version of the body of InvokeModel.
    options: those of `InferenceClient`. With "invoke", max_tokens is 4096 by default.

    boto3 finds the credentials; without any, the first request raises AuthenticationError. boto3
    calls services that issue credentials (for a role, say) by itself, without this client's
    time-outs. $AWS_CA_BUNDLE names a file of trusted authorities, in place of the usual ones.
    """

    provider = PROVIDER
    request_id_header = REQUEST_ID
    _option_names = MESSAGES_OPTIONS

    def __init__(
        self,
        model: str,
        *,
        region_name: Optional[str] = None,
        api: str = "invoke",
        api_key: Optional[str] = None,
        endpoint_url: Optional[str] = None,
        session: Optional[Session] = None,
        headers: Optional[Mapping[str, str]] = None,
        proxies: Optional[Mapping[str, str]] = None,
        betas: Iterable[str] = (),
        anthropic_version: str = ANTHROPIC_VERSION,
        **options: Unpack[MessagesClientOptions],
    ) -> None:
        if api not in ("invoke", "converse"):
            raise ValueError(f'api is "invoke" or "converse", and not {api!r}')
        if api == "invoke":  # InvokeModel requires it
            options.setdefault("max_tokens", DEFAULT_MAX_TOKENS)
        if endpoint_url is not None:
            check_url("endpoint_url", endpoint_url)
        super().__init__(model, **options)
        self.api = api
        try:
            key = resolve_api_key(self.provider, api_key, KEY_VARIABLE)
        except AuthenticationError:
            api_key = None
            raise
        self._extra_headers = Headers({"authorization": "Bearer " + key} if key else {})
        self._extra_headers.update((name.lower(), value) for name, value in (headers or {}).items())
        self._betas = tuple(betas)
        self._anthropic_version = anthropic_version
        self._runtime = Runtime(region_name, endpoint_url, session, signed=not key)
        certificates = os.environ.get("AWS_CA_BUNDLE") or None
        self._transport = HttpTransport(self.provider, proxies, certificates=certificates)

    # One attempt

    @contextmanager
    def _send(
        self, request: Request, cancellation: Cancellation, deadline: Optional[float]
    ) -> Iterator[ReplyEvents]:
        operation = OPERATIONS[self.api, request.streamed]
        if not request.streamed:
            request = request._replace(timeout=whole_reply_timeout(request))
        parameters = self._encode(request)
        with self._invoke(operation, parameters, request, cancellation, deadline) as response:
            request_id = response.headers.get(REQUEST_ID)
            if request.streamed:
                fold = self._new_fold(request, request_id)
                response.is_body_done = lambda: fold.done
                events = fold_stream(
                    fold,
                    read_events(response),
                    fold.feed,
                    self.provider,
                    request_id,
                    lambda: response.length_known,
                )
                yield ReplyEvents(events, fold.partial)
            else:
                reply = self._read_reply(request, response)
                yield ReplyEvents(events_of(reply), lambda: reply)

    def _encode(self, request: Request) -> Dict[str, Any]:
        """Return boto3's parameters for a request."""
        if self.api == "converse":
            return dict({"modelId": request.model}, **encode_request(request, self._betas))
        body = encode_body(request, self._anthropic_version, self._betas)
        json_type = "application/json"
        return {
            "modelId": request.model,
            "body": body,
            "contentType": json_type,
            "accept": json_type,
        }

    def _new_fold(self, request: Request, request_id: Optional[str]) -> Fold:
        return (
            InvokeFold(self.provider)
            if self.api == "invoke"
            else ConverseFold(request.model, request_id)
        )

    def _read_reply(self, request: Request, response: Response) -> Reply:
        def decode(body: Any) -> Reply:
            if self.api == "invoke":
                return decode_reply(body)
            return decode_converse(body, request.model, response.headers.get(REQUEST_ID))

        hint = f'does api="{self.api}" support the model?'
        return self._decode_body(response, decode, "a message", hint)

    def _count_tokens(
        self, request: Request, cancellation: Cancellation, deadline: Optional[float]
    ) -> int:
        """Return the number of tokens in a request's input, by Bedrock's CountTokens.

        It supports only some models.
        """
        encoded = self._encode(request)
        if self.api == "invoke":
            counted = {"invokeModel": {"body": encoded["body"]}}
        else:
            names = ("messages", "system", "toolConfig", "additionalModelRequestFields")
            counted = {"converse": {name: encoded[name] for name in names if name in encoded}}
        parameters = {"modelId": request.model, "input": counted}
        with self._invoke("count_tokens", parameters, request, cancellation, deadline) as response:
            answer = parse_error_body(response.read())
            tokens = as_int(answer.get("inputTokens")) if isinstance(answer, dict) else None
            if tokens is not None:
                return tokens
            raise ProviderError(
                "the response has no token count", provider=self.provider, status=response.status
            )

    def _invoke(
        self,
        operation: str,
        parameters: Dict[str, Any],
        request: Request,
        cancellation: Cancellation,
        deadline: Optional[float],
    ) -> "AbstractContextManager[Response]":
        def post(url: str, headers: Headers, body: bytes) -> Response:
            headers.update(self._extra_headers)
            return self._transport.post(url, headers, body, request, cancellation, deadline)

        return self._runtime.invoke(operation, parameters, post)


def whole_reply_timeout(request: Request) -> Timeout:
    """Return the time-outs of a request whose answer is not streamed.

    Its first byte arrives when the reply is complete.
    """
    timeout = request.timeout
    if timeout.idle is None:
        return timeout
    tokens = request.options.get("max_tokens")
    seconds = tokens * SECONDS_PER_TOKEN if isinstance(tokens, int) else UNBOUNDED_SECONDS
    return timeout._replace(idle=max(timeout.idle, seconds))
