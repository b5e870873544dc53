"""The parameters of a request, read and refused as the exchange does."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lakehouse_ray.testing.exchange.api import refusals
from lakehouse_ray.testing.exchange.api.refusals import Refusal
from lakehouse_ray.testing.exchange.keys import INTERVAL_SECONDS

_DIGITS = re.compile("[0-9]{1,20}", re.ASCII)
_SYMBOL = re.compile(r"[\w.\-]{1,50}")
_SMALL = re.compile("[a-z]")
_SYMBOL_RANGE = r"^[\w\-._&&[^a-z]]{1,50}$"
# After everything that any archive has.
_LATEST_MS = 2**53
# From here on spot takes a number for microseconds: as milliseconds it would be the year 5138.
_MICROSECONDS_FROM = 10**14


class Parameters:
    """Those of one request; each is read by name."""

    def __init__(self, market: str, given: Mapping[str, str]) -> None:
        self.market = market
        self._given = given
        self._read: set[str] = set()

    def text(self, name: str) -> str | None:
        """None where it was not sent."""
        self._read.add(name)
        value = self._given.get(name)
        if value == "":
            raise refusals.empty(name)
        return value

    def required(self, name: str) -> str:
        value = self.text(name)
        if value is None:
            raise refusals.missing(name)
        return value

    def symbol(self, name: str = "symbol") -> str:
        """Spot refuses small letters as such; to futures they are some symbol that is none."""
        value = self.required(name)
        if not _SYMBOL.fullmatch(value) or (self.market == "spot" and _SMALL.search(value)):
            raise refusals.illegal(name, _SYMBOL_RANGE)
        return value

    def interval(self) -> str:
        """As files spell it: the exchange's REST has 1M for 1mo."""
        value = self.required("interval")
        spelled = "1mo" if value == "1M" else value
        known = spelled in INTERVAL_SECONDS and value != "1mo"
        if not known or (spelled == "1s" and self.market != "spot"):
            raise Refusal(-1120, "Invalid interval.")
        return spelled

    def number(self, name: str) -> int | None:
        value = self.text(name)
        if value is None:
            return None
        if not _DIGITS.fullmatch(value):
            raise refusals.illegal(name, "^[0-9]{1,20}$")
        return int(value)

    def limit(self, default: int, most: int) -> int:
        """Spot takes more than the most for the most; futures refuse it."""
        value = self.number("limit")
        if value is None:
            return default
        if value == 0 or (value > most and self.market != "spot"):
            raise refusals.not_valid("limit")
        return min(value, most)

    def times_us(self) -> tuple[int | None, int | None]:
        """startTime, and the end [exclusive] behind endTime, in microseconds."""
        start, end = self.number("startTime"), self.number("endTime")
        if self.market != "spot" and start is not None and end is not None and start > end:
            raise Refusal(-1023, "Start time is greater than end time.")
        return (
            None if start is None else self._micros(start)[0],
            None if end is None else sum(self._micros(end)),
        )

    def _micros(self, value: int) -> tuple[int, int]:
        """The first instant of a time, and how long it lasts."""
        if self.market == "spot" and value >= _MICROSECONDS_FROM:
            return min(value, _LATEST_MS * 1000), 1
        return min(value, _LATEST_MS) * 1000, 1000

    def end(self) -> None:
        """Spot refuses what no route reads; futures take no notice of it."""
        unread = [name for name in self._given if name not in self._read]
        if unread and self.market == "spot":
            raise refusals.unread(len(self._given) - len(unread), len(self._given))
