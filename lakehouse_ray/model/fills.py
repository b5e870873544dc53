"""What REST is to bring: a series, and the range that the lake lacks of it."""

from __future__ import annotations

from dataclasses import dataclass

from lakehouse_ray.model.timespan import TimeRange
from lakehouse_ray.model.venue import Market


@dataclass(frozen=True)
class Fill:
    """A range of one series. asked_us: The exchange's time when it was planned."""

    market: Market
    dataset: str
    symbol: str
    interval: str | None
    span: TimeRange
    asked_us: int

    @property
    def source_key(self) -> str:
        """One per series: of two answers for one row the later one wins."""
        parts = ["rest", self.market, self.dataset, self.symbol]
        return "/".join([*parts, self.interval] if self.interval else parts)
