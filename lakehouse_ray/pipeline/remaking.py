"""Live rows made anew from the frames that bronze keeps, into their hot table.

A lost file may have had rows of streams. Which, nobody knows any more; so all that the frames of its
time say of its symbols is appended to the hot table. Rows that are elsewhere hide those, and a fold
merges the others. Books are not made anew: their rows depend on all changes since a snapshot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import BadDataError
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.book_levels import BOOK_LEVELS
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import DAY_US, HOUR_US, format_time, month_of, month_ordinal
from lakehouse_ray.model.venue import INTERVALS, Market, parse_market
from lakehouse_ray.model.work import version_of
from lakehouse_ray.pipeline.commits import open_committers
from lakehouse_ray.pipeline.hot_rows import HotWriter, hot_tables_of
from lakehouse_ray.silver.stream_segment import read_records, rows_again
from lakehouse_ray.storage.files import FileEntry
from lakehouse_ray.storage.ledger import read_object_log
from lakehouse_ray.storage.paths import captured_folder, sha256_of

# By the name of each of their tables.
DATASET_OF = {t.name: dataset for dataset in DATASETS.values() for t in dataset.stored_tables}
# Between the exchange's clock and that of whoever received.
CLOCKS_APART_US = HOUR_US


@dataclass(frozen=True)
class Wanted:
    """Rows that a lost file may have had. Bounds are inclusive; interval: None: any."""

    market: Market
    interval: str | None
    first_symbol: str
    last_symbol: str
    first_us: int
    last_us: int


@dataclass(frozen=True)
class Frames:
    """Paths of objects of captured frames. missing: Those that the ledger knows and bronze has not."""

    objects: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def is_remade(dataset: Dataset) -> bool:
    return dataset.streamed and dataset.name != BOOK_LEVELS.name


def wanted_rows(shape: Table, lost: Iterable[FileEntry]) -> list[Wanted]:
    """What files of a table of a data set may have had."""
    found: list[Wanted] = []
    for file in lost:
        region = file.region
        values = {
            partition.column: str(value)
            for partition, value in zip(shape.partitions, region.partition, strict=True)
            if partition.transform == "identity"
        }
        found.append(
            Wanted(
                parse_market(values["market"]), values.get("interval"), region.lead_min,
                region.lead_max, region.time_min_us, region.time_max_us,
            )
        )  # fmt: skip
    return found


def find_frames(writer: Writer, dataset: Dataset, wanted: Sequence[Wanted]) -> Frames:
    """The objects of bronze whose frames may say rows that are wanted."""
    found: list[str] = []
    missing: list[str] = []
    for market in dict.fromkeys(one.market for one in wanted):
        own = [one for one in wanted if one.market == market]
        spans = [_received_us(one) for one in own]
        log = read_object_log(writer.catalog, market, dataset.name, None)
        log = log.filter(pl.col("freq") == "stream")
        known = set(log["path"].to_list())
        for path in _received(log, spans):
            (found if writer.store.exists(path) else missing).append(path)
        # A capture writes the ledger some seconds later.
        found += [path for path in _kept(writer, market, spans) if path not in known]
    return Frames(tuple(found), tuple(missing))


def _received_us(wanted: Wanted) -> tuple[int, int]:
    """When frames of wanted rows came: of bars when they were done."""
    last_us = wanted.last_us
    if wanted.interval is not None:
        length_us = INTERVALS[wanted.interval]
        last_us = (
            month_of(month_ordinal(last_us)).end_us if length_us is None else last_us + length_us
        )
    return wanted.first_us - CLOCKS_APART_US, last_us + CLOCKS_APART_US


def _received(log: pl.DataFrame, spans: Sequence[tuple[int, int]]) -> list[str]:
    """Objects with frames of these times: an object is of when its last frame came."""
    times = log.select(
        "path", at=pl.col("period_start").dt.epoch("us"),
        capture=pl.col("unit_id").str.replace(r"-\d+$", ""),
    ).sort("at")  # fmt: skip
    found: dict[str, None] = {}
    for first_us, last_us in spans:
        within = times.filter(pl.col("at").is_between(first_us, last_us))
        # While commits were slow, frames waited long for the end of theirs.
        behind = times.filter(pl.col("at") > last_us).group_by("capture").first()
        found |= dict.fromkeys([*within["path"], *behind["path"]])
    return list(found)


def _kept(writer: Writer, market: Market, spans: Sequence[tuple[int, int]]) -> Iterator[str]:
    days = {
        day_us
        for first_us, last_us in spans
        for day_us in range(
            first_us // DAY_US * DAY_US, min(last_us, writer.clock.now_us()) + 1, DAY_US
        )
    }
    for day_us in sorted(days):
        yield from sorted(p for p, _ in writer.store.walk(captured_folder(market, day_us)))


def append_again(
    writer: Writer, shape: Table, wanted: Sequence[Wanted], frames: Frames, run_id: str
) -> int:
    """Append the wanted rows to the hot table; returns how many. Doing it again does no harm.

    shape: Of the table that lost them.

    Raises BadDataError where an object is not what was captured.
    """
    if not frames.objects:
        return 0
    dataset = DATASET_OF[shape.name]
    with open_committers(writer, hot_tables_of([dataset]), run_id, local=True) as committers:
        hot = HotWriter(writer, committers, run_id)
        for number, rows in enumerate(_batches(writer, dataset, wanted, frames)):
            hot.append({dataset.name: rows}, f"repair-{shape.name}-{number}")
        return hot.rows


def _batches(
    writer: Writer, dataset: Dataset, wanted: Sequence[Wanted], frames: Frames
) -> Iterator[pl.DataFrame]:
    parts: list[pl.DataFrame] = []
    for path in frames.objects:
        data, sha256 = writer.store.get(path), sha256_of(path)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise BadDataError("CHECKSUM_MISMATCH", f"{path} is not what was captured")
        records = read_records(data)
        if not records:
            continue
        market = parse_market(path.split("/")[3])
        version = version_of(format_time(records[-1].received_us), sha256)
        rows = rows_again(market, records, version).get(dataset.name)
        if rows is None:
            continue
        parts.append(rows.filter(pl.any_horizontal(_is(dataset, one, market) for one in wanted)))
        if sum(part.height for part in parts) >= writer.settings.hot.batch_rows:
            yield pl.concat(parts)
            parts = []
    rows = pl.concat(parts) if parts else pl.DataFrame()
    if rows.height:
        yield rows


def _is(dataset: Dataset, wanted: Wanted, market: Market) -> pl.Expr:
    if market != wanted.market:
        return pl.lit(False)
    found = pl.col("symbol").is_between(pl.lit(wanted.first_symbol), pl.lit(wanted.last_symbol))
    if wanted.interval is not None:
        found &= pl.col("interval") == wanted.interval
    return found & pl.col(dataset.time).dt.epoch("us").is_between(wanted.first_us, wanted.last_us)
