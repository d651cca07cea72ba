"""Must not pass a type check: each statement below has one mistake, named in its comment."""

from asimov_sync import (  # no such name: Tsak
    AnthropicInferenceClient,
    InferenceClient,
    OpenAIInferenceClient,
    TaskGraph,
    TaskScheduler,
    Tsak,
)
from asimov_sync.aio import to_async

print(Tsak)
AnthropicInferenceClient("m", api_key="k", max_retires=3)  # no such option: max_retires
AnthropicInferenceClient("m", api_key="k", seed=3)  # no option of this provider: seed
OpenAIInferenceClient("m", top_k=3)  # no option of this provider: top_k
AnthropicInferenceClient("m", api_key="k", timeout="30")  # wrong type: timeout
TaskScheduler(8)  # not a mapping of handlers: 8
TaskGraph().add(lambda task: task)  # not a handler: one parameter
AnthropicInferenceClient("m", "k")  # positional, although keyword-only: "k"


def ask(client: InferenceClient) -> None:
    """Call the methods of a client."""
    client.generate("hello", temprature=0)  # no such option: temprature
    client.stream("hello", max_tokens="a")  # wrong type: max_tokens
    client.run_tools("hello", [], stop_sequence=["x"])  # no such option: stop_sequence
    client.with_options(rate_limits=None)  # no such option: rate_limits
    client.generate("hello", prompt_cache="always")  # wrong value: prompt_cache
    to_async(client).stream("hello", time_out=3)  # no such option: time_out
