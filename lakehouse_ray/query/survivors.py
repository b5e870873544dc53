"""Lives of series of which some files cannot be read: what the others say, and whom they leave out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from lakehouse_ray.errors import InvalidError, LakehouseError, UnavailableError
from lakehouse_ray.query.pinned import Kind, Pinned
from lakehouse_ray.query.scan import Where
from lakehouse_ray.storage.groups import relative_path
from lakehouse_ray.storage.objects import ObjectStore


@dataclass(frozen=True)
class Survivors:
    """rows: `Pinned.lives`; of symbols in `lost`, what can still be read (no times: nothing).

    lost: Symbols that may have rows in a file that is gone or damaged, and what it says.
    """

    rows: pl.DataFrame
    lost: Mapping[str, LakehouseError]


def survivors(pinned: Pinned, kind: Kind, store: ObjectStore) -> Survivors:
    """Read `Pinned.lives`; where that fails, file by file.

    Raises UnavailableError where the store itself does not answer.
    """
    try:
        return Survivors(pinned.lives(kind), {})
    except (UnavailableError, InvalidError):
        pass  # whose rows they are is looked for below
    frames: list[pl.DataFrame] = []
    spans: list[tuple[str, str, LakehouseError]] = []
    for file in pinned.files(kind.table, Where(kind.equal)):
        path = relative_path(store, file.file_path)
        there = store.exists(path)
        try:
            if not there:
                raise UnavailableError(f"{path} is gone; `lakehouse verify` says what is missing")
            frames.append(pinned.lives_in(kind, file))
        except (UnavailableError, InvalidError) as error:
            region = pinned.region(kind.table, file)
            spans.append((region.lead_min, region.lead_max, error))
    # A file names its first and its last symbol; of those between, known from other files, any may
    # be in it.
    named = pl.DataFrame({"symbol": [s for first, last, _ in spans for s in (first, last)]})
    rows = (
        pl.concat([*frames, named.cast({"symbol": pl.String})], how="diagonal")
        .group_by("symbol")
        .agg(pl.col("first_time").min(), pl.col("last_time").max(), pl.col("rows").sum())
        .sort("symbol")
        if frames
        else _nothing(named)
    )
    lost = {
        symbol: error
        for first, last, error in spans
        for symbol in rows["symbol"].to_list()
        if first <= symbol <= last
    }
    return Survivors(rows, lost)


def _nothing(named: pl.DataFrame) -> pl.DataFrame:
    time = pl.lit(None, pl.Datetime("us", "UTC"))
    return named.unique().sort("symbol").select(
        "symbol", first_time=time, last_time=time, rows=pl.lit(0, pl.Int64)
    )  # fmt: skip
