"""What is missing and what was refused, cut by day: against DuckDB, and the parts against the whole."""

from __future__ import annotations

from datetime import UTC, datetime

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_ray.kernels.day_gaps import (
    MISSING_SCHEMA,
    REFUSED_SCHEMA,
    missing_by_day,
    refused_by_day,
)
from lakehouse_ray.model.timespan import DAY_US, HOUR_US, MINUTE_US

TIME = pl.Datetime("us", "UTC")
GAPS = {
    "symbol": pl.String, "start_time": TIME, "end_time": TIME, "missing": pl.Int64,
    "cause": pl.String,
}  # fmt: skip
# Some day far from the epoch.
BASE_US = 19_700 * DAY_US


def gaps_of(rows: list[tuple[str, int, int, int, str]]) -> pl.DataFrame:
    plain = {name: pl.Int64 if kind == TIME else kind for name, kind in GAPS.items()}
    return pl.DataFrame(rows, schema=plain, orient="row").cast(GAPS)  # type: ignore[arg-type]


def ask(query: str, **frames: pl.DataFrame) -> pl.DataFrame:
    with duckdb.connect() as database:
        database.execute("set timezone = 'UTC'")
        for name, frame in frames.items():
            database.register(name, frame.to_arrow())
        return database.sql(query).pl()


causes = st.sampled_from(["outage", "halted", "unknown"])


@st.composite
def grid_gaps(draw: st.DrawFn, step_us: int) -> pl.DataFrame:
    """Holes of whole slots: what a grid has."""
    per_day = DAY_US // step_us
    spans = draw(
        st.lists(
            st.tuples(
                st.sampled_from("AB"),
                st.integers(0, 5 * per_day),
                st.integers(1, 4 * per_day),
                causes,
            ),
            max_size=6,
        )
    )
    return gaps_of(
        [
            (symbol, BASE_US + start * step_us, BASE_US + (start + slots) * step_us, slots, cause)
            for symbol, start, slots, cause in spans
        ]
    )


# Each missing slot by itself, on the day it begins.
SLOTS = """
select symbol, date_trunc('day', slot) as day, cause, count(*) as missing from (
    select symbol, cause,
           unnest(generate_series(start_time, end_time - interval ({step}) microsecond,
                                  interval ({step}) microsecond)) as slot
    from gaps
) group by all order by all
"""


@pytest.mark.parametrize("step_us", [MINUTE_US * 5, HOUR_US, 8 * HOUR_US, DAY_US])
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_slots_of_a_grid_are_missing_on_the_day_they_belong_to(
    data: st.DataObject, step_us: int
) -> None:
    gaps = data.draw(grid_gaps(step_us))
    found = missing_by_day(gaps)
    assert found.schema == MISSING_SCHEMA
    wanted = ask(SLOTS.format(step=step_us), gaps=gaps)
    assert found.rows() == wanted.cast(MISSING_SCHEMA).rows()


any_gaps = st.lists(
    st.tuples(
        st.sampled_from("AB"),
        st.integers(BASE_US, BASE_US + 5 * DAY_US),
        st.integers(1, 9 * DAY_US),
        st.integers(1, 10**7),
        causes,
    ),
    max_size=6,
).map(lambda rows: gaps_of([(s, a, a + length, n, c) for s, a, length, n, c in rows]))


@settings(deadline=None, max_examples=20)
@given(any_gaps)
def test_the_days_of_a_hole_add_up_to_the_hole(gaps: pl.DataFrame) -> None:
    found = missing_by_day(gaps)
    key = ["symbol", "cause"]
    parts = found.group_by(key).agg(pl.col("missing").sum()).sort(key)
    assert parts.rows() == gaps.group_by(key).agg(pl.col("missing").sum()).sort(key).rows()
    assert found["missing"].min() is None or found["missing"].min() > 0  # type: ignore[operator]


@settings(deadline=None, max_examples=20)
@given(any_gaps)
def test_rows_are_missing_on_no_day_outside_the_hole(gaps: pl.DataFrame) -> None:
    days = ask(
        "select distinct symbol, cause, unnest(generate_series(date_trunc('day', start_time), "
        "end_time - interval 1 microsecond, interval 1 day)) as day from gaps",
        gaps=gaps,
    ).cast({"day": TIME})
    assert missing_by_day(gaps).join(days, on=["symbol", "cause", "day"], how="anti").is_empty()


@settings(deadline=None, max_examples=20)
@given(any_gaps)
def test_of_bars_longer_than_a_day_one_is_missing_on_every_day_of_the_hole(
    gaps: pl.DataFrame,
) -> None:
    wanted = ask(
        "select symbol, day, cause, count(*) as missing from (select symbol, cause, "
        "unnest(generate_series(date_trunc('day', start_time), end_time - interval 1 microsecond, "
        "interval 1 day)) as day from gaps) group by all order by all",
        gaps=gaps,
    )
    found = missing_by_day(gaps, long=True)
    assert found.rows() == wanted.cast(MISSING_SCHEMA).rows()


def test_nothing_missing_is_no_day() -> None:
    assert missing_by_day(gaps_of([])).rows() == []
    empty = gaps_of([("A", BASE_US, BASE_US, 3, "halted")])
    assert missing_by_day(empty).rows() == []


def refused(start: datetime, end: datetime, *lines: str | None) -> list[tuple[str, datetime, int]]:
    frame = pl.DataFrame(
        [("A", start, end, line) for line in lines],
        schema={"symbol": pl.String, "period_start": TIME, "period_end": TIME, "raw": pl.String},
        orient="row",
    )
    found = refused_by_day(frame)
    assert found.schema == REFUSED_SCHEMA
    return found.rows()


def at(month: int, day: int, hour: int = 0) -> datetime:
    return datetime(2024, month, day, hour, tzinfo=UTC)


def ms(moment: datetime) -> str:
    return str(int(moment.timestamp() * 1000))


APRIL = at(4, 1), at(5, 1)


@pytest.mark.parametrize(
    ("line", "day"),
    [
        (f"{ms(at(4, 17, 23))},1,2,x", 17),
        (f"{ms(at(4, 17, 23))}000,1,2,x", 17),  # microseconds
        (f'"{ms(at(4, 30, 23))}","1"', 30),
        (f"77,{ms(at(4, 9))},x", 9),  # an id first
        (f"{ms(at(5, 1))},{ms(at(4, 9))},x", 9),  # the first one is of another month
        (f"{ms(at(5, 1))},x", 1),  # none is within: the first day
        ("no time at all", 1),
        ("", 1),
        (None, 1),
        (f"1{ms(at(4, 17))},x", 1),  # fourteen digits are no time
    ],
)
def test_a_line_of_a_month_is_of_the_day_that_it_says(line: str | None, day: int) -> None:
    assert refused(*APRIL, line) == [("A", at(4, day), 1)]


def test_lines_of_a_day_are_of_that_day_whatever_they_say() -> None:
    lines = (f"{ms(at(4, 20))},x", "?", None)
    assert refused(at(4, 17), at(4, 18), *lines) == [("A", at(4, 17), 3)]


def test_lines_are_counted_by_day() -> None:
    lines = [f"{ms(at(4, day, hour))},x" for day, hour in ((3, 1), (3, 2), (9, 1))]
    assert refused(*APRIL, *lines) == [("A", at(4, 3), 2), ("A", at(4, 9), 1)]
    assert refused(*APRIL) == []
