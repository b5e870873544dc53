"""Series of bars looked at by an isolation forest, which learns what is ordinary before it says what
is odd.

Memory: the bars of one symbol, 60 bytes each, with their features, 120 more; of a symbol of more than
`PIECE_ROWS` those that the forest learns from and a piece, for its rows are read twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import polars as pl

from lakehouse_ray.kernels.anomaly_forest import (
    FOREST_COLUMNS,
    Sample,
    forest_findings,
    odd_bars,
)
from lakehouse_ray.query.pinned import PIECE_ROWS, Kind, Pinned
from lakehouse_ray.query.series_scan import FOUND, ordered_pieces


def scan_with_forest(
    pinned: Pinned, kind: Kind, lives: pl.DataFrame, *, rows_at_once: int = PIECE_ROWS
) -> pl.DataFrame:
    """Find odd bars of some symbols, each by its own forest; in `FOUND`.

    lives: `Pinned.lives` of these symbols. rows_at_once: Symbols with more rows are read twice.
    Raises InvalidError where scikit-learn is not installed.
    """
    found = [FOUND.to_frame()]
    whole = lives.filter(pl.col("rows") <= rows_at_once)
    assert kind.interval is not None
    if whole.height:
        for symbol, pieces in groupby(_pieces(pinned, kind, whole), key=lambda pair: pair[0]):
            bars = pl.concat([bars for _, bars in pieces])
            found.append(_of(symbol, odd_bars(bars, kind.interval)))
    for one in lives.filter(pl.col("rows") > rows_at_once).iter_slices(1):
        found += [
            _of(one["symbol"].item(), odd)
            for odd in _in_pieces(pinned, kind, one, one["rows"].item())
        ]
    return pl.concat(found)


def _in_pieces(pinned: Pinned, kind: Kind, one: pl.DataFrame, rows: int) -> Iterator[pl.DataFrame]:
    assert kind.interval is not None
    sample = Sample(kind.interval, rows)
    for _, bars in _pieces(pinned, kind, one):
        sample.take(bars)
    forest = sample.fit()
    if forest is None:
        return
    carry: pl.DataFrame | None = None
    for _, bars in _pieces(pinned, kind, one):
        odd, carry = forest_findings(forest, bars, carry)
        yield odd


def _of(symbol: str, odd: pl.DataFrame) -> pl.DataFrame:
    return odd.select(pl.lit(symbol).alias("symbol"), *odd.columns)


def _pieces(pinned: Pinned, kind: Kind, lives: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Rows of each symbol in turn, in order."""
    for piece in ordered_pieces(pinned, kind, lives, ["symbol", *FOREST_COLUMNS]):
        for (symbol,), bars in piece.partition_by(
            "symbol", as_dict=True, maintain_order=True
        ).items():
            yield str(symbol), bars
