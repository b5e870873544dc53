"""Deciding what is missing: the listing against the ledger.

Pure functions on frames. A plan of a hundred thousand objects stays in columns; units are made from
it one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

import polars as pl

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.timespan import TimeRange
from lakehouse_ray.model.venue import INTERVALS, Freq, Market
from lakehouse_ray.model.work import ObjectTask, Role, Unit, unit_id
from lakehouse_ray.storage.schemas import bucket_of

FreqPolicy = Literal["auto", "monthly", "daily"]

# Units are cut at so many objects: a daily 1m zip is 3-5 ms of work, so this is a few seconds.
UNIT_OBJECTS_MAX = 1000
# An object whose last sighting in the ledger is older is noted again, though nothing changed.
SIGHTING_AGE_US = 24 * 3600 * 1_000_000


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    todo: Objects that units are made of, with their role and group.
    sightings: Objects to note as still listed.
    skipped: Objects that are in the lake as they are listed.
    left_alone: Objects refused so often that they wait for a change.
    unrecognised: Keys that are none of the data set's.
    """

    dataset: Dataset
    market: Market
    interval: str | None
    todo: pl.DataFrame
    sightings: pl.DataFrame
    skipped: int
    left_alone: int
    unrecognised: tuple[str, ...]

    @property
    def files(self) -> int:
        """Objects to transfer at least."""
        return self.todo.filter(role="fetch").height

    @property
    def compressed_bytes(self) -> int:
        return int(self.todo.filter(role="fetch")["size"].sum())

    @property
    def rows_estimated(self) -> int:
        """Rows that the objects to transfer hold: counted for bars, guessed from bytes elsewhere."""
        fetch = self.todo.filter(role="fetch")
        if fetch.is_empty():
            return 0
        if self.interval is not None:
            step = INTERVALS[self.interval]
            if step is None:
                return fetch.height
            length = (fetch["period_end"] - fetch["period_start"]).sum()
            return max(fetch.height, int(length) // step)
        # Zips of these data sets shrink about 4.5 times.
        return int(self.compressed_bytes * 4.5 / self.dataset.bytes_a_row)


def plan_objects(
    dataset: Dataset,
    market: Market,
    interval: str | None,
    listed: pl.DataFrame,
    ledger: pl.DataFrame,
    *,
    freq: FreqPolicy,
    decoder_version: int,
    attempts_max: int,
    now_us: int,
    unrecognised: tuple[str, ...] = (),
) -> Plan:
    """Compare what is listed with what the lake has.

    listed: `sources.source.LISTING_SCHEMA`.
    ledger: `storage.ledger.latest_by_key`.
    attempts_max: Runs that may refuse an object before it is left alone until it changes.
    """
    known = ledger.select(
        "key", "state", "sha256", "version", "path", "days_short", "attempts", "last_seen",
        "built_sha256", "built_version", "built_path", "built_decoder", "decoder_version",
        known_etag="etag", known_checksum="checksum_etag", known_modified="last_modified",
        known_size="size",
    )  # fmt: skip
    objects = listed.join(known, on="key", how="left")
    same = (
        pl.when((pl.col("etag") != "") & (pl.col("known_etag") != ""))
        .then(pl.col("etag") == pl.col("known_etag"))
        .otherwise(
            (pl.col("last_modified") == pl.col("known_modified").dt.epoch("us"))
            & (pl.col("size") == pl.col("known_size"))
        )
        .fill_null(False)
    )
    same_checksum = pl.col("checksum_etag").eq_missing(pl.col("known_checksum"))
    objects = objects.with_columns(
        _listed=pl.lit(True),
        _current=same & (pl.col("state") == "built"),
        _left_alone=same
        & same_checksum
        & (pl.col("state") == "quarantined")
        & (pl.col("decoder_version") == decoder_version)
        & (pl.col("attempts") >= attempts_max),
        _month=_month_of("period_start"),
    )
    objects = _apply_policy(objects, freq)
    objects = objects.with_columns(
        role=pl.when(pl.col("_left_alone"))
        .then(None)
        .when(pl.col("_current") & (pl.col("built_decoder") == decoder_version))
        .then(None)
        .when(pl.col("_current"))
        .then(pl.lit("stored"))
        .when(pl.col("_candidate"))
        .then(pl.lit("candidate"))
        .otherwise(pl.lit("fetch"))
    )
    objects = _drop_idle_candidates(objects)
    objects = _add_relatives(dataset, objects, ledger)
    todo = objects.filter(pl.col("role").is_not_null())
    idle = objects.filter(pl.col("role").is_null() & pl.col("_listed"))
    stale = idle.filter(
        pl.col("_current") & (pl.col("last_seen").dt.epoch("us") < now_us - SIGHTING_AGE_US)
    )
    return Plan(
        dataset,
        market,
        interval,
        todo.sort("_month", "symbol", "period_start", "key"),
        stale,
        idle.filter(~pl.col("_left_alone")).height,
        idle.filter(pl.col("_left_alone")).height,
        unrecognised,
    )


def _month_of(column: str) -> pl.Expr:
    moment = pl.from_epoch(pl.col(column), time_unit="us")
    return ((moment.dt.year().cast(pl.Int32) - 1970) * 12 + moment.dt.month() - 1).cast(pl.Int32)


def _apply_policy(objects: pl.DataFrame, freq: FreqPolicy) -> pl.DataFrame:
    """Keep the frequencies asked for; mark daily files that a monthly one may make needless.

    auto: the monthly file where one is listed; a daily one beside it if it is newer, or if its day
    is one that the monthly file is known not to cover; while that is unknown it is a candidate.
    """
    if freq != "auto":
        return objects.filter(pl.col("freq") == freq).with_columns(_candidate=pl.lit(False))
    monthly = objects.filter(freq="monthly").select(
        "symbol",
        "_month",
        m_modified="last_modified",
        m_known=pl.col("_current"),
        m_short="days_short",
        # A refused monthly file covers nothing.
        m_refused=pl.col("_left_alone"),
    )
    joined = objects.join(
        monthly.unique(["symbol", "_month"], keep="last"), on=["symbol", "_month"], how="left"
    )
    day = pl.from_epoch(pl.col("period_start"), time_unit="us").dt.strftime("%Y-%m-%d")
    beside = (pl.col("freq") == "daily") & pl.col("m_modified").is_not_null()
    newer = pl.col("last_modified") > pl.col("m_modified")
    short = pl.col("m_short").fill_null("").str.contains(day, literal=True)
    wanted = newer | (pl.col("m_known") & short) | pl.col("m_refused")
    return joined.with_columns(
        _candidate=(beside & ~wanted).fill_null(False),
        _settled=(beside & ~wanted & pl.col("m_known")).fill_null(False),
    ).drop("m_modified", "m_known", "m_short", "m_refused")


def _drop_idle_candidates(objects: pl.DataFrame) -> pl.DataFrame:
    """Candidates of a month whose monthly file is known to cover their days are not needed."""
    if "_settled" not in objects.columns:
        return objects
    return objects.with_columns(
        role=pl.when(pl.col("_settled") & (pl.col("role") == "candidate"))
        .then(None)
        .otherwise(pl.col("role"))
    )


def _add_relatives(dataset: Dataset, objects: pl.DataFrame, ledger: pl.DataFrame) -> pl.DataFrame:
    """Objects that share rows with a changed one are merged again, from bronze.

    The new version may lack rows that the old one had taken over from them.
    """
    changed = objects.filter(
        (pl.col("role") == "fetch") & pl.col("built_sha256").is_not_null()
    ).select("symbol", c_start="period_start", c_end="period_end")
    if changed.is_empty():
        return objects
    slack = dataset.slack_us
    built = ledger.filter(pl.col("built_path").is_not_null()).select(
        "key", "symbol", "freq", "size", "etag", "checksum_etag", "built_sha256", "built_version",
        "built_path", period_start=pl.col("period_start").dt.epoch("us"),
        last_modified=pl.col("last_modified").dt.epoch("us"),
    )  # fmt: skip
    moment = pl.from_epoch(pl.col("period_start"), time_unit="us")
    end = (
        pl.when(pl.col("freq") == "monthly")
        .then(moment.dt.offset_by("1mo"))
        .otherwise(moment.dt.offset_by("1d"))
    )
    built = built.with_columns(period_end=end.dt.epoch("us"), _month=_month_of("period_start"))
    near = (
        built.join(changed, on="symbol")
        .filter(
            (pl.col("period_start") < pl.col("c_end") + slack)
            & (pl.col("c_start") < pl.col("period_end") + slack)
        )
        .drop("c_start", "c_end")
        .unique("key")
    )
    listed = near.select("key")
    objects = objects.with_columns(
        role=pl.when(pl.col("role").is_null() & pl.col("key").is_in(listed["key"].to_list()))
        .then(pl.lit("stored"))
        .otherwise(pl.col("role"))
    )
    unlisted = near.join(objects.select("key"), on="key", how="anti").with_columns(
        role=pl.lit("stored"), _listed=pl.lit(False)
    )
    return pl.concat([objects, unlisted], how="diagonal")


def make_units(plan: Plan, *, bytes_max: int, decoder_version: int) -> Iterator[Unit]:
    """Bundle a plan's objects: one partition, neighbouring symbols, bounded bytes.

    All objects of a symbol that may share rows stay in one unit.
    """
    table = plan.dataset.table(plan.interval)
    by_year = any(partition.transform == "year" for partition in table.partitions)
    bucketed = any(partition.transform == "bucket16" for partition in table.partitions)
    todo = plan.todo
    period = pl.col("_month") // 12 if by_year else pl.col("_month")
    symbols = todo.select(pl.col("symbol").unique()).to_series().to_list()
    buckets = {symbol: bucket_of(symbol) if bucketed else 0 for symbol in symbols}
    todo = todo.with_columns(
        _period=period,
        _bucket=pl.col("symbol").replace_strict(buckets, return_dtype=pl.Int64)
        if symbols
        else pl.lit(0, dtype=pl.Int64),
    )
    if plan.dataset.slack_us:
        todo = _join_changed_neighbours(todo)
    todo = todo.sort("_period", "_bucket", "symbol", "_month", "period_start", "key")
    pending: list[ObjectTask] = []
    pending_bytes = 0
    group: tuple[int, int] | None = None
    for block in _blocks(todo, bytes_max, cut=not plan.dataset.slack_us):
        head = (int(block["_period"][0]), int(block["_bucket"][0]))
        size = int(block["size"].sum())
        full = pending_bytes + size > bytes_max or len(pending) + block.height > UNIT_OBJECTS_MAX
        if pending and (head != group or full):
            yield _unit(plan, pending, decoder_version)
            pending, pending_bytes = [], 0
        group = head
        pending += [_task(row) for row in block.iter_rows(named=True)]
        pending_bytes += size
    if pending:
        yield _unit(plan, pending, decoder_version)


def _join_changed_neighbours(todo: pl.DataFrame) -> pl.DataFrame:
    """Put a changed object and those it touches into one period, across the edge of a month too.

    A row on the edge can come from either. Were they merged in two units, the first could give way
    to a row that the second one then drops.
    """
    todo = todo.sort("symbol", "period_start", "key")
    changed = (pl.col("role") == "fetch") & pl.col("built_sha256").is_not_null()
    touching = pl.col("period_end").cum_max().shift(1) >= pl.col("period_start")
    linked = (touching & (changed | changed.shift(1))).over("symbol").fill_null(False)
    return (
        todo.with_columns(_chain=(~linked).cum_sum())
        .with_columns(_period=pl.col("_period").min().over("symbol", "_chain"))
        .drop("_chain")
    )


def _blocks(todo: pl.DataFrame, bytes_max: int, *, cut: bool) -> Iterator[pl.DataFrame]:
    """Slices of one symbol and partition, in order; units are cut between them.

    Units that share a symbol would have to look at each other's files. Only a symbol too large for
    one unit is cut, and only where its days share no rows (`cut`).
    """
    if todo.is_empty():
        return
    lengths = todo.select(pl.struct("_period", "symbol").rle()).to_series().struct.field("len")
    at = 0
    for length in lengths:
        block = todo.slice(at, length)
        at += length
        whole = not cut or (block["freq"] != "daily").any()
        if whole or int(block["size"].sum()) <= bytes_max:
            yield block
            continue
        part = (block["size"].cum_sum() - 1) // bytes_max
        yield from block.with_columns(_part=part).partition_by("_part", maintain_order=True)


def _unit(plan: Plan, tasks: list[ObjectTask], decoder_version: int) -> Unit:
    objects = tuple(tasks)
    return Unit(
        unit_id(objects, decoder_version), plan.dataset.name, plan.market, plan.interval, objects
    )


def _task(row: dict[str, object]) -> ObjectTask:
    def text(name: str) -> str:
        value = row.get(name)
        return value if isinstance(value, str) else ""

    def number(name: str) -> int:
        value = row[name]
        assert isinstance(value, int)
        return value

    return ObjectTask(
        key=text("key"),
        symbol=text("symbol"),
        freq=cast("Freq", row["freq"]),
        period=TimeRange(number("period_start"), number("period_end")),
        size=number("size"),
        etag=text("etag"),
        checksum_etag=text("checksum_etag") or None,
        last_modified_us=number("last_modified"),
        role=cast("Role", row["role"]),
        known_sha256=text("built_sha256"),
        known_version=text("built_version"),
        known_path=text("built_path"),
    )
