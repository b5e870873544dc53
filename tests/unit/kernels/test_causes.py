"""Each cause by the facts that name it, and no cause without facts."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from lakehouse_ray.kernels.causes import (
    FACTS,
    alive_around,
    classify,
    file_facts,
    known_outages,
)
from lakehouse_ray.model.gaps import CAUSES
from lakehouse_ray.model.outages import OUTAGES, known_outage
from lakehouse_ray.model.timespan import HOUR_US, TimeRange, parse_time

TIME = pl.Datetime("us", "UTC")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def gap(**facts: Any) -> tuple[str, str]:
    base = {
        "symbol": "A", "start_time": at("2024-01-05"), "end_time": at("2024-01-05T10:00"),
        "missing": 10, "place": "inside",
    }  # fmt: skip
    row = base | facts
    schema = {name: FACTS[name] for name in facts if name in FACTS}
    found = classify(pl.DataFrame([row], schema_overrides=schema))
    assert set(found.columns) == {*row, "cause", "evidence"}
    cause, evidence = found.select("cause", "evidence").row(0)
    assert cause in CAUSES
    assert evidence
    return cause, evidence


INSIDE_FILES = {"covered": True, "cut": True, "file": "data/A.zip"}


@pytest.mark.parametrize(
    ("facts", "cause", "words"),
    [
        ({"place": "before"}, "not_listed", "first row"),
        ({"place": "before", "unread": "file X is gone"}, "unknown", "file X is gone"),
        ({"place": "after", "ended": "so", "unread": "file X is gone"}, "unknown", "file X is gone"),
        ({**INSIDE_FILES, "alive": 9, "showing": 0, "unread": "X"}, "unknown", "cannot be read: X"),
        ({"refused": "data/B.zip", "refused_reason": "BAD", "unread": "X"}, "unknown", "read: X"),
        ({"outage": "that day", "unread": "X"}, "outage", "that day; other symbols were not"),
        ({"place": "after", "ended": "its name says so"}, "delisted", "its name says so"),
        ({"place": "after", "covered": True}, "delisted", "inside a verified file"),
        ({"place": "after"}, "unknown", "still to come"),
        ({"outage": "that day, somewhere", "alive": 3, "showing": 0}, "outage", "that day"),
        ({**INSIDE_FILES, "alive": 9, "showing": 0}, "outage", "0 of 9 other symbols"),
        ({**INSIDE_FILES, "alive": 9, "showing": 1}, "outage", "1 of 9 other symbols"),
        ({**INSIDE_FILES, "alive": 9, "showing": 3}, "halted", "3 of 9 other symbols"),
        # Three that stand still are not the whole market.
        ({**INSIDE_FILES, "alive": 3, "showing": 0}, "unknown", "0 of 3 other symbols"),
        ({**INSIDE_FILES, "alive": 0, "showing": 0}, "unknown", "no other symbol"),
        # Nobody has a file: the archive may lack it, or nobody has asked for it yet.
        ({"adjoined": True, "alive": 9, "showing": 0}, "unknown", "no file of that time"),
        ({"adjoined": True, "alive": 9, "showing": 9}, "unknown", "no file of that time"),
        # Without files of this very series around it, its files need not ever have been asked for.
        (
            {"alive": 9, "showing": 9},
            "unknown", "nobody has its files from 2024-01-05T00:00Z to 2024-01-05T10:00Z",
        ),
        ({"cut": True, "alive": 9, "showing": 9}, "halted", "inside a verified file"),
        (
            {"refused": "data/A.zip", "refused_reason": "CHECKSUM_MISMATCH", "alive": 9,
             "showing": 0},
            "own_loss", "data/A.zip was refused: CHECKSUM_MISMATCH",
        ),
        (
            {**INSIDE_FILES, "refused": "data/B.zip", "refused_reason": "BAD_ZIP", "alive": 1,
             "showing": 1},
            "own_loss", "data/B.zip was refused",
        ),
        ({**INSIDE_FILES, "refused_rows": 10}, "own_loss", "10 rows of its files were refused"),
        ({**INSIDE_FILES, "refused_rows": 9, "alive": 1, "showing": 1}, "halted", ""),
        (
            {**INSIDE_FILES, "other": "1h bars", "other_rows": 2, "alive": 1, "showing": 1},
            "archive_hole", "1h bars have 2 rows then",
        ),
        ({**INSIDE_FILES, "ids_joined": True, "alive": 1, "showing": 1}, "no_trades", "trade ids"),
        ({**INSIDE_FILES, "idle": "5m bars", "alive": 1, "showing": 1}, "no_trades", "5m bars"),
        ({}, "unknown", "not compared"),
    ],
)  # fmt: skip
def test_facts_name_the_cause(facts: dict[str, Any], cause: str, words: str) -> None:
    found, evidence = gap(**facts)
    assert found == cause
    assert words in evidence


def test_a_known_outage_counts_before_a_file_that_was_refused() -> None:
    assert gap(outage="then", refused="x", refused_reason="y")[0] == "outage"


def test_known_outages_are_in_order_apart_from_each_other_and_named() -> None:
    for before, after in itertools.pairwise(OUTAGES):
        assert before.end_us < after.start_us
    assert all(outage.start_us < outage.end_us and outage.source for outage in OUTAGES)


@pytest.mark.parametrize(
    ("market", "start", "end", "known"),
    [
        ("spot", "2018-06-26T02:00", "2018-06-26T12:00", True),
        ("spot", "2018-06-26T02:00", "2018-06-26T12:59", True),  # came back later than others
        ("spot", "2018-06-26T03:00", "2018-06-26T04:00", True),
        ("um", "2018-06-26T02:00", "2018-06-26T12:00", False),  # another market
        ("spot", "2018-06-25T02:00", "2018-06-26T12:00", False),  # much longer than the outage
        ("spot", "2018-06-26T12:00", "2018-06-26T12:30", False),  # only beside it
        ("spot", "2018-06-26T01:30", "2018-06-26T02:00", False),
        ("spot", "2024-01-01", "2024-01-02", False),
    ],
)
def test_a_hole_is_of_a_known_outage_where_it_lies_in_it(
    market: str, start: str, end: str, known: bool
) -> None:
    holes = pl.DataFrame({"start_time": [at(start)], "end_time": [at(end)]}).cast(TIME)
    assert known_outages(holes, market).height == int(known)
    span = TimeRange(parse_time(start), parse_time(end))
    assert (known_outage(market, span) is not None) == known


def test_who_is_alive_around_a_hole_has_rows_before_and_after_it() -> None:
    hours = [0, 5, 10, 0]
    ends = [20, 20, 20, 12]
    lives = pl.DataFrame(
        {"symbol": list("ABCD"), "first_time": hours, "last_time": ends},
    ).with_columns((pl.col("first_time", "last_time") * HOUR_US).cast(TIME))
    holes = pl.DataFrame({"start_time": [8, 11], "end_time": [12, 13]}).select(
        (pl.all() * HOUR_US).cast(TIME)
    )
    found = dict(alive_around(holes, lives).sort("start_time").select("start_time", "alive").rows())
    # Of A, B, D the one that has the hole is taken off; of A, B, C likewise.
    assert list(found.values()) == [2, 2]


OBJECT = {"symbol": "A", "built": True, "reason": None, "rows_quarantined": 0}


def facts_of(
    start: str, end: str, objects: list[dict[str, Any]], edge_us: int = 0
) -> dict[str, Any]:
    holes = pl.DataFrame({"symbol": ["A"], "start_time": [at(start)], "end_time": [at(end)]})
    files = pl.DataFrame(
        [
            OBJECT | {"key": f"{o['start']}.zip", **o, "period_start": at(o["start"]),
                      "period_end": at(o["end"])}
            for o in objects
        ],
        schema={
            "symbol": pl.String, "key": pl.String, "period_start": TIME, "period_end": TIME,
            "built": pl.Boolean, "reason": pl.String, "rows_quarantined": pl.Int64,
        },
    )  # fmt: skip
    cast = holes.with_columns(pl.col("start_time", "end_time").cast(TIME))
    return file_facts(cast, files, edge_us).row(0, named=True)


def day(number: int, **values: Any) -> dict[str, Any]:
    return {"start": f"2024-01-{number:02d}", "end": f"2024-01-{number + 1:02d}", **values}


def test_a_hole_inside_files_is_covered_by_them_across_their_edges() -> None:
    found = facts_of("2024-01-02T22:00", "2024-01-03T02:00", [day(2), day(3)])
    assert (found["covered"], found["cut"], found["file"]) == (True, True, "2024-01-02.zip")
    whole = facts_of("2024-01-02", "2024-01-03", [day(1), day(2), day(3)])
    assert (whole["covered"], whole["cut"]) == (True, True)


def test_whole_files_that_are_not_there_are_seen_from_the_edges_of_a_hole() -> None:
    around = [day(1), day(4)]
    found = facts_of("2024-01-02", "2024-01-04", around)
    assert (found["covered"], found["cut"], found["file"]) == (False, False, None)
    for start, end in (("2024-01-01T23:00", "2024-01-04"), ("2024-01-02", "2024-01-04T01:00")):
        found = facts_of(start, end, around)
        assert (found["covered"], found["cut"]) == (False, True)


def test_files_whose_rows_begin_a_step_late_are_whole_all_the_same() -> None:
    around = [day(1), day(4)]
    span = "2024-01-02T00:05", "2024-01-04T00:05"
    assert facts_of(*span, around)["cut"]
    found = facts_of(*span, around, edge_us=HOUR_US // 12)
    assert (found["cut"], found["adjoined"]) == (False, True)


@pytest.mark.parametrize(
    ("objects", "adjoined"),
    [
        ([day(1), day(4)], True),
        ([{"start": "2023-12-01", "end": "2024-01-02"}, day(4)], True),  # months and days alike
        ([day(1)], False),
        ([day(4)], False),
        ([day(1), day(5)], False),  # of the fourth day there is no file either
        ([day(1), day(4, built=False, reason="BAD_ZIP")], False),  # no verified file of the fourth
        ([day(1), day(4, symbol="B")], False),  # of another symbol
        ([], False),
    ],
)
def test_files_adjoin_a_hole_only_on_both_its_sides(
    objects: list[dict[str, Any]], adjoined: bool
) -> None:
    found = facts_of("2024-01-02", "2024-01-04", objects)
    assert (found["adjoined"], found["covered"], found["cut"]) == (adjoined, False, False)


def test_a_monthly_file_covers_what_a_refused_daily_one_would_have_given() -> None:
    month = {"start": "2024-01-01", "end": "2024-02-01", "rows_quarantined": 3}
    refused = day(2, built=False, reason="BAD_ZIP")
    found = facts_of("2024-01-02T04:00", "2024-01-02T05:00", [month, refused])
    assert found["covered"]
    assert (found["refused"], found["refused_reason"]) == ("2024-01-02.zip", "BAD_ZIP")
    assert found["refused_rows"] == 3
    alone = facts_of("2024-01-02", "2024-01-03", [day(1), refused, day(3)])
    assert (alone["covered"], alone["refused"]) == (False, "2024-01-02.zip")


def test_without_a_ledger_nothing_is_claimed_of_files() -> None:
    found = facts_of("2024-01-02", "2024-01-03", [])
    assert (found["covered"], found["cut"], found["refused"]) == (False, False, None)
    assert not found["adjoined"]
