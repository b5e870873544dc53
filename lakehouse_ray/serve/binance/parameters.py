"""Parameters of a request, read and refused as the exchange does."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lakehouse_ray.model.timespan import DAY_US, MINUTE_US, parse_time
from lakehouse_ray.model.venue import INTERVALS
from lakehouse_ray.serve.exchange_errors import (
    BAD_INTERVAL,
    BAD_PARAMETER,
    ILLEGAL_CHARACTERS,
    PARAMETER_MISSING,
    UNREAD_PARAMETERS,
    ExchangeError,
)

# After everything that can be stored.
LATEST_US = parse_time("2200")
_DIGITS = re.compile("[0-9]{1,20}", re.ASCII)
# Letters of any script, but no small ones.
_SYMBOL = re.compile(r"[\w.\-]{1,50}")
_SMALL = re.compile("[a-z]")
_ZONE = re.compile(r"([+-]?)(\d{1,2})(?::([0-5]\d))?", re.ASCII)
_ZONE_MINUTES = range(-12 * 60, 14 * 60 + 1)
# From here on a number is microseconds: as milliseconds it would be the year 5138.
_MICROSECONDS_FROM = 10**14
# What signed requests carry; here nothing is signed.
_OF_SIGNING = frozenset({"timestamp", "recvWindow", "signature"})


class Parameters:
    """Each is read by name; `end` refuses those that nobody read."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given
        self._read: set[str] = set()

    def text(self, name: str) -> str | None:
        """None where it was not sent. Raises ExchangeError where it is empty."""
        self._read.add(name)
        value = self._given.get(name)
        if value == "":
            raise _missing(name)
        return value

    def required(self, name: str) -> str:
        value = self.text(name)
        if value is None:
            raise _missing(name)
        return value

    def symbol(self, name: str = "symbol", *, required: bool = True) -> str | None:
        value = self.required(name) if required else self.text(name)
        if value is not None and (not _SYMBOL.fullmatch(value) or _SMALL.search(value)):
            raise _illegal(name, r"^[\w\-._&&[^a-z]]{1,50}$")
        return value

    def interval(self, *, seconds: bool) -> str:
        """As this project spells it. seconds: Whether the market has bars of a second."""
        value = self.required("interval")
        # The month is 1M there, and 1mo is nothing.
        spelled = "1mo" if value == "1M" else value
        if value == "1mo" or spelled not in INTERVALS or (spelled == "1s" and not seconds):
            raise ExchangeError(BAD_INTERVAL, "Invalid interval.")
        return spelled

    def number(self, name: str) -> int | None:
        value = self.text(name)
        if value is not None and not _DIGITS.fullmatch(value):
            raise _illegal(name, "^[0-9]{1,20}$")
        return None if value is None else int(value)

    def limit(self, default: int, most: int, *, caps: bool) -> int:
        """caps: Whether a larger one is taken for the most (spot) or refused (futures)."""
        value = self.number("limit")
        if value is None:
            return default
        if value == 0 or (value > most and not caps):
            raise _invalid("limit")
        return min(value, most)

    def time_us(self, name: str, *, micro: bool) -> int | None:
        """A time of milliseconds; where `micro`, one of microseconds is known by its size."""
        value = self.number(name)
        if value is None:
            return None
        return min(value if micro and value >= _MICROSECONDS_FROM else value * 1000, LATEST_US)

    def time_end_us(self, name: str, *, micro: bool) -> int | None:
        """The end of the range whose last instant this is: the exchange's ranges are closed."""
        value = self.time_us(name, micro=micro)
        if value is None:
            return None
        given = int(self._given[name])
        return value + (1 if micro and given >= _MICROSECONDS_FROM else 1000)

    def check_zone(self, interval: str) -> None:
        """Raises ExchangeError for no time zone, and for one in which bars begin at other times."""
        value = self.text("timeZone")
        if value is None:
            return
        match = _ZONE.fullmatch(value)
        minutes = 0
        if match is not None:
            minutes = int(match[2]) * 60 + int(match[3] or 0)
            minutes = -minutes if match[1] == "-" else minutes
        if match is None or minutes not in _ZONE_MINUTES:
            raise _invalid("timeZone")
        length = INTERVALS[interval]
        same = minutes == 0 or (
            length is not None and length < DAY_US and minutes * MINUTE_US % length == 0
        )
        if not same:
            raise ExchangeError(
                BAD_PARAMETER,
                "Data sent for parameter 'timeZone' is not valid. Stored bars of this interval begin "
                "at other times than in this zone; /v1/klines?from=…&offset=… makes such bars.",
            )

    def end(self) -> None:
        """Raises ExchangeError where something was sent that is no parameter of this question.

        Futures on the exchange take no notice of it. Here a mistyped startTime must not get the
        answer to another question.
        """
        sent = [name for name in self._given if name not in _OF_SIGNING]
        unread = [name for name in sent if name not in self._read]
        if unread:
            raise ExchangeError(
                UNREAD_PARAMETERS,
                f"Not all sent parameters were read; read '{len(sent) - len(unread)}' parameter(s) "
                f"but was sent '{len(sent)}'.",
            )


def _missing(name: str) -> ExchangeError:
    return ExchangeError(
        PARAMETER_MISSING,
        f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.",
    )


def _illegal(name: str, legal: str) -> ExchangeError:
    return ExchangeError(
        ILLEGAL_CHARACTERS,
        f"Illegal characters found in parameter '{name}'; legal range is '{legal}'.",
    )


def _invalid(name: str) -> ExchangeError:
    return ExchangeError(BAD_PARAMETER, f"Data sent for parameter '{name}' is not valid.")
