"""What a judgement took: requests, tokens and money. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What scores took; costs add up.

    Attributes:
        requests: Replies that a server gave and charges for, those that could not be read among them.
        remembered: Answers that came from the cache, for nothing.
        prompt_tokens: As the server counts them, pictures included; 0 where it does not say.
        reply_tokens: The same of replies.
        price: In the unit of the prices per million tokens that the scorer was given; 0 where it was given none.
    """

    requests: int = 0
    remembered: int = 0
    prompt_tokens: int = 0
    reply_tokens: int = 0
    price: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        """Both together."""
        return Cost(
            requests=self.requests + other.requests,
            remembered=self.remembered + other.remembered,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            reply_tokens=self.reply_tokens + other.reply_tokens,
            price=self.price + other.price,
        )

    def __bool__(self) -> bool:
        """Whether there is anything to tell."""
        return any(astuple(self))

    def __str__(self) -> str:
        """One line for people."""
        tokens = f"{self.prompt_tokens:,} + {self.reply_tokens:,} tokens"
        price = f", price {self.price:.4g}" if self.price else ""
        remembered = f", {self.remembered:,} answers from the cache" if self.remembered else ""
        return f"{self.requests:,} requests, {tokens}{price}{remembered}"


FREE = Cost()
"""Of a scorer in this process."""


def total(costs: Iterable[Cost]) -> Cost:
    """The sum; of none, `FREE`."""
    return sum(costs, FREE)
