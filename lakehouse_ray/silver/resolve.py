"""Which row of several with one key is kept. Pure functions on frames.

Smaller precedence wins (daily before monthly before REST before stream); among equals the later
file, since a row on the edge of a period belongs to the file of its own period; among versions of
one file the later version. The rule does not depend on the order in which rows arrive, so a merge
may be repeated, and done in any order, with the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from lakehouse_ray.model.dataset import PRECEDENCE, Dataset

SOURCE_NAMES = ("source", "source_key", "source_version")


@dataclass(frozen=True)
class Merge:
    """What a merge of new rows into existing ones changes.

    added: Rows to write; without order.
    dropped: Existing rows to remove (`_file` says where they are).
    fresh: Rows of `added` whose key did not exist.
    conflicts: Losers with a key and kind of source of a winner, and other values.
    """

    added: pl.DataFrame
    dropped: pl.DataFrame
    fresh: int
    conflicts: pl.DataFrame


# The UTC day of a row, where keys are unique within a day (`Dataset.key_within_day`).
DAY = "_day"


def with_day(frame: pl.DataFrame, dataset: Dataset) -> pl.DataFrame:
    """Add the day to rows whose key is unique within one."""
    if not dataset.key_within_day:
        return frame
    return frame.with_columns(pl.col(dataset.time).dt.date().alias(DAY))


def key_of(dataset: Dataset) -> tuple[str, ...]:
    """Columns by which rows compete, in frames that `with_day` has prepared."""
    return (*dataset.key, DAY) if dataset.key_within_day else dataset.key


def resolve(new: pl.DataFrame, key: Sequence[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return one row per key of new rows with their source columns, and the conflicting losers."""
    ranked = _ranked(new)
    order = [*key, "_precedence", "source_key", "source_version"]
    descending = [False] * (len(key) + 1) + [True, True]
    ranked = ranked.sort(order, descending=descending)
    losing = ~ranked.select(pl.struct(key).is_first_distinct()).to_series()
    winners = ranked.filter(~losing)
    if not losing.any():
        return winners.drop("_precedence"), ranked.head(0).drop("_precedence")
    conflicts = _rivals(winners, ranked.filter(losing), new.columns, key)
    return winners.drop("_precedence"), conflicts


def merge(new: pl.DataFrame, existing: pl.DataFrame, key: Sequence[str]) -> Merge:
    """Merge new rows (one per key) into existing ones (one per key, with `_file`).

    Existing rows of an older version of a file that brings new rows are dropped even where the new
    version has no row for them; new rows of a version older than the existing one are ignored.
    """
    versions = new.select("source_key", "source_version").unique("source_key")
    return merge_versions(new, existing, key, versions)


def merge_versions(
    new: pl.DataFrame, existing: pl.DataFrame, key: Sequence[str], versions: pl.DataFrame
) -> Merge:
    """As `merge`, with the versions of the merged files given (a new version may have no rows).

    Existing rows of the very version that is merged stay where they are if it still says the same;
    read by other rules it may not.
    """
    existing = existing.with_row_index("_row")
    known = (
        existing.select("source_key", "source_version")
        .unique()
        .join(versions, on="source_key", suffix="_new")
    )
    outdated = known.filter(pl.col("source_version") > pl.col("source_version_new"))
    new = new.join(outdated.select("source_key"), on="source_key", how="anti")
    gone = _rows_of(existing, known, pl.col("source_version") < pl.col("source_version_new"))
    again = _rows_of(existing, known, pl.col("source_version") == pl.col("source_version_new"))
    unsaid = again.join(new, on=new.columns, how="anti", nulls_equal=True)
    stale = pl.concat([gone, unsaid])
    kept = existing.join(stale, on="_row", how="anti").drop("_row")
    outcome = merge_rows(new, kept, key)
    existing, stale = existing.drop("_row"), stale.drop("_row")
    fresh = outcome.added.join(
        existing.select(key), on=list(key), how="anti", nulls_equal=True
    ).height
    return replace(outcome, dropped=pl.concat([stale, outcome.dropped]), fresh=fresh)


def merge_rows(new: pl.DataFrame, existing: pl.DataFrame, key: Sequence[str]) -> Merge:
    """Merge new rows (one per key) into existing ones (one per key, with `_file`), key by key.

    A version of REST or of a stream speaks of the rows that it brings and of no others, so nothing
    is dropped for being missing in it.
    """
    both = _ranked(
        pl.concat(
            [
                existing.with_columns(_old=pl.lit(0, dtype=pl.Int8)),
                new.with_columns(
                    _file=pl.lit(None, dtype=pl.String), _old=pl.lit(1, dtype=pl.Int8)
                ).select(*existing.columns, "_old"),
            ]
        )
    )
    # A row that is there already, of the same version, stays where it is.
    order = [*key, "_precedence", "source_key", "source_version", "_old"]
    both = both.sort(order, descending=[False] * (len(key) + 1) + [True, True, False])
    first = both.select(pl.struct(key).is_first_distinct()).to_series()
    winners, losers = both.filter(first), both.filter(~first)
    added = winners.filter(pl.col("_old") == 1)
    beaten = losers.filter(pl.col("_old") == 0)
    fresh = added.join(existing.select(key), on=list(key), how="anti", nulls_equal=True).height
    return Merge(
        added.select(new.columns),
        beaten.select(existing.columns),
        fresh,
        _rivals(winners, losers, new.columns, key),
    )


def _rivals(
    winners: pl.DataFrame, losers: pl.DataFrame, columns: Sequence[str], key: Sequence[str]
) -> pl.DataFrame:
    """Losers of the winner's own kind, with other values: neither file can be told to be right.

    An older version of the winner's own file, or of its series, is no rival.
    """
    values = [n for n in columns if n not in (*SOURCE_NAMES, *key)]
    rivals = losers.join(
        winners.select(*key, *values, "source", w_key=pl.col("source_key")),
        on=[*key, "source"],
        suffix="_won",
        nulls_equal=True,
    ).filter(pl.col("source_key") != pl.col("w_key"))
    if not values:
        return rivals.head(0).select(columns)
    differs = pl.any_horizontal(pl.col(n).ne_missing(pl.col(f"{n}_won")) for n in values)
    return rivals.filter(differs).select(columns)


def _rows_of(existing: pl.DataFrame, known: pl.DataFrame, which: pl.Expr) -> pl.DataFrame:
    versions = known.filter(which).select("source_key", "source_version")
    return existing.join(versions, on=["source_key", "source_version"], how="semi")


def _ranked(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(
        _precedence=pl.col("source").replace_strict(dict(PRECEDENCE), return_dtype=pl.Int8)
    )
