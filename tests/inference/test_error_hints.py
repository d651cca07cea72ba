"""Error hints: the options that real error messages of providers mention."""

import pytest

from asimov_sync import ContextLengthExceeded, InvalidRequestError
from asimov_sync.inference.error_hints import add_option_hint
from asimov_sync.inference.request import Request
from asimov_sync.testing import Failure, ScriptedInferenceClient

OPTIONS = {
    "max_tokens": 4096,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "tool_choice": "any",
    "stop_sequences": ["x"],
    "metadata": {"user_id": "u"},
    "output_config": {"effort": "low"},
    "extra": {"seed": 1, "user": "me", "logit_bias": {}},
}


def hint_for(provider_message, kind=InvalidRequestError, options=None):
    """Return the hint in a message, without brackets and without the note on None; or None."""
    error = kind(provider_message)
    add_option_hint(
        error, Request("m", [], None, [], dict(OPTIONS if options is None else options))
    )
    message = str(error)
    assert message.startswith(provider_message)
    hint = message[len(provider_message) :].strip(" []")
    return hint.replace("; pass None to reset an option of the client", "") or None


# Quoted in issues of public projects: messages of Anthropic, Bedrock, OpenAI and others.
@pytest.mark.parametrize(
    "message, expected",
    [
        (
            "`temperature` and `top_p` cannot both be specified for this model. "
            "Please use only one.",
            "omit temperature= or top_p=",
        ),
        (
            "The model returned the following errors: `temperature` and `top_p` cannot both be "
            "specified for this model. Please use only one.",
            "omit temperature= or top_p=",
        ),
        ("`temperature` is deprecated for this model.", "omit temperature="),
        ("temperature: Extra inputs are not permitted", "omit temperature="),
        ("temperature: range: 0..1", "omit temperature="),
        ("temperature must be non-negative, got -1.0.", "omit temperature="),
        ("top_k: Input should be greater than or equal to 0", "omit top_k="),
        (
            "`temperature` may only be set to 1 when thinking is enabled. "
            "Please consult our documentation",
            "omit temperature=",
        ),
        (
            "Thinking may not be enabled when tool_choice forces tool use.",
            "omit thinking= or tool_choice=",
        ),
        ('tool_choice: Input tag "x" found using "type" does not match', "omit tool_choice="),
        (
            "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024",
            "omit thinking=",
        ),
        (
            "max_tokens: 21333 > 4096, which is the maximum allowed number of output "
            "tokens for claude-3-opus-20240229",
            "change max_tokens=",
        ),
        (
            "`max_tokens` must be greater than `thinking.budget_tokens`.",
            "change max_tokens=, or omit thinking=",
        ),
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            "omit max_tokens=",
        ),
        (
            "Unsupported value: 'temperature' does not support 0.16 with this model. "
            "Only the default (1) value is supported.",
            "omit temperature=",
        ),
        ("Unsupported parameter: 'stop' is not supported with this model.", "omit stop_sequences="),
        ("Unrecognized request argument supplied: top_k", "omit top_k="),
        ("Unrecognized request argument supplied: seed", "omit extra={'seed': …}"),
        (
            "Invalid type for 'user': expected a string, but got an object instead.",
            "omit extra={'user': …}",
        ),
        (
            "Malformed input request: #: extraneous key [temperature] is not permitted, "
            "please reformat your input",
            "omit temperature=",
        ),
        ("Malformed input request: #: extraneous key [topP] is not permitted", "omit top_p="),
        ("metadata.user_id: String should have at most 256 characters", "omit metadata="),
        ("output_config.effort: Extra inputs are not permitted", "omit output_config="),
    ],
)
def test_real_messages(message, expected):
    """The hint has this library's name of the option, whatever the provider calls it."""
    assert hint_for(message) == expected


@pytest.mark.parametrize(
    "message",
    [
        "messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found "
        "`text`. When `thinking` is enabled, "
        "a final `assistant` message must start with a thinking block.",
        "messages.3.content.0: `thinking` or `redacted_thinking` blocks in the latest "
        "assistant message cannot be modified.",
        "The model returned the following errors: "
        "messages.1.content.0.thinking.signature: Field required",
        "messages: text content blocks must be non-empty",
        "messages.0.content.0.text.cache_control: the metadata is odd",
        "user messages must have non-empty content",
        "tools.0.custom.input_schema.properties.temperature: JSON schema is invalid",
        "Please stop sending thinking blocks of other models",
        "The conversation did not stop: it goes on",
        "Your account's metadata could not be found",
        "max_tokens_to_sample: Extra inputs are not permitted",
        "Unsupported value: 'messages[0].role' does not support 'developer' with this model.",
        "This model doesn't support the video content block that you provided. "
        "Update the content block and try again.",
        "Error while downloading https://example.com/stop/metadata.jpg.",
        "",
    ],
)
def test_messages_without_a_hint(message):
    """An error about messages or a schema, or with an ordinary English word, gets no hint."""
    assert hint_for(message) is None


def test_only_given_options_are_named():
    """A hint names only options of the request."""
    assert (
        hint_for("`temperature` and `top_p` cannot both be specified", options={"top_p": 1})
        == "omit top_p="
    )
    assert hint_for("max_tokens: Field required", options={}) is None
    assert hint_for("logit_bias: nope", options={"extra": None}) is None


def test_too_long():
    """If prompt and max_tokens together are too long, the hint is to change max_tokens."""
    message = (
        "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, "
        "decrease input length or `max_tokens`"
    )
    assert hint_for(message, ContextLengthExceeded) == "change max_tokens="


def test_the_error_of_a_client():
    """A client's error has the provider's message, followed by the hint."""
    client = ScriptedInferenceClient(
        [Failure(400, "invalid_request_error", "`top_k` is not for you")] * 4, top_k=5
    )
    for send in (client.generate, client.stream, lambda text: client.run_tools(text, [])):
        with pytest.raises(InvalidRequestError) as caught:
            send("x")
        assert str(caught.value) == (
            "`top_k` is not for you [omit top_k=; pass None to reset an option of the client] "
            "(status 400, type invalid_request_error)"
        )
    with pytest.raises(InvalidRequestError) as caught:
        client.with_options(top_k=None).generate("x")
    assert ("omit" in str(caught.value), "top_k" in client.requests[-1]) == (False, False)
