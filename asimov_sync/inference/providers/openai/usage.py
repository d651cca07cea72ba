"""Chat completions, the usage: each server counts in its own way, and Usage in one. Pure."""

from typing import Any, Mapping

from asimov_sync.inference.providers.coerce import count
from asimov_sync.messages import Usage

__all__ = ["usage_of"]


def usage_of(figures: Mapping[str, Any]) -> Usage:
    """The usage of one reply, from what a server told of it last; nothing is counted twice.

    Most servers count cached tokens within prompt_tokens, and reasoning within completion_tokens. Where they are counted
    beside them, the figures show it: more was cached than prompted (xAI's models on Azure), the total needs all three (xAI).
    """
    prompt = count(figures, "prompt_tokens")
    output = count(figures, "completion_tokens")
    reasoning = count(figures, "completion_tokens_details", "reasoning_tokens")
    read = (
        count(figures, "prompt_tokens_details", "cached_tokens")
        or count(figures, "prompt_cache_hit_tokens")  # DeepSeek
        or count(figures, "cached_tokens")  # Together
        or count(figures, "cache_read_input_tokens")  # Databricks
    )
    written = (
        count(figures, "prompt_tokens_details", "cache_write_tokens")  # OpenAI, OpenRouter
        or count(figures, "cache_creation_input_tokens")  # Databricks
    )
    if reasoning and count(figures, "total_tokens") == prompt + output + reasoning:
        output += reasoning
    return Usage(
        input_tokens=prompt - read - written if read + written <= prompt else prompt,
        output_tokens=output,
        cache_read_input_tokens=read,
        cache_write_input_tokens=written,
        reasoning_tokens=reasoning,
        requests=1,
    )
