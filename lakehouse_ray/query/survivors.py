"""Lives of series of which some files cannot be read: what the others say, and whom they leave out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl
from pyiceberg.manifest import DataFile

from lakehouse_ray.errors import InvalidError, LakehouseError, UnavailableError
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import from_us
from lakehouse_ray.query.pinned import LIFE, Kind, Pinned
from lakehouse_ray.query.scan import Where
from lakehouse_ray.storage.files import Region
from lakehouse_ray.storage.groups import relative_path


@dataclass(frozen=True)
class LostFile:
    """A file of a pinned snapshot that cannot be read.

    path: As the table spells it.
    region: Where its rows lay, as the table's metadata says.
    """

    path: str
    region: Region
    error: LakehouseError

    def may_have(self, symbol: str) -> bool:
        return self.region.lead_min <= symbol <= self.region.lead_max

    @property
    def of_one(self) -> bool:
        """Whether all its rows are of one symbol: its bounds are then those of the symbol's rows."""
        return self.region.lead_min == self.region.lead_max


@dataclass(frozen=True)
class Survivors:
    """rows: `Pinned.lives`; of symbols in `lost`, what can still be told (no times: nothing).

    lost: Symbols that may have rows in a file that is gone or damaged, and what it says.
    """

    rows: pl.DataFrame
    lost: Mapping[str, LakehouseError]
    files: tuple[LostFile, ...] = ()


def survivors(pinned: Pinned, kind: Kind, columns: Sequence[str] = ()) -> Survivors:
    """Read `Pinned.lives` from the files; where that fails, file by file.

    columns: Without which a file counts as lost too.

    Raises UnavailableError where the store itself does not answer.
    """
    try:
        return Survivors(pinned.read_lives(kind, (), columns), {})
    except (UnavailableError, InvalidError):
        pass  # whose rows they are is looked for below
    frames: list[pl.DataFrame] = []
    files = tuple(
        file
        for table in kind.stored_tables
        for file in lost_files(
            pinned,
            table,
            Where(kind.equal),
            lambda file, table=table: frames.append(  # type: ignore[misc]
                pinned.lives_in(kind, table, file, columns)
            ),
        )
    )
    # A file names its first and its last symbol; of those between, known from other files, any may
    # be in it.
    named = pl.DataFrame([one for file in files for one in _named(file)], LIFE, orient="row")
    rows = (
        pl.concat([named, *(frame.cast(LIFE) for frame in frames)])
        .group_by("symbol")
        .agg(pl.col("first_time").min(), pl.col("last_time").max(), pl.col("rows").sum())
        .sort("symbol")
    )
    lost = {
        symbol: file.error
        for file in files
        for symbol in rows["symbol"].to_list()
        if file.may_have(symbol)
    }
    return Survivors(rows, lost, files)


def lost_files(
    pinned: Pinned, table: Table, where: Where, read: Callable[[DataFile], object]
) -> tuple[LostFile, ...]:
    """Read every file of a table that may hold wanted rows; return those that cannot be.

    Raises UnavailableError where the store itself does not answer.
    """
    found = []
    for file in pinned.files(table, where):
        path = relative_path(pinned.store, file.file_path)
        there = pinned.store.exists(path)
        try:
            if not there:
                raise UnavailableError(f"{path} is gone; `lakehouse verify` says what is missing")
            read(file)
        except (UnavailableError, InvalidError) as error:
            # Not every damage is told with the file's name.
            told = error if path in str(error) else UnavailableError(f"{path}: {error}")
            found.append(LostFile(file.file_path, pinned.region(table, file), told))
    return tuple(found)


def _named(file: LostFile) -> list[tuple[object, ...]]:
    """What a lost file's bounds tell of lives; its rows are not counted."""
    region = file.region
    if file.of_one:
        return [(region.lead_min, from_us(region.time_min_us), from_us(region.time_max_us), 0)]
    return [(region.lead_min, None, None, 0), (region.lead_max, None, None, 0)]
