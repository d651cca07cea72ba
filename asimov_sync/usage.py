"""Usage: count the tokens of requests, compute their cost, and limit them by budgets.

The usage of every reply is added to the counters and budgets of the context in which the request
was made. A client has a counter for its lifetime. A task runs with a counter of its own, so the
usage of all clients, agents and tools that it calls, on any thread, is the usage of the task.
"""

from typing import Any, Dict, Iterable, Mapping, NamedTuple, Optional

from asimov_sync.concurrency import scope
from asimov_sync.concurrency.fork import ForkSafeLock
from asimov_sync.errors import BudgetExceeded
from asimov_sync.messages import Usage

__all__ = ["Budget", "BudgetUsage", "Price", "UsageCounter", "cost_usd", "reserve_request"]

MILLION = 1_000_000

_counter_lock = ForkSafeLock()  # guards the sum of every counter
_budget_lock = ForkSafeLock()  # guards the usage of every budget


class UsageCounter:
    """A thread-safe sum of usage.

    `with counter:` adds the usage of every request made in the block, on any thread.
    """

    __slots__ = ("_sum",)

    def __init__(self) -> None:
        self._sum: Optional[Usage] = None

    @property
    def usage(self) -> Usage:
        """The sum so far."""
        return self._sum if self._sum is not None else Usage()

    @property
    def usage_or_none(self) -> Optional[Usage]:
        """The sum so far; None if nothing was ever added."""
        return self._sum

    def add(self, usage: Usage) -> None:
        """Add to the sum.

        usage: the usage of one or more requests.
        """
        with _counter_lock.lock:
            self._sum = usage if self._sum is None else self._sum + usage

    def __enter__(self) -> "UsageCounter":
        scope.extend(usage_counter=self)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        # Blocks of counters nest properly, so the innermost counter is this one.
        scope.replace(usage_counters=scope.current().usage_counters[:-1])

    def __repr__(self) -> str:
        return f"<UsageCounter: {self.usage!r}>"


# Prices


class Price(NamedTuple):
    """The price of a model, in US dollars for a million tokens.

    input: input tokens.
    output: output tokens.
    cache_read: input read from the prompt cache; None (the default): the price of input.
    cache_write: input written to the prompt cache for five minutes; None (the default): the price
        of input.
    cache_write_1h: input written to the prompt cache for one hour; None (the default): the price of
        cache_write.
    """

    input: float
    output: float
    cache_read: Optional[float] = None
    cache_write: Optional[float] = None
    cache_write_1h: Optional[float] = None

    def cost(self, usage: Usage) -> float:
        """Return the cost of a usage, in US dollars."""
        read = self.input if self.cache_read is None else self.cache_read
        write = self.input if self.cache_write is None else self.cache_write
        write_1h = write if self.cache_write_1h is None else self.cache_write_1h
        written_1h = _one_hour_writes(usage)
        return (
            usage.input_tokens * self.input
            + usage.output_tokens * self.output
            + usage.cache_read_input_tokens * read
            + (usage.cache_write_input_tokens - written_1h) * write
            + written_1h * write_1h
        ) / MILLION


def _one_hour_writes(usage: Usage) -> int:
    # If a provider reports a part that exceeds the whole, the remainder must not become negative.
    return min(usage.cache_write_1h_input_tokens, usage.cache_write_input_tokens)


def cost_usd(
    usage: Usage, model: str, provider: str, prices: Optional[Mapping[str, Price]] = None
) -> Optional[float]:
    """Compute the cost of a usage, in US dollars.

    usage: the tokens.
    model: the model that used them.
    provider: the provider of the model: "anthropic", "bedrock", "openai" or another name.
    prices: prices by model. They take precedence over the package genai-prices (the extra `prices`,
        Python 3.9 and later).

    Returns None if neither the prices nor genai-prices contain the model.
    """
    price = (prices or {}).get(model)
    return price.cost(usage) if price is not None else _look_up_cost(usage, model, provider)


def _look_up_cost(usage: Usage, model: str, provider: str) -> Optional[float]:
    try:
        import genai_prices
    except ImportError:
        return None
    # In genai-prices, input_tokens includes cached tokens (section "Cached input tokens" of its
    # documentation).
    cached = usage.cache_read_input_tokens + usage.cache_write_input_tokens
    figures = {
        "input_tokens": usage.input_tokens + cached,
        "cache_read_tokens": usage.cache_read_input_tokens,
        "cache_write_tokens": usage.cache_write_input_tokens,
        "output_tokens": usage.output_tokens,
    }
    if hasattr(genai_prices.Usage(), "cache_write_1h_tokens"):  # since 0.1, not for Python 3.9
        figures["cache_write_1h_tokens"] = _one_hour_writes(usage)
    try:
        price = genai_prices.calc_price(
            genai_prices.Usage(**figures),
            model_ref=model,
            provider_id=GENAI_PRICES_PROVIDERS.get(provider),
        )
    except LookupError:
        return None
    return float(price.total_price)


GENAI_PRICES_PROVIDERS = {"anthropic": "anthropic", "bedrock": "aws", "openai": "openai"}
"""Provider ids of genai-prices. For other providers it finds the model by name alone."""


# Budgets


class BudgetUsage(NamedTuple):
    """The usage that was charged to a budget.

    tokens: all tokens, input and output.
    requests: the requests that were sent, retries included.
    dollars: the cost, in US dollars.
    """

    tokens: int
    requests: int
    dollars: float

    def plus(self, other: "BudgetUsage") -> "BudgetUsage":
        """Return the sum of both."""
        return BudgetUsage(
            self.tokens + other.tokens,
            self.requests + other.requests,
            self.dollars + other.dollars,
        )

    def beyond(self, other: "BudgetUsage") -> "BudgetUsage":
        """Return how far each number exceeds that of the other; 0 where it does not."""
        return BudgetUsage(
            max(0, self.tokens - other.tokens),
            max(0, self.requests - other.requests),
            max(0.0, self.dollars - other.dollars),
        )


class Budget:
    """Limits tokens, requests and dollars. Once one limit is reached, no further request is sent.

    tokens: limit of all tokens, input and output; None (the default) for no limit.
    requests: limit of requests; None (the default) for no limit. A request counts when it is sent,
        and each retry counts again, so the limit is exact.
    dollars: limit of the cost, in US dollars; None (the default) for no limit.
    prices: prices by model. Other models are looked up in the package genai-prices (the extra
        `prices`).

    Tokens and dollars are known only at the end of a reply, so the last replies may exceed their
    limits.

    A budget applies to a client (`budget=`), to a run (`budget=`), or to all requests made in a
    `with budget:` block, on any thread.
    """

    def __init__(
        self,
        *,
        tokens: Optional[int] = None,
        requests: Optional[int] = None,
        dollars: Optional[float] = None,
        prices: Optional[Mapping[str, Price]] = None,
    ) -> None:
        self.tokens = tokens
        self.requests = requests
        self.dollars = dollars
        self._prices = dict(prices or {})
        self._spent = BudgetUsage(0, 0, 0.0)
        self._spent_by_run: Dict[str, BudgetUsage] = {}

    @property
    def spent(self) -> BudgetUsage:
        """The usage that was charged so far."""
        return self._spent

    @property
    def prices(self) -> Mapping[str, Price]:
        """The prices by model that the budget was given."""
        return self._prices

    def ensure_priced(self, model: str, provider: str) -> None:
        """Raise ValueError if the budget limits dollars and the price of the model is unknown.

        model: the model of a request.
        provider: its provider.
        """
        if self.dollars is None or cost_usd(Usage(), model, provider, self._prices) is not None:
            return
        raise ValueError(
            f"a budget of dollars needs to know what {model} costs: "
            f"give Budget(prices={{{model!r}: Price(…)}}), "
            "or install the package genai-prices (Python 3.9 and later)"
        )

    def check(self, provider: str) -> None:
        """Raise BudgetExceeded if a request must not be sent.

        provider: the provider of the request, for the error.
        """
        for name in ("tokens", "requests", "dollars"):
            limit, spent = getattr(self, name), getattr(self._spent, name)
            if limit is not None and spent >= limit:
                error = BudgetExceeded(
                    f"the budget of {limit} {name} is used up ({round(spent, 6)} spent): "
                    "the request was not sent",
                    provider=provider,
                )
                error.budget = self
                raise error

    def add(self, usage: Usage, model: str, provider: str) -> None:
        """Charge the usage of a reply, complete or not.

        usage: the tokens.
        model: the model that used them.
        provider: its provider.
        """
        cost = cost_usd(usage, model, provider, self._prices) or 0.0
        with _budget_lock.lock:
            tokens, requests, dollars = self._spent
            self._spent = BudgetUsage(tokens + usage.total_tokens, requests, dollars + cost)

    def split_off(self) -> "Budget":
        """Return a budget with the same limits and prices, that has spent as much so far.

        It limits requests in another process, which charges what it spends to this one later.
        """
        budget = Budget(
            tokens=self.tokens, requests=self.requests, dollars=self.dollars, prices=self._prices
        )
        budget._spent = self._spent
        return budget

    def charge(self, spent: BudgetUsage) -> None:
        """Charge what was spent in another process.

        spent: the tokens, requests and dollars.
        """
        with _budget_lock.lock:
            self._spent = self._spent.plus(spent)

    def carry_over(self, run_id: str, spent: BudgetUsage) -> None:
        """Charge what a durable run has spent before, unless it was charged to this object.

        run_id: the id of the run.
        spent: what the run has spent so far, in all processes.
        """
        with _budget_lock.lock:
            known = self._spent_by_run.get(run_id, BudgetUsage(0, 0, 0.0))
            self._spent = self._spent.plus(spent.beyond(known))
            self._spent_by_run[run_id] = spent

    def note_run(self, run_id: str, spent: BudgetUsage) -> None:
        """Note what a durable run has spent, which was charged to this object.

        run_id: the id of the run.
        spent: what the run has spent so far, in all processes.
        """
        with _budget_lock.lock:
            self._spent_by_run[run_id] = spent

    def __enter__(self) -> "Budget":
        scope.extend(budget=self)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        # Not simply the innermost budget: a generator may be closed out of order, and on another
        # thread.
        scope.remove("budgets", self)

    def __repr__(self) -> str:
        limits = ", ".join(
            f"{name}={getattr(self, name)}"
            for name in ("tokens", "requests", "dollars")
            if getattr(self, name) is not None
        )
        return f"<Budget({limits}): {self._spent}>"


def reserve_request(budgets: Iterable[Budget], provider: str) -> None:
    """Count a request that is about to be sent, in all of the budgets or in none.

    budgets: the budgets, each of them once.
    provider: the provider of the request.

    Raises BudgetExceeded if one of the budgets is used up.
    """
    with _budget_lock.lock:
        for budget in budgets:
            budget.check(provider)
        for budget in budgets:
            budget._spent = budget._spent._replace(requests=budget._spent.requests + 1)
