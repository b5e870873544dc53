"""Ranges of time and their spelling, against Python's own calendar."""

from __future__ import annotations

import calendar
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.timespan import (
    DAY_US,
    TimeRange,
    day_range,
    days_of,
    format_time,
    from_us,
    month_of,
    month_ordinal,
    month_range,
    parse_time,
    to_us,
)

MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)).map(  # noqa: DTZ001 - UTC is added
    lambda moment: moment.replace(tzinfo=UTC)
)
RANGES = st.tuples(st.integers(-50, 50), st.integers(1, 30)).map(
    lambda pair: TimeRange(pair[0], pair[0] + pair[1])
)


@given(MOMENTS)
def test_a_time_is_read_back_to_the_microsecond(moment: datetime) -> None:
    us = to_us(moment)
    assert from_us(us) == moment
    assert parse_time(format_time(us)) == us


@given(RANGES, RANGES)
def test_ranges_overlap_and_contain_as_sets_of_instants_do(a: TimeRange, b: TimeRange) -> None:
    one, other = set(range(a.start_us, a.end_us)), set(range(b.start_us, b.end_us))
    assert a.overlaps(b) == bool(one & other)
    assert a.contains(b) == (other <= one)


@pytest.mark.parametrize("year", [1970, 1999, 2000, 2023, 2024, 2100])
def test_months_and_days_are_those_of_the_calendar(year: int) -> None:
    for month in range(1, 13):
        span = month_range(year, month)
        days = list(days_of(span))
        assert days == [
            date(year, month, 1) + timedelta(days=n)
            for n in range(calendar.monthrange(year, month)[1])
        ]
        assert span == TimeRange(day_range(days[0]).start_us, day_range(days[-1]).end_us)
        for us in (span.start_us, span.end_us - 1):
            assert month_of(month_ordinal(us)) == span
        assert month_ordinal(span.end_us) == month_ordinal(span.start_us) + 1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2024", datetime(2024, 1, 1, tzinfo=UTC)),
        ("2024-02", datetime(2024, 2, 1, tzinfo=UTC)),
        ("2024-02-29", datetime(2024, 2, 29, tzinfo=UTC)),
        ("2024-02-29T12:30", datetime(2024, 2, 29, 12, 30, tzinfo=UTC)),
        ("2024-02-29 12:30:05.25Z", datetime(2024, 2, 29, 12, 30, 5, 250_000, tzinfo=UTC)),
        ("2024-02-29T12:30:05+00:00", datetime(2024, 2, 29, 12, 30, 5, tzinfo=UTC)),
    ],
)
def test_times_are_iso_and_utc(text: str, wanted: datetime) -> None:
    assert parse_time(text) == to_us(wanted)


@pytest.mark.parametrize(
    "text", ["", "2023-02-29", "2024-13", "2024-1", "01-02-2024", "2024-01-01T12:00+02:00", "now"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidError):
        parse_time(text)


@pytest.mark.parametrize("length", [0, -DAY_US])
def test_a_range_that_does_not_begin_before_it_ends_is_refused(length: int) -> None:
    with pytest.raises(InvalidError):
        TimeRange(0, length)
