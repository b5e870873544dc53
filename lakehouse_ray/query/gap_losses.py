"""Which gaps nothing can be said about, because what would tell lies in files that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.timespan import DAY_US, from_us
from lakehouse_ray.query.answered import Losses
from lakehouse_ray.query.pinned import Kind
from lakehouse_ray.query.survivors import LostFile, Survivors

# How far from a gap what its own symbol has of it is looked for: trades a day, bars their length.
_NEAR_US = DAY_US


def without_lost(facts: pl.DataFrame, kind: Kind, losses: Losses) -> pl.DataFrame:
    """Add `unread` (`kernels.causes.FACTS`) to facts gathered without the lost files.

    It names the first lost file that might tell otherwise: rows of other symbols of the series at
    that time, of other series of the symbol near it, or the symbol's part of the ledger.
    """
    known = facts.with_columns(unread=pl.lit(None, dtype=pl.String))
    for rule, file in _rules(kind, losses):
        words = pl.when(rule).then(pl.lit(str(file.error)))
        known = known.with_columns(unread=pl.coalesce("unread", words))
    return known


def _rules(kind: Kind, losses: Losses) -> Iterator[tuple[pl.Expr, LostFile]]:
    place = pl.col("place")
    for other, known in losses.kinds:
        if other.market != kind.market:
            continue
        for file in known.files:
            if other == kind:
                start_us, end_us = _life(file, known)
                # What is after a symbol's end is told by whether others go on.
                goes_on = (place == "after") & (pl.col("start_time") <= from_us(end_us))
                yield ((place == "inside") & _near(start_us, end_us, 0)) | goes_on, file
                continue
            region = file.region
            near = _near(region.time_min_us, region.time_max_us, _NEAR_US)
            # Where its life begins and ends is told by all of its bars.
            ends = (place != "inside") & pl.lit(other.dataset is KLINES)
            yield _named(file) & (near | ends), file
    for file in losses.ledger:
        if file.region.partition == (kind.market, kind.dataset.name):
            yield _named(file), file


def _life(file: LostFile, known: Survivors) -> tuple[int, int]:
    """When symbols of a lost file may have lived. Of one that has a file for itself that is known;
    of several, each may have lived from its first row to its last one."""
    region = file.region
    if file.of_one:
        return region.time_min_us, region.time_max_us
    lives = known.rows.filter(_named(file))
    first, last = lives.select(
        pl.col("first_time").dt.epoch("us").min(), pl.col("last_time").dt.epoch("us").max()
    ).row(0)
    return (
        min(region.time_min_us, region.time_min_us if first is None else first),
        max(region.time_max_us, region.time_max_us if last is None else last),
    )


def _near(first_us: int, last_us: int, margin_us: int) -> pl.Expr:
    return (pl.col("start_time") <= from_us(last_us + margin_us)) & (
        pl.col("end_time") > from_us(first_us - margin_us)
    )


def _named(file: LostFile) -> pl.Expr:
    return pl.col("symbol").is_between(pl.lit(file.region.lead_min), pl.lit(file.region.lead_max))
