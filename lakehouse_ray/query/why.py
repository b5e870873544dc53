"""Why a value is what it is: from a row back to the line of the object that gave it.

For a row that is not there: the gap, its cause, and what the files say of that time. For a derived
bar: how it was built, and the rows of silver behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from lakehouse_ray.errors import InvalidError, NotFoundError
from lakehouse_ray.kernels.causes import classify
from lakehouse_ray.model.checks.registry import rules_of
from lakehouse_ray.model.datasets.registry import find_dataset
from lakehouse_ray.model.rhythm import rhythm_of
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import DAY_US, SECOND_US, TimeRange, format_time, to_us
from lakehouse_ray.model.venue import INTERVALS, parse_interval, parse_market
from lakehouse_ray.query.asked import Asked, unknown_symbol
from lakehouse_ray.query.gap_facts import gather
from lakehouse_ray.query.gaps import find
from lakehouse_ray.query.pinned import Kind, Pinned, Readable
from lakehouse_ray.query.pins import AsOf
from lakehouse_ray.query.scan import Where, quoted, text
from lakehouse_ray.query.statement import Engine
from lakehouse_ray.query.views import VIEWS
from lakehouse_ray.query.witnesses import Bytes, Source, witnesses
from lakehouse_ray.storage.catalog import RUN_ID_PROPERTY
from lakehouse_ray.storage.files import index_files

# Rows of one moment that are told of; trades may have thousands.
ROWS_MAX = 20
_LONGEST_BAR_US = 31 * DAY_US
# What has no interval is looked for within this of the moment asked for.
_MOMENT_US = SECOND_US


@dataclass(frozen=True)
class Question:
    """A moment of one series."""

    kind: Kind
    symbol: str
    at_us: int

    @property
    def series(self) -> dict[str, str]:
        return self.kind.equal | {"symbol": self.symbol}

    @property
    def step_us(self) -> int | None:
        """Length of a bar; None for what is no bar."""
        if self.kind.interval is None:
            return None
        return INTERVALS[self.kind.interval] or _LONGEST_BAR_US


def question(market: str, dataset: str, symbol: str, interval: str | None, at_us: int) -> Question:
    """Read what was asked. Raises InvalidError for what cannot be."""
    found, chosen = find_dataset(dataset), parse_market(market)
    if found.bars and not interval:
        raise InvalidError(f"{found.name} needs an interval", "such as 1m")
    if interval and not found.bars:
        raise InvalidError(f"{found.name} has no intervals", "leave the interval away")
    if not symbol:
        raise InvalidError("no symbol is given", "such as BTCUSDT")
    kind = Kind(found, chosen, parse_interval(interval) if interval else None)
    return Question(kind, symbol, at_us)


def why(
    lake: Readable, asked: Question, files: Bytes | None = None, as_of: AsOf = None
) -> dict[str, Any]:
    """Return the document of a moment of a series (docs/why.md).

    files: To say what the objects themselves hold; None: only what the ledger knows of them.

    Raises NotFoundError for a symbol of which nothing is stored.
    """
    pinned = Pinned(lake, VIEWS.values(), as_of)
    return explain_row(pinned, known_objects(lake), lake.engine, asked, files)


def known_objects(lake: Readable) -> Pinned:
    """The ledger as it is now: of a row of then, too, it says what became of its file."""
    return Pinned(lake, [VIEWS["bronze.objects"], VIEWS["silver.quarantine"]])


def explain_row(
    pinned: Pinned, ledger: Pinned, engine: Engine, asked: Question, files: Bytes | None
) -> dict[str, Any]:
    """The same from pinned tables. ledger: `known_objects`."""
    kind = asked.kind
    document: dict[str, Any] = {
        "v": 1,
        "asked": {
            "market": kind.market,
            "dataset": kind.dataset.name,
            "interval": kind.interval,
            "symbol": asked.symbol,
            "at": format_time(asked.at_us),
        },
    }
    rows = _rows(pinned, asked)
    if rows.is_empty():
        return document | {"found": False} | _absent(pinned, ledger, asked, files)
    told = [_told(pinned, ledger, engine, asked, row, files) for row in rows.iter_rows(named=True)]
    return document | {"found": True, "rows": told}


def _rows(pinned: Pinned, asked: Question) -> pl.DataFrame:
    """The bar that holds the moment; or the rows of the moment, else of its second."""
    kind, time = asked.kind, quoted(asked.kind.dataset.time)
    step_us = asked.step_us
    if step_us is None:
        for width_us in (1, _MOMENT_US):
            found = _between(pinned, asked, TimeRange(asked.at_us, asked.at_us + width_us))
            if found.height:
                return found
        return found
    where = Where(asked.series, TimeRange(asked.at_us - step_us + 1, asked.at_us + 1))
    query = (
        f"SELECT * FROM {kind.view.name} WHERE {where.sql(kind.table)} ORDER BY {time} DESC LIMIT 1"
    )
    found = pinned.frame(query, kind.view, where)
    if kind.interval == "1mo" and found.height and to_us(found["close_time"][0]) < asked.at_us:
        return found.clear()
    return found


def _between(pinned: Pinned, asked: Question, span: TimeRange) -> pl.DataFrame:
    kind = asked.kind
    where = Where(asked.series, span)
    order = ", ".join(quoted(name) for name in kind.table.sort if name != "symbol")
    query = (
        f"SELECT * FROM {kind.view.name} WHERE {where.sql(kind.table)} ORDER BY {order} "
        f"LIMIT {ROWS_MAX}"
    )
    return pinned.frame(query, kind.view, where)


def _told(
    pinned: Pinned,
    ledger: Pinned,
    engine: Engine,
    asked: Question,
    row: Mapping[str, Any],
    files: Bytes | None,
) -> dict[str, Any]:
    kind = asked.kind
    time_us = to_us(row[kind.dataset.time])
    source = Source(row["source_key"], row["source_version"], row["source"])
    rules = {
        rule.name: rule.doc for rule in rules_of(kind.dataset.name, kind.market, kind.interval)
    }
    flags = [name for name in (row["flags"] or "").split(",") if name]
    span = TimeRange(time_us, time_us + 1)
    return {
        "row": {name: _plain(value) for name, value in row.items()},
        "flags": [{"rule": name, "doc": rules.get(name, "")} for name in flags],
        "stored": _stored(pinned, engine, asked, span, source),
        "objects": witnesses(ledger, kind, asked.symbol, span, source, files),
    }


def _stored(
    pinned: Pinned, engine: Engine, asked: Question, span: TimeRange, source: Source
) -> dict[str, Any] | None:
    """The file of the table that holds the row, its place in it, and the snapshot that brought it."""
    tables = reversed(asked.kind.stored_tables)
    found = (_place(pinned, engine, shape, Where(asked.series, span), source) for shape in tables)
    return next((one for one in found if one is not None), None)


def _place(
    pinned: Pinned, engine: Engine, shape: Table, where: Where, source: Source
) -> dict[str, Any] | None:
    paths = [file.file_path for file in pinned.files(shape, where)]
    if not paths:
        return None
    listed = ", ".join(text(path.removeprefix("file://")) for path in paths)
    with engine.explained(), engine.connect() as connection:
        found = connection.execute(
            f"SELECT filename, file_row_number FROM read_parquet([{listed}], filename=true, "
            f"file_row_number=true, hive_partitioning=false) WHERE {where.sql(shape)} "
            f"AND source_key = {text(source.key)} AND source_version = {text(source.version)} LIMIT 1"
        ).fetchone()
    if found is None:
        return None
    path = next(p for p in paths if p.removeprefix("file://") == found[0])
    return {"table": shape.name, "file": path, "row": found[1]} | _snapshot(pinned, shape, path)


def _snapshot(pinned: Pinned, shape: Table, path: str) -> dict[str, Any]:
    pin = pinned.pin(shape)
    assert pin.table is not None
    entry = index_files(shape, pin.table, pin.snapshot_id).entry(path)
    told: dict[str, Any] = {"read_at_snapshot": pin.snapshot_id}
    for snapshot in pin.table.snapshots():
        if snapshot.sequence_number == entry.sequence:
            summary = snapshot.summary
            told |= {
                "written_in_snapshot": snapshot.snapshot_id,
                "committed_at": format_time(snapshot.timestamp_ms * 1000),
                "run_id": summary.get(RUN_ID_PROPERTY) if summary else None,
            }
    return told


def _absent(pinned: Pinned, ledger: Pinned, asked: Question, files: Bytes | None) -> dict[str, Any]:
    """Why there is no row: the gap, and what the files have of that time."""
    kind, at_us = asked.kind, asked.at_us
    lives = pinned.lives(kind)
    own = lives.filter(symbol=asked.symbol)
    if own.is_empty():
        raise (
            unknown_symbol(asked.symbol, lives["symbol"].to_list(), str(kind))
            if (lives.height)
            else NotFoundError(f"nothing of {kind} is stored", "`lakehouse ingest` brings it")
        )
    first, last = to_us(own["first_time"][0]), to_us(own["last_time"][0])
    step_us = asked.step_us or _MOMENT_US
    span = TimeRange(at_us // step_us * step_us if asked.step_us else at_us, at_us + step_us)
    if asked.step_us:
        span = TimeRange(span.start_us, span.start_us + step_us)
    within = first <= at_us <= last
    rhythm = rhythm_of(kind.dataset, kind.market, kind.interval)
    gap: dict[str, Any] | None = None
    if rhythm is not None:
        edges = (None, None) if within else (span.start_us, span.end_us)
        question = Asked(kind.market, kind.dataset, kind.interval, (asked.symbol,), *edges)
        found = find(pinned, kind, lives, question)
        found = found.filter(
            pl.col("start_time").dt.epoch("us") <= at_us, pl.col("end_time").dt.epoch("us") > at_us
        )
        if found.height:
            row = classify(gather(pinned, kind, found, lives)).row(0, named=True)
            gap = {
                "start": format_time(to_us(row["start_time"])),
                "end": format_time(to_us(row["end_time"])),
                "missing": row["missing"],
                "cause": row["cause"],
                "evidence": row["evidence"],
            }
    return {
        "gap": gap,
        "rhythm": rhythm is not None,
        "first_row": format_time(first),
        "last_row": format_time(last),
        "objects": witnesses(ledger, kind, asked.symbol, span, None, files),
    }


def _plain(value: Any) -> Any:
    return format_time(to_us(value)) if hasattr(value, "tzinfo") else value
