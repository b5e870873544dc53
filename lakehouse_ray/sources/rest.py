"""What any source of answers offers: requests for the rows of a series, page by page."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import polars as pl

from lakehouse_ray.model.fills import Fill, RawAnswer
from lakehouse_ray.model.timespan import TimeRange
from lakehouse_ray.model.venue import Market
from lakehouse_ray.sources.source import BadRecord


@dataclass(frozen=True)
class Request:
    """One request, before it is sent.

    path: Below the market's address. costs: What it takes of each limit of the market.
    micro: Times are asked for in microseconds. keyed: It is answered only to who has an API key.
    """

    market: Market
    path: str
    params: tuple[tuple[str, str], ...]
    costs: Mapping[str, int]
    micro: bool = False
    keyed: bool = False


@dataclass(frozen=True)
class Answer:
    """An answer that is a list of records. raw: What `items` were read from."""

    items: list[Any]
    server_us: int


@dataclass
class Rows:
    """What the pages of a fill gave so far.

    frames: The data set's own columns, within the fill's span; keys may be in several of them.
    bad: Records that were refused.
    left_open: Bars that were not over yet, and payments whose interval is not known yet.
    absent: Ranges of which the exchange said, asked twice, that it has nothing.
    partial: Ranges of a row each of which the exchange told some cells and not others.
    silent_us: Of rows that come when something happens: since when, asked twice, it told of none to
        the end of the span. None: it told of one past the end.
    notes: What the exchange does not tell, in words.
    holes_asked: Ranges of ids that were asked for once more.
    """

    frames: list[pl.DataFrame] = field(default_factory=list)
    bad: list[BadRecord] = field(default_factory=list)
    left_open: int = 0
    absent: list[TimeRange] = field(default_factory=list)
    partial: list[TimeRange] = field(default_factory=list)
    silent_us: int | None = None
    notes: list[str] = field(default_factory=list)
    holes_asked: int = 0


R = TypeVar("R")

# Yields requests and is sent their answers; what they gave is in the `Rows` it was made with.
# Raises BadDataError where answers do not fit each other; what was gathered before stays.
Asking = Generator[Request, Answer, R]
Pages = Asking[None]


@dataclass(frozen=True)
class Fetched:
    """What became of a fill.

    answers: In the order in which its pages took them; reading them again gives the same rows.
    spoiled: The last answer that could not be read, if any.
    reason, detail: Why it was given up before its end; empty: it was not.
    """

    fill: Fill
    rows: Rows
    answers: tuple[RawAnswer, ...]
    spoiled: RawAnswer | None = None
    reason: str = ""
    detail: str = ""
