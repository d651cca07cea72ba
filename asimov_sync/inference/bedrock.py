"""Amazon Bedrock; the only file that imports boto3 and botocore, and it does so when a client is first used.

boto3 knows the requests, the addresses, the credentials and the signature. What it is not asked for is the HTTP exchange: it
cannot be cancelled, and has no total time. botocore's event `before-send` hands out the signed request and takes a response
for it, in place of sending it, so the exchange is made by the same transport as every other provider's. The response that
botocore gets is empty, and the real one is read here: botocore drops what its version does not know (citations, the kind of a
tool call, the name of an exception in a stream), and its parser raises whatever comes of bytes that are of no wire.

Bearer keys are added there too, to a copy of the headers: every boto3 can use them, also one that is older than they are, and
botocore, which logs the headers that it knows, never sees them.
"""

import json
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Dict, Iterable, Iterator, Mapping, Optional

from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import (
    AsimovError,
    AuthenticationError,
    ConnectionFailed,
    InferenceError,
    InvalidRequestError,
    ProviderError,
    described,
)
from asimov_sync.forking import renew_in_child
from asimov_sync.inference.bedrock_refusals import PROVIDER, REQUEST_ID, decode_error, decode_exception, decode_refusal
from asimov_sync.inference.contract import InferenceClient
from asimov_sync.inference.converse_codec import ConverseFold, decode_reply as decode_converse, encode_request
from asimov_sync.inference.fold import Fold, Garbled, all_at_once, folded
from asimov_sync.inference.http_client import Headers, key_of
from asimov_sync.inference.invoke_codec import InvokeFold, encode_body
from asimov_sync.inference.messages_codec import decode_reply
from asimov_sync.inference.refusals import as_body
from asimov_sync.inference.request import Request
from asimov_sync.inference.retry import advised
from asimov_sync.inference.transport import Exchange, HttpTransport
from asimov_sync.inference.untrusted import text
from asimov_sync.messages import Event, Reply

if TYPE_CHECKING:
    import boto3

__all__ = ["BedrockInferenceClient"]

ANTHROPIC_VERSION = "bedrock-2023-05-31"
KEY_VARIABLE = "AWS_BEARER_TOKEN_BEDROCK"

SECONDS_PER_TOKEN = 3600 / 128000
"""How long a token may take in a reply that comes at once, by the estimate of Anthropic's own SDK."""
UNBOUNDED_SECONDS = 600.0
"""How long such a reply may take where the request does not bound its tokens."""

OPERATIONS = {
    ("invoke", True): "invoke_model_with_response_stream",
    ("invoke", False): "invoke_model",
    ("converse", True): "converse_stream",
    ("converse", False): "converse",
}
SINCE = {"converse": "1.34.116", "converse_stream": "1.34.116", "count_tokens": "1.40.14"}
"""The first boto3 that has an operation, where that is not every one (its own list of changes)."""


class BedrockInferenceClient(InferenceClient):
    """Asks models on Amazon Bedrock, through boto3.

    model: the id of a model or an inference profile, or its ARN. region_name: where not given, that of the session, its
    profile, $AWS_REGION or $AWS_DEFAULT_REGION; ValueError at the first request without any. Credentials are found as boto3
    finds them; AuthenticationError at the first request where there are none.

    api: "invoke" (InvokeModel, for Anthropic's models, on every boto3) or "converse" (Converse, for all models, from boto3
    1.34.116 on). api_key: a Bedrock API key, $AWS_BEARER_TOKEN_BEDROCK where not given; then no credentials are needed.
    endpoint_url: in place of the region's own. session: a boto3.Session of the application's own, for credentials and region;
    it is not safe to use it on another thread during the first request. headers: sent with every request, not signed.
    proxies: as requests takes them. $AWS_CA_BUNDLE: a file of authorities that are trusted in place of the usual ones.
    betas: Anthropic's names for features. anthropic_version: of the body of InvokeModel. options: those of `InferenceClient`,
    and what every request is to be sent with; max_tokens is 4096 unless given, with "invoke".
    """

    provider = PROVIDER

    def __init__(
        self,
        model: str,
        region_name: Optional[str] = None,
        api: str = "invoke",
        api_key: Optional[str] = None,
        endpoint_url: Optional[str] = None,
        session: "Optional[boto3.Session]" = None,
        headers: Optional[Mapping[str, str]] = None,
        proxies: Optional[Mapping[str, str]] = None,
        betas: Iterable[str] = (),
        anthropic_version: str = ANTHROPIC_VERSION,
        **options: Any,
    ) -> None:
        if api not in ("invoke", "converse"):
            raise ValueError('api is "invoke" or "converse", and not {!r}'.format(api))
        if api == "invoke":  # which requires it
            options = dict({"max_tokens": 4096}, **options)
        super().__init__(model, **options)
        self.api = api
        key = key_of(self.provider, api_key, KEY_VARIABLE)
        self._added = Headers({"authorization": "Bearer " + key} if key else {})
        self._added.update((name.lower(), value) for name, value in (headers or {}).items())
        self._proxies = dict(proxies or {})
        self._betas = tuple(betas)
        self._anthropic_version = anthropic_version
        self._runtime = _Runtime(region_name, endpoint_url, session, signed=not key)
        self._transport = self._new_transport()

    def _new_transport(self) -> HttpTransport:
        certificates = os.environ.get("AWS_CA_BUNDLE") or None
        return HttpTransport(self.provider, self.timeout, self._proxies, certificates=certificates)

    # One attempt

    @contextmanager
    def _attempt(self, request: Request, cancellation: Cancellation, deadline: Optional[float]) -> Iterator[Iterator[Event]]:
        operation = OPERATIONS[self.api, request.streamed]
        idle = None if request.streamed else self._patience(request)
        with self._called(operation, self._encoded(request), cancellation, deadline, idle) as exchange:
            request_id = exchange.headers.get(REQUEST_ID)
            if request.streamed:
                fold = self._fold(request, request_id)
                exchange.complete = lambda: fold.done
                yield folded(fold, _events(exchange), fold.feed, self.provider, request_id, lambda: exchange.delimited)
            else:
                yield all_at_once(self._whole(request, exchange))

    def _patience(self, request: Request) -> Optional[float]:
        """The idle limit of an answer that comes at once: nothing is heard until it is done."""
        if self.timeout.idle is None:
            return None
        tokens = request.options.get("max_tokens")
        return max(self.timeout.idle, tokens * SECONDS_PER_TOKEN if isinstance(tokens, int) else UNBOUNDED_SECONDS)

    def _encoded(self, request: Request) -> Dict[str, Any]:
        """boto3's parameters for a request."""
        if self.api == "converse":
            return dict({"modelId": request.model}, **encode_request(request, self._betas))
        body = encode_body(request, self._anthropic_version, self._betas)
        return {"modelId": request.model, "body": body, "contentType": "application/json", "accept": "application/json"}

    def _fold(self, request: Request, request_id: Optional[str]) -> Fold:
        return InvokeFold(self.provider) if self.api == "invoke" else ConverseFold(request.model, request_id)

    def _whole(self, request: Request, exchange: Exchange) -> Reply:
        data = exchange.read()
        try:
            body = json.loads(data.decode("utf-8"))
            if self.api == "invoke":
                return decode_reply(body)
            return decode_converse(body, request.model, exchange.headers.get(REQUEST_ID))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError) as wrong:
            unread = described(wrong)
        raise ProviderError(
            'the response is no message ({}); is the model of those that api="{}" is for?'.format(unread, self.api),
            provider=self.provider,
            status=exchange.status,
            request_id=exchange.headers.get(REQUEST_ID),
        )

    def _count(self, request: Request, cancellation: Cancellation, deadline: Optional[float]) -> int:
        """How many tokens the input of a request has, by Bedrock's CountTokens, for the models that it counts for."""
        encoded = self._encoded(request)
        if self.api == "invoke":
            counted = {"invokeModel": {"body": encoded["body"]}}
        else:
            names = ("messages", "system", "toolConfig", "additionalModelRequestFields")
            counted = {"converse": {name: encoded[name] for name in names if name in encoded}}
        parameters = {"modelId": request.model, "input": counted}
        with self._called("count_tokens", parameters, cancellation, deadline, None) as exchange:
            answer = as_body(exchange.read())
            tokens = answer.get("inputTokens") if isinstance(answer, dict) else None
            if isinstance(tokens, int):
                return tokens
            raise ProviderError("the response holds no count", provider=self.provider, status=exchange.status)

    @contextmanager
    def _called(
        self,
        operation: str,
        parameters: Dict[str, Any],
        cancellation: Cancellation,
        deadline: Optional[float],
        idle: Optional[float],
    ) -> Iterator[Exchange]:
        """The exchange of a call, its status 200 and its body still to be read."""
        call = _Call(self._transport, self._added, cancellation, deadline, idle)
        failure = None
        _calling.call = call
        try:
            try:
                method = getattr(self._runtime.client(), operation, None)
                if method is None:
                    raise _absent(operation)
                method(**parameters)
            except AsimovError:
                raise
            except Exception as error:
                failure = _failure(error)
                if failure is None:
                    raise
            finally:
                _calling.call = None
            if failure is not None:
                raise failure  # outside of the except: botocore's errors hold requests
            assert call.exchange is not None
            yield call.exchange
        finally:
            if call.exchange is not None:
                call.exchange.close()

    # The client itself

    def with_options(self, **options: Any) -> "BedrockInferenceClient":
        """This client with other options: the same connections, the same usage. None takes an option back."""
        twin = super().with_options(**options)
        assert isinstance(twin, BedrockInferenceClient)
        if twin.timeout != self.timeout:
            twin._transport = twin._new_transport()
        return twin

    def close(self) -> None:
        """Close the connections that nobody uses, and take no more tool calls; nothing for a client made `with_options`."""
        super().close()
        if self._owner:
            self._transport.close()


class _Runtime:
    """boto3's client of Bedrock's runtime: made once, at the first request, and anew in a forked child.

    boto3's sessions are not safe to be used by several threads; its clients are.
    """

    def __init__(
        self, region_name: Optional[str], endpoint_url: Optional[str], session: "Optional[boto3.Session]", signed: bool
    ) -> None:
        self._region_name = region_name
        self._endpoint_url = endpoint_url
        self._session = session
        self._signed = signed
        self.renew()
        renew_in_child(self)

    def renew(self) -> None:
        """Forget the client, as in a forked child."""
        self._lock = threading.Lock()
        self._client: Any = None

    def client(self) -> Any:
        """The client. ValueError without a region."""
        if self._client is None:
            with self._lock:
                if self._client is None:
                    self._client = self._made()
        return self._client

    def _made(self) -> Any:
        import boto3
        import botocore
        import botocore.config

        session = self._session if self._session is not None else boto3.Session()
        region = self._region_name or session.region_name or os.environ.get("AWS_REGION")
        if not region:
            raise ValueError("no region: pass region_name=, or set the environment variable AWS_REGION")
        config = botocore.config.Config(
            # "v4" said here keeps newer ones from taking a key from the environment by themselves.
            signature_version="v4" if self._signed else botocore.UNSIGNED,
            retries={"total_max_attempts": 1, "mode": "standard"},
        )
        client = session.client("bedrock-runtime", region_name=region, endpoint_url=self._endpoint_url, config=config)
        client.meta.events.register("before-send.bedrock-runtime", _send)
        return client


# The exchange

_calling = threading.local()  # .call: what this thread asks boto3 for just now


class _Call:
    """One call of boto3's client. exchange: the one that it is answered by, once its request was sent."""

    def __init__(
        self,
        transport: HttpTransport,
        added: Mapping[str, str],
        cancellation: Cancellation,
        deadline: Optional[float],
        idle: Optional[float],
    ) -> None:
        self._transport = transport
        self._added = added
        self._cancellation = cancellation
        self._deadline = deadline
        self._idle = idle
        self.exchange: Optional[Exchange] = None

    def send(self, request: Any) -> Exchange:
        """Send boto3's request. A status that is not 200 is raised as the error that it stands for."""
        # Compressed, events would come in the compressor's blocks, and not one by one.
        headers = Headers({"accept-encoding": "identity"})
        for name, value in request.headers.items():
            headers[name.lower()] = value.decode("utf-8") if isinstance(value, bytes) else value
        headers.update(self._added)
        exchange = self.exchange = self._transport.post(
            request.url, headers, request.body or b"", self._cancellation, self._deadline, self._idle
        )
        if exchange.status != 200:
            error = decode_refusal(exchange.status, exchange.headers, as_body(exchange.refusal()))
            raise advised(error, exchange.headers, time.time())
        return exchange


def _send(request: Any, **_: Any) -> Any:
    """botocore's handler for `before-send`, on the thread that calls boto3: what it returns takes the place of a response."""
    from botocore.awsrequest import AWSResponse

    exchange = _calling.call.send(request)
    return AWSResponse(request.url, exchange.status, {}, _NoBody())


class _NoBody:
    """The body that botocore is given to read."""

    def stream(self) -> Iterator[bytes]:
        return iter(())


def _events(exchange: Exchange) -> Iterator[Any]:
    """The events of a stream, each as {name: payload}. What else it holds is raised: the provider's own error, or Garbled."""
    from botocore.eventstream import EventStreamBuffer

    buffer = EventStreamBuffer()
    for chunk in exchange.chunks():
        buffer.add_data(chunk)
        while True:
            garbled = None
            try:
                frame = next(buffer, None)
                event = None if frame is None else _event(frame.headers, frame.payload)
            except InferenceError:
                raise
            except Exception as error:  # bytes that are no frame raise whatever comes of them in botocore's decoder
                garbled = Garbled("an event that cannot be read: {}".format(described(error)), provider=PROVIDER)
            if garbled is not None:
                raise garbled
            if event is None:
                break
            yield event


def _event(headers: Mapping[str, Any], payload: bytes) -> Dict[str, Any]:
    kind = headers.get(":message-type")
    if kind == "exception":
        raise decode_exception(text(headers.get(":exception-type")), as_body(payload))
    if kind == "error":
        raise decode_exception(text(headers.get(":error-code")), text(headers.get(":error-message")))
    return {headers[":event-type"]: json.loads(payload.decode("utf-8")) if payload else {}}


# Errors

_CREDENTIALS = (
    "ConfigNotFound",
    "ConfigParseError",
    "CredentialRetrievalError",
    "InvalidConfigError",
    "MetadataRetrievalError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "RefreshWithMFAUnsupportedError",
    "SSOError",
    "TokenRetrievalError",
    "UnknownCredentialError",
)
"""The exceptions of botocore that are about credentials, where it has some idea of them."""


def _failure(error: Exception) -> Optional[InferenceError]:
    """What an exception of boto3's amounts to; None for one that is a mistake of the caller's."""
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):  # of a service that was asked for credentials
        told, metadata = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
        return decode_error(
            metadata.get("HTTPStatusCode"), told.get("Code"), str(told.get("Message") or ""), metadata.get("RequestId")
        )
    if isinstance(error, exceptions.NoCredentialsError):
        return AuthenticationError(
            "no credentials: configure AWS's own (AWS_ACCESS_KEY_ID, a profile, a role …), or pass api_key=, or set the "
            "environment variable " + KEY_VARIABLE,
            provider=PROVIDER,
        )
    if isinstance(error, exceptions.HTTPClientError):
        return ConnectionFailed("no connection to what gives the credentials: {}".format(error), provider=PROVIDER)
    if isinstance(error, tuple(getattr(exceptions, name) for name in _CREDENTIALS)):
        return AuthenticationError("boto3 has no credentials: {}".format(error), provider=PROVIDER)
    if isinstance(error, exceptions.BotoCoreError):  # a parameter that is none, say, or a region
        return InvalidRequestError("boto3 does not make the request: {}".format(error), provider=PROVIDER)
    return None


def _absent(operation: str) -> InvalidRequestError:
    import boto3

    instead = ', or use api="invoke"' if operation.startswith("converse") else ""
    return InvalidRequestError(
        "boto3 {} has no {}: install {} or newer{}".format(boto3.__version__, operation, SINCE.get(operation), instead),
        provider=PROVIDER,
    )
