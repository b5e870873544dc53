"""Lives from two accounts of the same symbols are those of all their rows together."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.query.lives import HOLE_US, RUNS, joined

START = datetime(2024, 1, 1, tzinfo=UTC)
HOLE = timedelta(microseconds=HOLE_US)
HOURS = st.lists(st.tuples(st.sampled_from("AB"), st.integers(0, 900)), max_size=14)


def lives(rows: list[tuple[str, int]]) -> pl.DataFrame:
    """By hand, of bars of an hour that all have trades."""
    found: list[dict[str, object]] = []
    end: dict[str, datetime] = {}
    for symbol, hour in sorted(set(rows)):
        opened = START + timedelta(hours=hour)
        closed = opened + timedelta(hours=1)
        if symbol not in end or opened - end[symbol] >= HOLE:
            found.append({"symbol": symbol, "first_row": opened, "days": set()})
        end[symbol] = closed
        last = found[-1]
        last |= {"last_row": opened, "row_end": closed, "trade_end": closed}
        assert isinstance(last["days"], set)
        last["days"].add(opened.date())
    told = [{**one, "days": len(one["days"])} for one in found]  # type: ignore[arg-type]
    return pl.DataFrame(told, schema=RUNS).sort("symbol", "first_row")


@given(HOURS, HOURS)
def test_joined_lives_are_those_of_all_rows(
    some: list[tuple[str, int]], others: list[tuple[str, int]]
) -> None:
    wanted = lives(some + others)
    found = joined(lives(some), lives(others))
    assert found.drop("days").equals(wanted.drop("days"))
    # Days are counted without knowing which they are: exact where lives follow each other.
    assert (found["days"] <= lives(some)["days"].sum() + lives(others)["days"].sum()).all()


def test_days_that_both_have_count_once() -> None:
    stored = lives([("A", hour) for hour in range(60)])
    live = lives([("A", hour) for hour in range(58, 75)])
    assert joined(stored, live)["days"].to_list() == [4]
