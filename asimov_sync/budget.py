"""Budgets: how much may be asked for, in tokens, requests or dollars, until nothing more is sent.

A budget holds for whatever it is given to: a client, or a block (`with budget:`) with all that is asked for in it, on
whatever thread.
"""

import contextvars
from typing import Any, Iterable, Mapping, NamedTuple, Optional, Tuple

from asimov_sync.errors import BudgetExceeded
from asimov_sync.forking import ForkSafeLock
from asimov_sync.messages import Usage
from asimov_sync.prices import Price, dollars

__all__ = ["BUDGETS", "Budget", "Spent", "begin_request"]

BUDGETS: "contextvars.ContextVar[Tuple[Budget, ...]]" = contextvars.ContextVar("asimov_budgets", default=())
"""The budgets that hold in this context, the outermost first."""

_spending = ForkSafeLock()  # guards every budget's figures


class Spent(NamedTuple):
    """What a budget has been charged: all tokens, in and out; requests that were begun; dollars."""

    tokens: int
    requests: int
    dollars: float


class Budget:
    """At most so many tokens, requests and dollars; None for no limit. Once one is used up, the next request is not sent.

    Requests are counted when they begin, however often they are retried, so no more than that are ever sent. Tokens and
    dollars are known when a reply has ended, so the last replies before the end may go beyond. prices: what models cost, by
    model; those that it does not hold are looked up in the package genai-prices (the extra `prices`).
    """

    def __init__(
        self,
        tokens: Optional[int] = None,
        requests: Optional[int] = None,
        dollars: Optional[float] = None,
        prices: Optional[Mapping[str, Price]] = None,
    ) -> None:
        self.tokens = tokens
        self.requests = requests
        self.dollars = dollars
        self._prices = dict(prices or {})
        self._spent = Spent(0, 0, 0.0)

    @property
    def spent(self) -> Spent:
        """What has been charged so far."""
        return self._spent

    def require_price(self, model: str, provider: str) -> None:
        """ValueError where dollars are limited and nobody knows what the model costs."""
        if self.dollars is not None and dollars(Usage(), model, provider, self._prices) is None:
            raise ValueError(
                "a budget of dollars needs to know what {} costs: give Budget(prices={{{!r}: Price(…)}}), "
                'or install "asimov_sync[prices]" (Python 3.9 and later)'.format(model, model)
            )

    def check(self, provider: str, beginning: bool = False) -> None:
        """BudgetExceeded if a request must not be sent; one that has begun was counted, and may be sent again."""
        for name in ("tokens", "requests", "dollars"):
            limit, spent = getattr(self, name), getattr(self._spent, name)
            if limit is not None and spent >= limit and (beginning or name != "requests"):
                error = BudgetExceeded(
                    "the budget of {} {} is used up ({} spent): the request was not sent".format(limit, name, round(spent, 6)),
                    provider=provider,
                )
                error.budget = self
                raise error

    def add(self, usage: Usage, model: str, provider: str) -> None:
        """Charge a reply, or as much of one as came."""
        cost = dollars(usage, model, provider, self._prices) or 0.0
        with _spending.lock:
            spent = self._spent
            self._spent = Spent(spent.tokens + usage.total_tokens, spent.requests, spent.dollars + cost)

    def __enter__(self) -> "Budget":
        BUDGETS.set(BUDGETS.get() + (self,))
        return self

    def __exit__(self, *exc_info: Any) -> None:
        # Not the last one whichever it is: a generator may be closed among others', and on another thread.
        held = list(reversed(BUDGETS.get()))
        if self in held:
            held.remove(self)
            BUDGETS.set(tuple(reversed(held)))

    def __repr__(self) -> str:
        limits = ", ".join(
            "{}={}".format(name, getattr(self, name))
            for name in ("tokens", "requests", "dollars")
            if getattr(self, name) is not None
        )
        return "<Budget({}): {}>".format(limits, self._spent)


def begin_request(budgets: Iterable[Budget], model: str, provider: str) -> None:
    """Count a request that is about to be sent, in all of the budgets, or in none: BudgetExceeded if it must not be.

    ValueError where one of them limits dollars and nobody knows what the model costs.
    """
    for budget in budgets:
        budget.require_price(model, provider)
    with _spending.lock:
        for budget in budgets:
            budget.check(provider, beginning=True)
        for budget in budgets:
            budget._spent = budget._spent._replace(requests=budget._spent.requests + 1)
