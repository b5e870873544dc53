"""Which series a question over the whole lake is about, and what to say where there are none."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from lakehouse_ray.errors import InvalidError, NotFoundError
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.registry import find_dataset
from lakehouse_ray.model.timespan import TimeRange
from lakehouse_ray.model.venue import parse_interval, parse_market
from lakehouse_ray.query.pinned import SYMBOLS_MAX, Kind, Pinned

_SYMBOLS_SHOWN_MAX = 10


@dataclass(frozen=True)
class Asked:
    """What was asked for; None and empty: everything that is stored."""

    market: str | None = None
    dataset: Dataset | None = None
    interval: str | None = None
    symbols: tuple[str, ...] = ()
    start_us: int | None = None
    end_us: int | None = None

    def takes(self, kind: Kind) -> bool:
        return (
            self.market in (None, kind.market)
            and self.dataset in (None, kind.dataset)
            and self.interval in (None, kind.interval)
        )

    def __str__(self) -> str:
        name = self.dataset.name if self.dataset is not None else None
        return " ".join(part for part in (self.market, name, self.interval) if part)


def ask_for(
    market: str | None = None,
    dataset: str | None = None,
    interval: str | None = None,
    symbols: str | Iterable[str] | None = None,
    start_us: int | None = None,
    end_us: int | None = None,
) -> Asked:
    """Read the filters of a question.

    Raises InvalidError for an unknown market, data set or interval, and for an empty range.
    """
    found = find_dataset(dataset) if dataset else None
    if interval and found is not None and not found.bars:
        raise InvalidError(f"{found.name} has no intervals", "leave the interval away")
    if start_us is not None and end_us is not None:
        TimeRange(start_us, end_us)
    names = symbols.split(",") if isinstance(symbols, str) else symbols or ()
    return Asked(
        parse_market(market) if market else None,
        found,
        parse_interval(interval) if interval else None,
        tuple(dict.fromkeys(name.strip() for name in names if name.strip())),
        start_us,
        end_us,
    )


def series_asked(
    pinned: Pinned,
    asked: Asked,
    lives: Callable[[Kind], pl.DataFrame] | None = None,
    *,
    alone: bool = False,
) -> list[tuple[Kind, pl.DataFrame]]:
    """Return the kinds of series that are stored and asked for, each with `Pinned.lives` (or
    `lives`) of all of its symbols.

    alone: Of those that were asked for is enough.

    Raises NotFoundError where nothing of it is stored, and for a symbol that none of them has.
    """
    read = lives or pinned.lives
    kinds = [kind for kind in pinned.kinds if asked.takes(kind)]
    if alone and lives is None and 0 < len(asked.symbols) <= SYMBOLS_MAX:
        series = [(kind, pinned.lives(kind, asked.symbols)) for kind in kinds]
        if {name for _, own in series for name in own["symbol"]}.issuperset(asked.symbols):
            return series
    series = [(kind, read(kind)) for kind in kinds]
    if not series:
        what = f"nothing of {asked} is stored" if str(asked) else "nothing is stored yet"
        raise NotFoundError(what, "`lakehouse datasets` lists what there is, `ingest` brings more")
    known = sorted({name for _, lives in series for name in lives["symbol"].to_list()})
    for symbol in asked.symbols:
        if symbol not in known:
            raise unknown_symbol(symbol, known, str(asked) or "the lake")
    return series


def wanted(lives: pl.DataFrame, asked: Asked) -> pl.DataFrame:
    """Those of the symbols that were asked for."""
    return lives.filter(pl.col("symbol").is_in(asked.symbols)) if asked.symbols else lives


def unknown_symbol(
    symbol: str, known: Sequence[str], what: str, intervals: Sequence[str] = ()
) -> NotFoundError:
    """intervals: At which there are bars of it."""
    near = difflib.get_close_matches(symbol.upper(), known, n=3, cutoff=0.6)
    if intervals:
        hint = f"{symbol} is stored at {', '.join(intervals)}"
    elif near:
        hint = f"did you mean {' or '.join(near)}?"
    elif not known:
        hint = f"nothing of {what} is stored: `lakehouse datasets` lists what is"
    else:
        more = f", … ({len(known):,} in all)" if len(known) > _SYMBOLS_SHOWN_MAX else ""
        hint = f"stored are {', '.join(known[:_SYMBOLS_SHOWN_MAX])}{more}"
    return NotFoundError(f"there is no {symbol} in {what}", hint)
