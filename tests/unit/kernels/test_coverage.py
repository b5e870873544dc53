"""Rows of a day against rows that were due, counted by hand and in plain Python."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl

from lakehouse_ray.kernels.coverage import DAYS, days_of_bars, shares
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.rhythm import About, Grid, Ids, Months, OwnHours, rhythm_of
from lakehouse_ray.model.timespan import DAY_US, HOUR_US, SECOND_US, parse_time, to_us

TIME = pl.Datetime("us", "UTC")


def life(first: str, last: str, symbol: str = "A") -> pl.DataFrame:
    times = [datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (first, last)]
    return pl.DataFrame(
        {"symbol": [symbol], "first_time": times[:1], "last_time": times[1:]}
    ).with_columns(pl.col("first_time", "last_time").cast(TIME))


def days(*rows: tuple[str, int, int | None, int | None], symbol: str = "A") -> pl.DataFrame:
    return pl.DataFrame(
        [(symbol, date.fromisoformat(day), *counts) for day, *counts in rows],
        schema=DAYS,
        orient="row",
    )


def told(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    plain = frame.select(pl.col("day").cast(pl.String), "rows", "expected", "share")
    return plain.rows()


def test_days_run_from_the_first_to_the_last_row_and_those_without_rows_are_there() -> None:
    found = shares(
        Grid(HOUR_US),
        days(("2024-01-01", 4, None, None), ("2024-01-03", 12, None, None)),
        life("2024-01-01T20:00", "2024-01-03T11:00"),
    )
    assert told(found) == [
        ("2024-01-01", 4, 4, 1.0),
        ("2024-01-02", 0, 24, 0.0),
        ("2024-01-03", 12, 12, 1.0),
    ]


def test_a_range_cuts_and_never_widens() -> None:
    found = shares(
        Grid(HOUR_US),
        days(("2024-01-02", 24, None, None), ("2024-01-03", 6, None, None)),
        life("2024-01-01T20:00", "2024-01-09T11:00"),
        parse_time("2024-01-02"),
        parse_time("2024-01-03T06:00"),
    )
    assert told(found) == [("2024-01-02", 24, 24, 1.0), ("2024-01-03", 6, 6, 1.0)]
    outside = shares(
        Grid(HOUR_US), days(), life("2024-01-01", "2024-01-02"), parse_time("2025"), None
    )
    assert outside.is_empty()


def test_rows_off_the_grid_count_by_the_slots_that_they_cover() -> None:
    found = shares(
        Grid(HOUR_US),
        days(("2024-01-01", 25, 24, None)),
        life("2024-01-01T00:00:14", "2024-01-01T23:00"),
    )
    assert told(found) == [("2024-01-01", 25, 24, 1.0)]


def test_any_grid_counts_as_plain_python_does() -> None:
    rng = random.Random(5)
    for step in (60, 300, 900, 3600, 6 * 3600, 12 * 3600, 24 * 3600):
        start = rng.randrange(0, 5 * 86400 // step)
        slots = sorted({start + rng.randrange(0, 3 * 86400 // step + 1) for _ in range(60)})
        counts: dict[date, int] = {}
        due: dict[date, int] = {}
        for k in range(slots[0], slots[-1] + 1):
            day = (datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=k * step)).date()
            due[day] = due.get(day, 0) + 1
            counts[day] = counts.get(day, 0) + (k in slots)
        ends = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=k * step) for k in slots]
        found = shares(
            Grid(step * SECOND_US),
            days(*((str(day), n, None, None) for day, n in counts.items() if n)),
            life(ends[0].isoformat()[:-6], ends[-1].isoformat()[:-6]),
        )
        assert dict(found.select("day", "expected").rows()) == due
        assert dict(found.select("day", "rows").rows()) == counts


def test_a_bar_of_weeks_or_months_covers_each_of_its_days() -> None:
    week = rhythm_of(DATASETS["klines"], "spot", "1w")
    assert week is not None
    bars = pl.DataFrame(
        {"symbol": ["A", "A"], "time": [parse_time("2024-01-01"), parse_time("2024-01-15")]}
    ).with_columns(pl.col("time").cast(TIME))
    found = shares(week, days_of_bars(bars, week), life("2024-01-01", "2024-01-15"))
    assert found["share"].to_list() == [1.0] * 7 + [0.0] * 7 + [1.0] * 7
    assert found["expected"].unique().to_list() == [1]
    months = days_of_bars(bars.head(1), Months())
    assert months["day"].sort().to_list() == [date(2024, 1, 1) + timedelta(k) for k in range(31)]
    whole = shares(Months(), months, life("2024-01-01", "2024-01-01"))
    assert (whole.height, whole["share"].min()) == (31, 1.0)


def test_numbered_trades_are_measured_by_their_ids() -> None:
    found = shares(
        Ids("id"),
        days(("2024-01-01", 90, None, 100), ("2024-01-03", 5, None, 5)),
        life("2024-01-01T01:00", "2024-01-03T02:00"),
    )
    assert told(found) == [
        ("2024-01-01", 90, 100, 0.9),
        ("2024-01-02", 0, None, 0.0),
        ("2024-01-03", 5, 5, 1.0),
    ]


def test_funding_is_due_by_its_own_hours() -> None:
    found = shares(
        OwnHours("h"),
        days(
            ("2024-01-01", 1, None, 8),
            ("2024-01-02", 3, None, 24),
            ("2024-01-03", 2, None, 16),
            ("2024-01-05", 5, None, 20),
            ("2024-01-06", 4, None, 22),
            ("2024-01-07", 1, None, 8),
        ),
        life("2024-01-01T16:00:00.013", "2024-01-07T00:00:00.005"),
    )
    assert told(found) == [
        ("2024-01-01", 1, 1, 1.0),
        ("2024-01-02", 3, 3, 1.0),
        ("2024-01-03", 2, 3, 2 / 3),
        ("2024-01-04", 0, 3, 0.0),
        ("2024-01-05", 5, 6, 5 / 6),
        ("2024-01-06", 4, 4, 1.0),  # the rhythm changed: what came is what was due
        ("2024-01-07", 1, 1, 1.0),
    ]


def test_depth_is_due_each_minute_and_events_are_never_due() -> None:
    about = About(30 * SECOND_US, 30 * SECOND_US)
    found = shares(
        about,
        days(("2024-01-01", 28800, 1440, None), ("2024-01-02", 14400, 720, None)),
        life("2024-01-01T00:00:10", "2024-01-02T23:59:40"),
    )
    assert [round(share, 2) for share in found["share"]] == [1.0, 0.5]
    events = shares(
        None, days(("2024-01-01", 7, None, None)), life("2024-01-01T05:00", "2024-01-02T05:00")
    )
    assert told(events) == [("2024-01-01", 7, None, None), ("2024-01-02", 0, None, None)]


def test_symbols_do_not_share_days() -> None:
    lives = pl.concat(
        [life("2024-01-01", "2024-01-01T23:00"), life("2024-01-02", "2024-01-02T23:00", "B")]
    )
    counted = pl.concat(
        [days(("2024-01-01", 24, None, None)), days(("2024-01-02", 24, None, None), symbol="B")]
    )
    found = shares(Grid(HOUR_US), counted, lives)
    assert found.select("symbol", "share").rows() == [("A", 1.0), ("B", 1.0)]
    assert to_us(datetime(2024, 1, 2, tzinfo=UTC)) % DAY_US == 0
