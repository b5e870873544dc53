"""What a question over the whole lake is answered where some files cannot be read.

What does not need these files is answered; what does is named, with the reason. Rows that cannot be
read are never taken for rows that are missing.

Files are looked at one by one only after a statement has failed: a lake without losses pays nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import polars as pl
from pyiceberg.manifest import DataFile

from lakehouse_ray.errors import InvalidError, NotFoundError, UnavailableError, UnreadWarning
from lakehouse_ray.kernels.gaps import own_column
from lakehouse_ray.model.lake import OBJECT_LOG
from lakehouse_ray.model.rhythm import rhythm_of
from lakehouse_ray.query.asked import Asked, series_asked, wanted
from lakehouse_ray.query.pinned import Kind, Pinned
from lakehouse_ray.query.scan import Where
from lakehouse_ray.query.survivors import LostFile, Survivors, lost_files, survivors
from lakehouse_ray.query.views import VIEWS, View

# Named in a warning; `Answered.unread` has all.
_NAMED_MAX = 10

UNREAD = pl.Schema(
    {
        "market": pl.String(),
        "dataset": pl.String(),
        "symbol": pl.String(),
        # Empty for what has none.
        "interval": pl.String(),
        # `rows`: nothing is said of the series. `causes`: all its gaps are there, and why some of
        # them are is not told.
        "part": pl.String(),
        "reason": pl.String(),
    }
)


@dataclass(frozen=True)
class Answered:
    """rows: The answer, as far as files can be read.

    unread: `UNREAD`, a row per series that is left out of it, or of which it says less.
    """

    rows: pl.DataFrame
    unread: pl.DataFrame = field(default_factory=UNREAD.to_frame)

    @property
    def whole(self) -> bool:
        return self.unread.is_empty()

    def warned(self) -> pl.DataFrame:
        """The rows, with an `UnreadWarning` where they are not the whole answer."""
        if not self.whole:
            warnings.warn(UnreadWarning(self._words()), stacklevel=3)
        return self.rows

    def _words(self) -> str:
        named = self.unread.head(_NAMED_MAX).iter_rows(named=True)
        lines = [f"{series_name(one)}: {one['reason']}" for one in named]
        more = self.unread.height - len(lines)
        if more > 0:
            lines.append(f"and {more:,} more")
        return "files that cannot be read leave the answer incomplete: " + "; ".join(lines)


def series_name(row: Mapping[str, object]) -> str:
    """`spot klines 1h BTCUSDT`."""
    names = ("market", "dataset", "interval", "symbol")
    return " ".join(str(row[name]) for name in names if row[name])


@dataclass(frozen=True)
class Losses:
    """Files that cannot be read.

    kinds: Each that was looked at, with the lives of its symbols.
    ledger: Of `bronze.object_log`.
    """

    kinds: Sequence[tuple[Kind, Survivors]] = ()
    ledger: tuple[LostFile, ...] = ()

    def of(self, kind: Kind) -> Survivors:
        return next(known for one, known in self.kinds if one == kind)

    @property
    def paths(self) -> list[str]:
        files = [file for _, known in self.kinds for file in known.files]
        return [file.path for file in (*files, *self.ledger)]


class OfKind(Protocol):
    """Answers a question for one kind of series.

    lives: Of all its symbols, or of those asked for where no others matter. Returns rows, and `UNREAD` of series of which they say less.
    """

    def __call__(
        self, pinned: Pinned, kind: Kind, lives: pl.DataFrame, asked: Asked, losses: Losses
    ) -> tuple[pl.DataFrame, pl.DataFrame]: ...


def answer(
    pinned: Pinned, asked: Asked, of_kind: OfKind, schema: pl.Schema, *, facts: bool = False
) -> Answered:
    """Ask about each kind of series; where files are lost, about the series that do without them.

    schema: Of the rows.
    facts: The answer also needs the other series of the market, and the ledger.

    Raises NotFoundError where nothing of it is stored, UnavailableError where a statement fails
    though every file can be read.
    """
    none_lost = Losses()
    try:
        series = series_asked(pinned, asked, alone=not facts)
        parts = [of_kind(pinned, kind, lives, asked, none_lost) for kind, lives in series]
    except NotFoundError:
        raise
    except (UnavailableError, InvalidError):
        losses = _look(pinned, asked, facts=facts)
        if not losses.paths:
            raise
        parts = list(_without(losses, pinned, asked, of_kind, schema))
    rows = pl.concat([schema.to_frame(), *(rows for rows, _ in parts)])
    return Answered(
        rows, pl.concat([UNREAD.to_frame(), *(less for _, less in parts)]).sort(*UNREAD)
    )


def _without(
    losses: Losses, pinned: Pinned, asked: Asked, of_kind: OfKind, schema: pl.Schema
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    series = series_asked(pinned, asked, lambda kind: losses.of(kind).rows)
    readable = pinned.without(losses.paths)
    for kind, lives in series:
        lost = losses.of(kind).lost
        names = wanted(lives, asked)["symbol"].to_list()
        reasons = {name: str(lost[name]) for name in names if name in lost}
        yield schema.to_frame(), unread(kind, "rows", reasons)
        whole = tuple(name for name in names if name not in lost)
        if whole:  # without a name it would be asked about all
            yield of_kind(readable, kind, lives, replace(asked, symbols=whole), losses)


def _look(pinned: Pinned, asked: Asked, *, facts: bool) -> Losses:
    """Look for files that cannot be read among all that the answer may need."""
    kinds = [kind for kind in pinned.kinds if asked.takes(kind)]
    markets = {kind.market for kind in kinds}
    if not facts:
        return Losses([(kind, survivors(pinned, kind, _columns(kind))) for kind in kinds])
    kinds = [kind for kind in pinned.kinds if kind.market in markets]
    view = VIEWS[OBJECT_LOG.name]
    ledger = [
        file
        for market in sorted(markets)
        for file in lost_files(
            pinned, OBJECT_LOG, Where({"market": market}), lambda one: _read_all(pinned, view, one)
        )
    ]
    known = [(kind, survivors(pinned, kind, _columns(kind))) for kind in kinds]
    return Losses(known, tuple(ledger))


def _columns(kind: Kind) -> list[str]:
    """What questions about gaps and coverage read besides symbols and times."""
    rhythm = rhythm_of(kind.dataset, kind.market, kind.interval)
    own = own_column(rhythm) if rhythm is not None else None
    counted = {own, "trades", "id", "first_trade_id", "last_trade_id"}
    return [column.name for column in kind.table.columns if column.name in counted]


def _read_all(pinned: Pinned, view: View, file: DataFile) -> None:
    (table,) = view.tables
    pinned.tell(f"SELECT max(hash(COLUMNS(*))) FROM {view.name}", view, table, file)


def unread(kind: Kind, part: str, reasons: Mapping[str, str]) -> pl.DataFrame:
    """`UNREAD` of series of one kind. reasons: By symbol."""
    rows = [
        (kind.market, kind.dataset.name, symbol, kind.interval or "", part, reason)
        for symbol, reason in reasons.items()
    ]
    return pl.DataFrame(rows, UNREAD, orient="row")
