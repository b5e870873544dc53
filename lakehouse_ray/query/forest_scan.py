"""Series of bars looked at by an isolation forest: what is ordinary is learned first, so every row is
read twice.

Memory: of a group of symbols (`query.pinned.in_groups`) the bars that forests learn from, 40 bytes
each, at most 80 MB; a piece of `PIECE_ROWS` with its features, some 50 MB; and one forest, some MB.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from lakehouse_ray.kernels.anomaly import FINDINGS_SCHEMA
from lakehouse_ray.kernels.anomaly_forest import FOREST_COLUMNS, Forest, Sample, forest_findings
from lakehouse_ray.query.pinned import Kind, Pinned
from lakehouse_ray.query.series_scan import FOUND, ordered_pieces


def scan_with_forest(pinned: Pinned, kind: Kind, lives: pl.DataFrame) -> pl.DataFrame:
    """Find odd bars of some symbols, each by its own forest; in `FOUND`.

    lives: `Pinned.lives` of these symbols. Raises InvalidError where scikit-learn is not installed.
    """
    assert kind.interval is not None
    rows = dict(lives.select("symbol", "rows").iter_rows())
    samples = {symbol: Sample(kind.interval, count) for symbol, count in rows.items()}
    for symbol, bars in _pieces(pinned, kind, lives):
        samples[symbol].take(bars)
    found = [FOUND.to_frame()]
    forest: Forest | None = None
    of, carry = "", None
    for symbol, bars in _pieces(pinned, kind, lives):
        if symbol != of:
            of, forest, carry = symbol, samples.pop(symbol).fit(), None
        if forest is not None:
            odd, carry = forest_findings(forest, bars, carry)
            found.append(odd.select(pl.lit(symbol).alias("symbol"), *FINDINGS_SCHEMA.names()))
    return pl.concat(found)


def _pieces(pinned: Pinned, kind: Kind, lives: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Rows of each symbol in turn, in order."""
    for piece in ordered_pieces(pinned, kind, lives, ["symbol", *FOREST_COLUMNS]):
        for (symbol,), bars in piece.partition_by(
            "symbol", as_dict=True, maintain_order=True
        ).items():
            yield str(symbol), bars
