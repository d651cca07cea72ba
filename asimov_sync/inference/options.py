"""The options of requests and clients: names, types and checks. Pure.

The types are for editors and type checkers; a method takes them as `**options: Unpack[…]`. The
names in them are also those that a client accepts.
"""

import difflib
import inspect
import math
from typing import Any, Callable, Collection, Dict, FrozenSet, Mapping, Optional, Sequence, Union

from typing_extensions import Literal, TypedDict

from asimov_sync.inference.rate_limit import RateLimit
from asimov_sync.inference.request import Timeout
from asimov_sync.usage import Budget

__all__ = [
    "CHAT_OPTIONS",
    "ChatClientOptions",
    "ClientOptions",
    "MESSAGES_OPTIONS",
    "MessagesClientOptions",
    "RequestOptions",
    "check_names",
    "check_values",
]


class CommonOptions(TypedDict, total=False):
    """The options of a request that every provider has."""

    max_tokens: Optional[int]
    temperature: Optional[float]
    top_p: Optional[float]
    stop_sequences: Optional[Sequence[str]]
    tool_choice: Union[None, str, Dict[str, Any]]
    metadata: Optional[Dict[str, Any]]
    service_tier: Optional[str]
    prompt_cache: Optional[Literal["auto"]]
    extra: Optional[Mapping[str, Any]]
    max_retries: Optional[int]
    timeout: Union[None, float, Timeout]


class MessagesOptions(CommonOptions, total=False):
    """The options of a request to Anthropic's models, and to others on Bedrock."""

    top_k: Optional[int]
    thinking: Optional[Dict[str, Any]]
    output_config: Optional[Dict[str, Any]]


class ChatOptions(CommonOptions, total=False):
    """The options of a request for chat completions."""

    frequency_penalty: Optional[float]
    max_completion_tokens: Optional[int]
    parallel_tool_calls: Optional[bool]
    presence_penalty: Optional[float]
    reasoning_effort: Optional[str]
    response_format: Optional[Dict[str, Any]]
    seed: Optional[int]
    stream_options: Optional[Dict[str, Any]]


class RequestOptions(MessagesOptions, ChatOptions, total=False):
    """The options of a request, as a type: for a function that passes them on to a client.

    An option that is None resets the client's value. A client accepts the options of its provider.
    Every provider has these:

    max_tokens: the longest reply, in tokens.
    temperature, top_p: how much the reply varies.
    stop_sequences: texts that end the reply.
    tool_choice: "auto", "any", "none", a tool's name, or the provider's own form.
    metadata: what the provider stores with the request.
    service_tier: the provider's name of a service level.
    prompt_cache: "auto" to place cache markers.
    extra: parameters that have no name here; they are merged into the request unchanged.
    max_retries: how often a failed request is sent again if its error is transient.
    timeout: the limits of the call, as a Timeout, or in seconds for the whole call.

    Anthropic's Messages API and Bedrock also have these:

    top_k: the number of most likely tokens from which the model chooses the next one.
    thinking: the provider's object that turns thinking on.
    output_config: the provider's object with the effort and the format of the reply.

    Chat completions also have these:

    frequency_penalty, presence_penalty: how much the model avoids repetitions.
    max_completion_tokens: the longest reply, in tokens, reasoning included.
    parallel_tool_calls: whether the model may ask for several calls in one reply.
    reasoning_effort: the provider's name of an amount of reasoning.
    response_format: the provider's object with the format of the reply.
    seed: makes replies repeatable, as far as the provider can.
    stream_options: the provider's options of streams.
    """


class ClientOnlyOptions(TypedDict, total=False):
    """The options that a client accepts and a call does not."""

    budget: Optional[Budget]
    rate_limit: Optional[RateLimit]


class MessagesClientOptions(MessagesOptions, ClientOnlyOptions, total=False):
    """The options of a client of Anthropic's models, or of Bedrock."""


class ChatClientOptions(ChatOptions, ClientOnlyOptions, total=False):
    """The options of a client of chat completions."""


class ClientOptions(RequestOptions, ClientOnlyOptions, total=False):
    """The options of any client."""


MESSAGES_OPTIONS = frozenset(MessagesOptions.__annotations__)
CHAT_OPTIONS = frozenset(ChatOptions.__annotations__)

CLIENT_ONLY = frozenset(ClientOnlyOptions.__annotations__)

_INTEGERS = ("max_completion_tokens", "max_retries", "max_tokens", "seed", "top_k")
_COUNTS = ("max_completion_tokens", "max_retries", "max_tokens")
_CLASSES: Mapping[str, type] = {"budget": Budget, "rate_limit": RateLimit}
_NUMBERS = ("frequency_penalty", "presence_penalty", "temperature", "top_p")


def check_names(
    names: Collection[str],
    known: Optional[FrozenSet[str]],
    function: Callable[..., Any],
    of_client: bool = False,
) -> None:
    """Raise TypeError if an option is unknown; the message lists the options and similar names.

    names: the names of the given options.
    known: the request options of the provider; None accepts any name.
    function: the function that was called; one of its parameters may have been meant.
    of_client: whether the options are those of a client, and not of one call.
    """
    if known is None:
        return
    accepted = known | CLIENT_ONLY if of_client else known
    unknown = sorted(set(names).difference(accepted))
    if not unknown:
        return
    name = unknown[0]
    if not of_client and (name in CLIENT_ONLY or name == "model"):
        raise TypeError(
            f"{name} is an option of the client, not of a call: use client.with_options({name}=…)"
        )
    parameters = set(inspect.signature(function).parameters) - {"options"}
    candidates = sorted(accepted | CLIENT_ONLY | parameters)
    near = [match for name in unknown for match in difflib.get_close_matches(name, candidates, n=1)]
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    client_only = "" if of_client else f"; {', '.join(sorted(CLIENT_ONLY))} of the client"
    raise TypeError(
        f"unknown option {', '.join(map(repr, unknown))}{hint}; "
        f"valid options: {', '.join(sorted(accepted))}{client_only}, "
        "and extra={…} for parameters that are sent unchanged"
    )


def check_values(options: Mapping[str, Any]) -> None:
    """Check the values of options; None is valid for each.

    Raises TypeError for a value of the wrong type, and ValueError for a value out of range.
    """
    for name, value in options.items():
        if value is None:
            continue
        if name in _INTEGERS:
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be a whole number, not {value!r}")
            if name in _COUNTS and value < 0:
                raise ValueError(f"{name} must be 0 or more, not {value}")
        elif name in _NUMBERS:
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise TypeError(f"{name} must be a number, not {value!r}")
            if not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, not {value}")
        elif name == "stop_sequences":
            if isinstance(value, str):
                raise TypeError(f"stop_sequences must be a list of texts: [{value!r}]")
        elif name in _CLASSES:
            if not isinstance(value, _CLASSES[name]):
                raise TypeError(f"{name} must be a {_CLASSES[name].__name__}, not {value!r}")
        elif name == "prompt_cache" and value != "auto":
            raise ValueError(f'prompt_cache must be "auto" or None, not {value!r}')
