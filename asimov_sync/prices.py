"""What tokens cost: from a price table that the caller gives, or from the package genai-prices where it is installed."""

from typing import Mapping, NamedTuple, Optional

from asimov_sync.messages import Usage

__all__ = ["Price", "dollars"]

MILLION = 1_000_000


class Price(NamedTuple):
    """What a model costs, in dollars a million tokens.

    cache_read: for tokens read from the prompt cache; cache_write and cache_write_1h: for those written to it for five
    minutes, and for an hour. Where one is not given, they cost what input costs.
    """

    input: float
    output: float
    cache_read: Optional[float] = None
    cache_write: Optional[float] = None
    cache_write_1h: Optional[float] = None

    def cost(self, usage: Usage) -> float:
        """The dollars that this usage costs."""
        write = self.input if self.cache_write is None else self.cache_write
        long_write = write if self.cache_write_1h is None else self.cache_write_1h
        written_for_long = _written_for_long(usage)
        return (
            usage.input_tokens * self.input
            + usage.output_tokens * self.output
            + usage.cache_read_input_tokens * (self.input if self.cache_read is None else self.cache_read)
            + (usage.cache_write_input_tokens - written_for_long) * write
            + written_for_long * long_write
        ) / MILLION


def _written_for_long(usage: Usage) -> int:
    # A part that is more than the whole is a provider's mistake, and must not make the rest cost less than nothing.
    return min(usage.cache_write_1h_input_tokens, usage.cache_write_input_tokens)


def dollars(usage: Usage, model: str, provider: str, prices: Optional[Mapping[str, Price]] = None) -> Optional[float]:
    """The dollars that a usage of a model costs; None where neither the table nor genai-prices knows the model.

    prices: by model; what it holds goes before the package (the extra `prices`, for Pythons from 3.9 on).
    """
    price = (prices or {}).get(model)
    return price.cost(usage) if price is not None else _looked_up(usage, model, provider)


def _looked_up(usage: Usage, model: str, provider: str) -> Optional[float]:
    try:
        import genai_prices
    except ImportError:
        return None
    # Its input_tokens include the cached ones (the package's documentation, "Cached input tokens").
    figures = {
        "input_tokens": usage.input_tokens + usage.cache_read_input_tokens + usage.cache_write_input_tokens,
        "cache_read_tokens": usage.cache_read_input_tokens,
        "cache_write_tokens": usage.cache_write_input_tokens,
        "output_tokens": usage.output_tokens,
    }
    if hasattr(genai_prices.Usage(), "cache_write_1h_tokens"):  # from 0.1 on, which Python 3.9 does not get
        figures["cache_write_1h_tokens"] = _written_for_long(usage)
    told = genai_prices.Usage(**figures)
    try:
        return float(genai_prices.calc_price(told, model_ref=model, provider_id=_PROVIDERS.get(provider)).total_price)
    except LookupError:
        return None


_PROVIDERS = {"anthropic": "anthropic", "bedrock": "aws", "openai": "openai"}
"""The package's names for providers; for another one it goes by the model's name alone."""
