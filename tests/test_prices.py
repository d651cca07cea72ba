"""Prices: a table first, genai-prices for the rest, and None where nobody knows."""

import sys
import types

import pytest

from asimov_sync import Price, Usage
from asimov_sync.inference.providers.coerce import as_count
from asimov_sync.prices import _PROVIDERS, dollars

MILLION = 1_000_000

CACHED = Usage(
    input_tokens=MILLION,
    output_tokens=MILLION,
    cache_read_input_tokens=MILLION,
    cache_write_input_tokens=3 * MILLION,
    cache_write_1h_input_tokens=MILLION,
)


@pytest.mark.parametrize(
    "price, cost",
    [
        (Price(3.0, 15.0, 0.3, 3.75, 6.0), 3.0 + 15.0 + 0.3 + 2 * 3.75 + 6.0),
        (Price(3.0, 15.0, 0.3, 3.75), 3.0 + 15.0 + 0.3 + 3 * 3.75),
        (Price(3.0, 15.0, 0.3), 3.0 + 15.0 + 0.3 + 3 * 3.0),
        (Price(3.0, 15.0), 3.0 + 15.0 + 3.0 + 3 * 3.0),
    ],
)
def test_a_table(price, cost):
    """Each kind of token has its price; what is not given costs what is nearest to it."""
    assert dollars(CACHED, "m", "anthropic", {"m": price}) == pytest.approx(cost)


def test_a_part_that_is_more_than_the_whole():
    """A provider that tells more tokens for an hour than it wrote at all does not make a request cost less than nothing."""
    odd = Usage(cache_write_input_tokens=MILLION, cache_write_1h_input_tokens=50 * MILLION)
    assert Price(1.0, 1.0, 1.0, 2.0, 4.0).cost(odd) == pytest.approx(4.0)


def test_a_figure_without_end():
    """A figure of hundreds of digits is no figure, and spoils no reply: no price could be multiplied by it."""
    assert as_count({"input_tokens": 10**400}, "input_tokens") == 0
    assert Price(1.0, 1.0).cost(Usage(input_tokens=as_count({"n": 10**15}, "n"))) == 10**9


def test_nobody_knows(monkeypatch):
    """Without the package, and without the model in the table, there is no price."""
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    assert dollars(CACHED, "m", "anthropic") is None
    assert dollars(CACHED, "m", "anthropic", {"other": Price(1.0, 1.0)}) is None


# The package, stood in for


class OldUsage:
    """As in the releases that know no hour."""

    known = ("input_tokens", "cache_write_tokens", "cache_read_tokens", "output_tokens")

    def __init__(self, **figures):
        assert set(figures) <= set(self.known), figures
        self.figures = figures


class NewUsage(OldUsage):
    known = OldUsage.known + ("cache_write_1h_tokens",)
    cache_write_1h_tokens = None


@pytest.fixture
def package(monkeypatch):
    """A module in the place of genai-prices; `.asked` is what it was asked, and a model "m" costs half a dollar."""

    def calc_price(usage, model_ref, *, provider_id=None):
        module.asked.append((usage.figures, model_ref, provider_id))
        if model_ref != "m":
            raise LookupError("Unable to find model with model_ref={!r}".format(model_ref))
        return types.SimpleNamespace(total_price="0.5")

    module = types.SimpleNamespace(Usage=NewUsage, calc_price=calc_price, asked=[])
    monkeypatch.setitem(sys.modules, "genai_prices", module)
    return module


def test_the_package_is_asked(package):
    """It is told the input with what was cached, its own name of the provider, and what was written for an hour."""
    assert dollars(CACHED, "m", "bedrock") == 0.5
    figures = {
        "input_tokens": 5 * MILLION,
        "cache_read_tokens": MILLION,
        "cache_write_tokens": 3 * MILLION,
        "cache_write_1h_tokens": MILLION,
        "output_tokens": MILLION,
    }
    assert package.asked == [(figures, "m", "aws")]
    package.Usage = OldUsage
    assert dollars(CACHED, "m", "somebody else") == 0.5
    del figures["cache_write_1h_tokens"]
    assert package.asked[1] == (figures, "m", None)


def test_the_table_goes_first(package):
    """What the caller gives is not looked up; what the package does not know has no price."""
    assert dollars(Usage(input_tokens=MILLION), "m", "anthropic", {"m": Price(2.0, 1.0)}) == 2.0
    assert package.asked == []
    assert dollars(CACHED, "unheard-of", "anthropic") is None


# The package itself, which there is from Python 3.9 on: the extra `test` brings it

if sys.version_info >= (3, 9):
    from .needed import needed

    KNOWN = [
        ("anthropic", "claude-sonnet-4-5"),
        ("bedrock", "anthropic.claude-3-haiku-20240307-v1:0"),
        ("openai", "gpt-4o"),
    ]

    def test_every_provider_has_a_known_model():
        """The table below is of all the providers that are translated."""
        assert {provider for provider, _ in KNOWN} == set(_PROVIDERS)

    @pytest.mark.parametrize("provider, model", KNOWN)
    def test_the_real_package(provider, model):
        """It knows our providers and their models, takes our figures, and charges what is cached apart from the rest."""
        package = needed("genai_prices")
        alone = package.calc_price(package.Usage(input_tokens=1000), model_ref=model, provider_id=_PROVIDERS[provider])
        assert dollars(Usage(input_tokens=1000), model, provider) == pytest.approx(float(alone.total_price))
        parts = [
            Usage(input_tokens=1000),
            Usage(output_tokens=1000),
            Usage(cache_read_input_tokens=1000),
            Usage(cache_write_input_tokens=1000),
        ]
        costs = [dollars(part, model, provider) for part in parts]
        assert all(cost > 0 for cost in costs[:2]) and costs[1] > costs[0]
        assert dollars(sum(parts, Usage()), model, provider) == pytest.approx(sum(costs))

    def test_the_real_package_and_the_cache():
        """Reading from Anthropic's cache costs a tenth, writing to it a quarter more."""
        needed("genai_prices")
        fresh = dollars(Usage(input_tokens=1000), "claude-sonnet-4-5", "anthropic")
        assert dollars(Usage(cache_read_input_tokens=1000), "claude-sonnet-4-5", "anthropic") == pytest.approx(0.1 * fresh)
        assert dollars(Usage(cache_write_input_tokens=1000), "claude-sonnet-4-5", "anthropic") == pytest.approx(1.25 * fresh)

    def test_the_real_package_knows_not_everything():
        """A model that it does not know, and an odd usage, are no error."""
        needed("genai_prices")
        assert dollars(CACHED, "unheard-of", "anthropic") is None
        assert dollars(Usage(cache_write_1h_input_tokens=5), "claude-sonnet-4-5", "anthropic") == 0
