"""What REST is to bring, a range of a series that the lake lacks; and its answers as they come."""

from __future__ import annotations

from dataclasses import dataclass

from lakehouse_ray.model.timespan import TimeRange
from lakehouse_ray.model.venue import Market


@dataclass(frozen=True)
class Fill:
    """A range of one series. asked_us: The exchange's time when it was planned.

    ids: First and last number that are wanted, both included, and no others; `span` is then about
        where they lie. None: all rows of the span.
    """

    market: Market
    dataset: str
    symbol: str
    interval: str | None
    span: TimeRange
    asked_us: int
    ids: tuple[int, int] | None = None

    @property
    def source_key(self) -> str:
        """One per series: of two answers for one row the later one wins."""
        parts = ["rest", self.market, self.dataset, self.symbol]
        return "/".join([*parts, self.interval] if self.interval else parts)


@dataclass(frozen=True)
class RawAnswer:
    """An answer as it came.

    url: Asked for; it holds no secret. received_us: By this machine's clock.
    server_us: By the exchange's, to the second; the time up to which it is sure to have answered.
    """

    url: str
    received_us: int
    server_us: int
    body: bytes
