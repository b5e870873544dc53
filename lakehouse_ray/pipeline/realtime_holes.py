"""Ranges of a series in which the lake has no rows, or not all cells, and REST may have them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import polars as pl

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.bronze.fill_plan import FillPlan, minus
from lakehouse_ray.errors import NotFoundError
from lakehouse_ray.kernels.causes import known_outages
from lakehouse_ray.model.rhythm import Grid, Ids, rhythm_of
from lakehouse_ray.model.timespan import (
    DAY_US,
    SECOND_US,
    TimeRange,
    month_of,
    month_ordinal,
    parse_time,
    to_us,
)
from lakehouse_ray.model.venue import FREQS, parse_market
from lakehouse_ray.query.asked import Asked
from lakehouse_ray.query.gaps import gaps_in
from lakehouse_ray.query.pinned import Among, Kind, Pinned
from lakehouse_ray.query.scan import quoted
from lakehouse_ray.sources.binance.rest_contracts import metrics_from_us
from lakehouse_ray.sources.binance.rest_requests import metrics_columns
from lakehouse_ray.storage.ledger import read_object_log

# Causes of gaps in which there is nothing to be had: nobody traded, or the symbol was not there.
_NOTHING_THERE = ("no_trades", "not_listed", "delisted")


def without_files(
    writer: Writer, asked: Asked, kind: Kind, lives: pl.DataFrame
) -> dict[str, list[TimeRange]]:
    """Ranges between the first and the last row that no file covers, by symbol.

    Of rows that come when something happens nothing else tells that some are missing.
    """
    columns = ("symbol", "freq", "period_start", "days_short", "state", "seen_at")
    log = read_object_log(writer.catalog, kind.market, kind.dataset.name, columns=columns)
    files: dict[str, list[TimeRange]] = {}
    built = log.filter(pl.col("freq").is_in(FREQS), state="built").unique()
    for symbol, freq, start, short, *_ in built.iter_rows():
        period = _day(to_us(start)) if freq == "daily" else month_of(month_ordinal(to_us(start)))
        days = [_day(parse_time(day)) for day in (short or "").split(",") if day]
        files.setdefault(symbol, []).extend(minus(period, days))
    spans: dict[str, list[TimeRange]] = {}
    for symbol, first, last in lives.select("symbol", "first_time", "last_time").iter_rows():
        start_us = max(to_us(first), asked.start_us or 0)
        end_us = end_of(asked, to_us(last))
        if start_us < end_us:
            covered = files.get(symbol, ())
            spans[symbol] = list(minus(TimeRange(start_us, end_us), covered))
    return spans


def _day(start_us: int) -> TimeRange:
    return TimeRange(start_us, start_us + DAY_US)


def holes_between(
    pinned: Pinned, asked: Asked, kind: Kind, plan: FillPlan
) -> dict[str, list[TimeRange]]:
    """Ranges between stored rows that REST may have, by symbol."""
    own = replace(asked, market=kind.market, dataset=kind.dataset, interval=kind.interval)
    try:
        found = gaps_in(pinned, own).rows
    except NotFoundError:  # none of the symbols asked for is of this kind
        return {}
    known = known_outages(found, kind.market).select("start_time", "end_time").unique()
    if headed(asked):
        found = found.filter(pl.col("cause") != "not_listed")
    nothing = found.filter(pl.col("cause").is_in(_NOTHING_THERE))
    left = found.filter(~pl.col("cause").is_in(_NOTHING_THERE))
    outages = left.join(known, on=["start_time", "end_time"], how="semi")
    left = left.join(known, on=["start_time", "end_time"], how="anti")
    if outages.height:
        plan.skipped["outage"] += outages.height
    for cause, count in nothing.group_by("cause").len().iter_rows():
        plan.skipped[cause] += count
    spans: dict[str, list[TimeRange]] = {}
    reach_us = reach_of(kind)
    for symbol, start, end in left.select("symbol", "start_time", "end_time").iter_rows():
        span = TimeRange(to_us(start) - reach_us, to_us(end) + reach_us)
        spans.setdefault(symbol, []).append(span)
    return spans


def partial_slots(
    pinned: Pinned, asked: Asked, kind: Kind, now_us: int
) -> Iterator[tuple[str, TimeRange]]:
    """Slots of metrics of which REST has told some cells and not yet others, as far back as it goes."""
    rhythm = rhythm_of(kind.dataset, kind.market, kind.interval)
    assert isinstance(rhythm, Grid)
    start_us = max(metrics_from_us(now_us), asked.start_us or 0)
    end_us = end_of(asked, now_us)
    if start_us >= end_us:
        return
    where = Among(kind.equal, TimeRange(start_us, end_us), asked.symbols)
    time = quoted(kind.dataset.time)
    lacking = " OR ".join(
        f"{quoted(name)} IS NULL" for name in metrics_columns(parse_market(kind.market))
    )
    query = (
        f"SELECT DISTINCT symbol, epoch_us({time}) // {rhythm.step_us} AS slot "
        f"FROM {kind.view.name} WHERE {where.sql(kind.table)} AND source = 'rest' AND ({lacking}) "
        "ORDER BY ALL"
    )
    for symbol, slot in pinned.frame(query, kind.view, where).iter_rows():
        yield symbol, TimeRange(slot * rhythm.step_us, (slot + 1) * rhythm.step_us)


def reach_of(kind: Kind) -> int:
    """Ids that are missing may be of the very moments of the rows beside them."""
    rhythm = rhythm_of(kind.dataset, kind.market, kind.interval)
    return SECOND_US if isinstance(rhythm, Ids) else 0


def head_of(kind: Kind, first_us: int, asked: Asked) -> TimeRange | None:
    """From where a series was asked for by name to its first row.

    A run that fills a symbol from --start on may have ended before it had the first ranges, while it
    has later ones: the same command has to go on with them.
    """
    if not headed(asked):
        return None
    assert asked.start_us is not None
    end_us = first_us + reach_of(kind)
    if asked.end_us is not None:
        end_us = min(end_us, asked.end_us)
    return TimeRange(asked.start_us, end_us) if asked.start_us < first_us else None


def headed(asked: Asked) -> bool:
    """Whether the rows before the first stored one are asked for."""
    return bool(asked.symbols) and tells_all(asked)


def tells_all(asked: Asked) -> bool:
    """Whether it says enough of a series to fill it from nothing."""
    if asked.market is None or asked.dataset is None or asked.start_us is None:
        return False
    return not asked.dataset.bars or asked.interval is not None


def end_of(asked: Asked, now_us: int) -> int:
    return now_us if asked.end_us is None else min(asked.end_us, now_us)
