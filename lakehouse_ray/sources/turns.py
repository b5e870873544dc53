"""Waiting for one's turn at an exchange, in an event loop."""

from __future__ import annotations

import asyncio
import math
import random
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.model.venue import Market
from lakehouse_ray.sources.budget import Grant, Seen

R = TypeVar("R")

_ATTEMPTS_MAX = 5
_PAUSE_INITIAL_S = 0.25
_PAUSE_MAX_S = 20.0


class Account(Protocol):
    """`sources.budget.Budget`, or whatever stands for it. Called from threads."""

    def ask(self, ticket: str, market: Market, costs: Mapping[str, int]) -> Grant: ...

    def settle(
        self, ticket: str, market: Market, seen: Seen, costs: Mapping[str, int] | None = None
    ) -> object: ...

    def give_back(self, ticket: str) -> None: ...


class Turns:
    """Grants of an account, waited for.

    quiet_max_s: The longest quiet that is waited for where the exchange asks for it.
    """

    def __init__(
        self, account: Account, rng: random.Random, *, quiet_max_s: float = math.inf
    ) -> None:
        self._account = account
        self._rng = rng
        self._quiet_max_s = quiet_max_s
        # Of what was granted and is not settled.
        self._costs: dict[str, Mapping[str, int]] = {}

    async def granted(self, market: Market, costs: Mapping[str, int]) -> str:
        """Wait until a request may be sent; return its ticket, which has to be settled.

        Raises UnavailableError where the exchange asks to be left alone for longer, and where the
        account cannot be reached.
        """
        ticket = uuid.uuid4().hex
        granted = False
        try:
            while True:
                grant = await self._told(self._account.ask, ticket, market, costs)
                granted = grant.granted
                if granted:
                    self._costs[ticket] = costs
                    return ticket
                if grant.quiet_s > self._quiet_max_s:
                    raise UnavailableError(
                        f"{market}: the exchange asks to be left alone for "
                        f"{grant.quiet_s:,.0f} s more; run it again after that",
                        grant.quiet_s,
                    )
                await asyncio.sleep(grant.wait_s)
        finally:
            if not granted:
                await self._told(self._account.give_back, ticket)

    async def settle(self, ticket: str, market: Market, seen: Seen) -> None:
        """Say what came of it."""
        costs = self._costs.pop(ticket, None)
        await self._told(self._account.settle, ticket, market, seen, costs)

    async def _told(self, call: Callable[..., R], *arguments: Any) -> R:
        """Call the account in a thread. All of its calls may be repeated: where its process died, the
        one made in its place is asked."""
        for attempt in range(1, _ATTEMPTS_MAX + 1):
            try:
                return await asyncio.to_thread(call, *arguments)
            except UnavailableError:
                if attempt == _ATTEMPTS_MAX:
                    raise
            await asyncio.sleep(pause_s(self._rng, attempt))
        raise AssertionError("unreachable: the last attempt returns or raises")


def pause_s(rng: random.Random, attempt: int) -> float:
    """How long to wait after so many failures: full jitter below an exponential bound."""
    return rng.uniform(0.0, min(_PAUSE_MAX_S, _PAUSE_INITIAL_S * 2**attempt))
