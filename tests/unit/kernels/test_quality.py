"""The quality score: against the example worked by hand, and against plain Python."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_ray.kernels.anomaly import FINDINGS_SCHEMA
from lakehouse_ray.kernels.quality import (
    CAUSES,
    COUNTS_SCHEMA,
    SCORES_SCHEMA,
    CauseWeights,
    QualityWeights,
    score_days,
)
from lakehouse_ray.kernels.recommend import GAPS_SCHEMA, RECOMMENDATIONS_SCHEMA, recommend
from lakehouse_ray.model.quality import ANOMALIES, QUALITY

DAY = datetime(2024, 5, 6, tzinfo=UTC)
KEY = {"market": "spot", "dataset": "klines", "symbol": "BTCUSDT", "interval": "1m", "day": DAY}


def counts(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame([{**KEY, **row} for row in rows], schema_overrides=COUNTS_SCHEMA)


def score(**row: Any) -> dict[str, Any]:
    return score_days(counts(row)).row(0, named=True)


def test_the_example_of_the_documentation() -> None:
    # docs/quality.md works it by hand; here it is worked in fractions.
    row = score(
        rows_expected=1440, rows=1400, rows_flagged=28, rows_quarantined=4, missing_outage=20,
        missing_own_loss=10, compared=96, differing=3, delay_hours=84.0, anomalies=7,
    )  # fmt: skip
    completeness = 1 - Fraction(20, 10 * 1440) - Fraction(10 + 4 + 6, 1440)
    validity = 1 - (Fraction(28, 2) + 4) / 1404
    consistency = 1 - Fraction(3, 96)
    timeliness = 1 - Fraction(84 - 48, 720 - 48)
    normality = 1 - (Fraction(7, 1400) - Fraction(1, 1000)) / Fraction(19, 1000)
    total = completeness * (
        1
        - Fraction(45, 100) * (1 - validity)
        - Fraction(35, 100) * (1 - consistency)
        - Fraction(10, 100) * (1 - timeliness)
        - Fraction(10, 100) * (1 - normality)
    )
    assert row["score"] == pytest.approx(float(total), abs=1e-12)
    assert round(row["score"], 4) == 0.9423
    for name, value in (
        ("completeness", completeness), ("validity", validity), ("consistency", consistency),
        ("timeliness", timeliness), ("normality", normality),
    ):  # fmt: skip
        assert row[name] == pytest.approx(float(value), abs=1e-12)
    assert row["rows_missing"] == 40
    assert row["codes"] == [
        "ANOMALIES", "DIFFERS", "OWN_LOSS", "LATE", "FLAGGED", "UNKNOWN", "REFUSED", "OUTAGE",
        "QUARANTINED",
    ]  # fmt: skip
    assert row["reasons"][2] == (
        "OWN_LOSS: 10 of 1440 rows are missing: refused or lost: their file is known (-0.0069)"
    )


def test_a_whole_day_has_the_score_1_and_no_reasons() -> None:
    row = score(rows_expected=1440, rows=1440, compared=24, delay_hours=6.0, anomalies=1)
    assert (row["score"], row["codes"], row["reasons"]) == (1.0, [], [])


def test_what_was_not_measured_is_null_and_costs_nothing() -> None:
    row = score(rows_expected=24, rows=24)
    assert row["score"] == 1.0
    assert row["consistency"] is None
    assert row["timeliness"] is None
    assert row["normality"] is None


def test_an_outage_of_the_exchange_costs_a_tenth_of_a_loss_of_ours() -> None:
    outage = score(rows_expected=1440, rows=1296, missing_outage=144)["score"]
    own = score(rows_expected=1440, rows=1296, missing_own_loss=144)["score"]
    assert (1 - outage) * 10 == pytest.approx(1 - own)
    assert own == pytest.approx(0.9)


@pytest.mark.parametrize("cause", ["not_listed", "delisted", "no_trades"])
def test_rows_that_nobody_could_expect_are_not_expected(cause: str) -> None:
    row = score(rows_expected=1440, rows=40, **{f"missing_{cause}": 1400})
    assert (row["score"], row["codes"], row["rows_missing"]) == (1.0, [], 0)
    # Of the 40 that remain, each counts as a fortieth.
    row = score(rows_expected=1440, rows=30, **{f"missing_{cause}": 1400})
    assert row["score"] == pytest.approx(0.75)
    assert row["codes"] == ["UNKNOWN"]


def test_a_day_on_which_nothing_could_be_expected_has_no_score() -> None:
    assert score(rows_expected=1440, rows=0, missing_not_listed=1440)["score"] is None
    assert score(rows_expected=0, rows=0)["score"] is None
    assert score(rows=0)["score"] is None


def test_a_day_that_is_missing_has_the_score_0() -> None:
    row = score(rows_expected=1440, rows=0)
    assert row["score"] == 0.0
    assert row["codes"] == ["UNKNOWN"]


def test_a_data_set_without_a_rhythm_is_there_or_not() -> None:
    assert score(rows=100)["score"] == 1.0
    row = score(rows=0, rows_quarantined=5)
    assert (row["score"], row["codes"][0]) == (0.0, "NO_ROWS")


def test_anomalies_alone_cannot_bring_a_day_below_the_threshold() -> None:
    row = score(rows_expected=24, rows=24, anomalies=24)
    assert row["score"] >= 0.9
    assert row["codes"] == ["ANOMALIES"]


def test_one_odd_hour_of_a_day_costs_little() -> None:
    row = score(rows_expected=24, rows=24, anomalies=1)
    assert row["score"] == pytest.approx(1 - 0.1 * (1 / 288 - 0.001) / 0.019)


def test_weights_can_be_others() -> None:
    weights = QualityWeights(validity=1.0, flagged=1.0, causes=CauseWeights(outage=0.0))
    frame = counts({"rows_expected": 10, "rows": 5, "rows_flagged": 1, "missing_outage": 5})
    assert score_days(frame, weights)["score"].item() == pytest.approx(0.8)


def python_score(row: dict[str, Any]) -> float | None:
    """The formula once more, of one row."""
    weights = {
        "own_loss": 1.0, "unknown": 1.0, "archive_hole": 1.0, "outage": 0.1, "halted": 0.1,
        "no_trades": 0.0, "not_listed": 0.0, "delisted": 0.0,
    }  # fmt: skip
    expected, rows, refused = row["rows_expected"], row["rows"], row["rows_quarantined"]
    seen = rows + refused
    completeness = 1.0
    if expected is not None:
        missing = {cause: row[f"missing_{cause}"] for cause in weights}
        lost = sum(weights[cause] * n for cause, n in missing.items())
        lost += max(0, expected - rows - sum(missing.values()))
        base = max(0, expected - sum(n for cause, n in missing.items() if not weights[cause]))
        if base == 0 and seen == 0:
            return None
        if base > 0:
            completeness = max(0.0, 1 - lost / base)
    elif seen == 0:
        return None
    elif rows == 0:
        completeness = 0.0
    taken = 0.0
    if seen:
        taken += 0.45 * min(1.0, (0.5 * row["rows_flagged"] + refused) / seen)
    if row["compared"]:
        taken += 0.35 * min(1.0, row["differing"] / row["compared"])
    if row["delay_hours"] is not None:
        taken += 0.1 * min(1.0, max(0.0, (row["delay_hours"] - 48) / 672))
    if row["anomalies"] is not None and rows:
        taken += 0.1 * min(1.0, max(0.0, (row["anomalies"] / max(rows, 288) - 0.001) / 0.019))
    return min(1.0, max(0.0, completeness * (1 - taken)))


few = st.integers(0, 40)
day_rows = st.fixed_dictionaries(
    {
        "rows_expected": st.none() | st.integers(0, 200),
        "rows": st.integers(0, 200),
        "rows_flagged": few,
        "rows_quarantined": few,
        "compared": st.none() | st.integers(0, 50),
        "differing": few,
        "delay_hours": st.none() | st.floats(0, 2000),
        "anomalies": st.none() | few,
        **{f"missing_{cause}": few for cause in CAUSES},
    }
)


@settings(deadline=None)
@given(st.lists(day_rows, min_size=1, max_size=8))
def test_scores_are_those_of_plain_python(rows: list[dict[str, Any]]) -> None:
    scored = score_days(counts(*rows))
    assert scored.schema == SCORES_SCHEMA
    for found, row in zip(scored.to_dicts(), rows, strict=True):
        expected = python_score(row)
        assert found["score"] == (None if expected is None else pytest.approx(expected, abs=1e-12))
        if found["score"] is not None and found["score"] < 1 - 1e-9:
            assert found["codes"]
        losses = [float(reason.rpartition("(-")[2].rstrip(")")) for reason in found["reasons"]]
        assert losses == sorted(losses, reverse=True)
        assert [reason.partition(":")[0] for reason in found["reasons"]] == found["codes"]
        plain = row["rows_expected"] is None or sum(
            row[f"missing_{cause}"] for cause in CAUSES
        ) + row["rows"] <= row["rows_expected"]  # fmt: skip
        shares = row["rows_flagged"] <= row["rows"] and row["differing"] <= (row["compared"] or 0)
        if expected and plain and shares:
            # What is lost is told, to the rounding of what is printed.
            assert sum(losses) == pytest.approx(1 - expected, abs=1e-4 * max(1, len(losses)))


def test_many_days_are_scored_at_once_and_keep_their_order() -> None:
    rows = [
        {"day": DAY + timedelta(days=i), "rows_expected": 10, "rows": i % 11} for i in range(500)
    ]
    scored = score_days(counts(*rows))
    assert scored["day"].to_list() == [row["day"] for row in rows]
    assert scored["score"].to_list() == pytest.approx([row["rows"] / 10 for row in rows])


def test_no_days_are_scored_to_no_days() -> None:
    assert score_days(pl.DataFrame(schema=COUNTS_SCHEMA)).schema == SCORES_SCHEMA


def test_the_tables_hold_what_the_kernels_give() -> None:
    assert [name for name in QUALITY.names if name not in ("run_id", "scored_at")] == list(
        SCORES_SCHEMA
    )
    findings = [name for name in ANOMALIES.names if name in FINDINGS_SCHEMA]
    assert set(findings) == set(FINDINGS_SCHEMA)
    for table in (QUALITY, ANOMALIES):
        assert {*table.key, *table.sort, table.time} <= set(table.names)


def gaps(*rows: tuple[str, int, int, int, str]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                **{name: KEY[name] for name in ("market", "dataset", "interval")},
                "symbol": symbol,
                "start": DAY + timedelta(hours=start),
                "end": DAY + timedelta(hours=end),
                "missing": missing,
                "cause": cause,
            }
            for symbol, start, end, missing, cause in rows
        ],
        schema=GAPS_SCHEMA,
    )


def test_gaps_that_can_be_filled_are_recommended_and_explained_ones_are_not() -> None:
    found = recommend(
        score_days(pl.DataFrame(schema=COUNTS_SCHEMA)),
        gaps(
            ("A", 0, 1, 60, "outage"),
            ("B", 0, 2, 120, "archive_hole"),
            ("C", 0, 1, 60, "own_loss"),
            ("D", 0, 3, 180, "unknown"),
            ("E", 0, 3, 180, "not_listed"),
            ("F", 0, 3, 180, "halted"),
        ),
    )
    assert found.schema == RECOMMENDATIONS_SCHEMA
    assert found.select("action", "symbol", "rows").rows() == [
        ("fetch_again", "C", 60),
        ("fetch", "D", 180),
        ("fill_gap", "B", 120),
    ]
    assert found["start"].to_list() == [DAY] * 3
    assert found["end"][0] == DAY + timedelta(hours=1)
    assert "lost on the way" in found["reason"][0]
    # Trades of another series tell that rows are missing, not that a file has them.
    assert "may have the rows" in found["reason"][2]


@pytest.mark.parametrize(
    ("gap", "advised"),
    [
        (("A", 0, 1, 60, "own_loss"), [("fetch_again", 60)]),
        (("A", 0, 1, 2, "unknown"), [("fetch_again", 2)]),
        (("A", 0, 1, 60, "unknown"), [("fetch_again", 2), ("fetch", 60)]),
        # It goes on to a day of which nothing was refused.
        (("A", 23, 25, 2, "unknown"), [("fetch_again", 2), ("fetch", 2)]),
        (("B", 0, 1, 2, "unknown"), [("fetch_again", 2), ("fetch", 2)]),
    ],
)
def test_what_was_refused_is_told_once(
    gap: tuple[str, int, int, int, str], advised: list[tuple[str, int]]
) -> None:
    rows = {"symbol": "A", "rows_expected": 1440, "rows": 1438, "rows_quarantined": 2}
    found = recommend(score_days(counts(rows)), gaps(gap))
    assert found.select("action", "rows").rows() == advised


def test_a_number_of_one_is_told_as_one() -> None:
    one = {"rows_expected": 25, "rows": 24, "missing_own_loss": 1, "rows_flagged": 1, "compared": 24,
           "differing": 1, "anomalies": 1, "rows_quarantined": 1}  # fmt: skip
    (told,) = score_days(counts(one))["reasons"].to_list()
    sentences = {reason.partition(" (")[0] for reason in told}
    assert sentences >= {
        "OWN_LOSS: 1 of 25 rows is missing: refused or lost: their file is known",
        "FLAGGED: 1 of 24 rows breaks a rule",
        "QUARANTINED: 1 of 25 rows was refused",
        "DIFFERS: 1 of 24 compared rows differs from another source",
        "ANOMALIES: 1 finding in 24 rows",
    }


def test_days_in_a_row_are_one_recommendation() -> None:
    rows = [
        {"day": DAY + timedelta(days=i), "symbol": symbol, "rows": 100, "rows_quarantined": 2}
        for symbol, days in (("A", (0, 1, 2, 5)), ("B", (3,)))
        for i in days
    ]
    found = recommend(score_days(counts(*rows)), pl.DataFrame(schema=GAPS_SCHEMA))
    assert found.select("symbol", "rows", "start", "end").rows() == [
        ("A", 6, DAY, DAY + timedelta(days=3)),
        ("A", 2, DAY + timedelta(days=5), DAY + timedelta(days=6)),
        ("B", 2, DAY + timedelta(days=3), DAY + timedelta(days=4)),
    ]
    assert set(found["action"]) == {"fetch_again"}


def test_odd_rows_are_worth_a_look_only_where_the_score_is_poor() -> None:
    rows = [
        {"symbol": "FINE", "rows_expected": 100, "rows": 100, "rows_flagged": 10},
        {"symbol": "POOR", "rows_expected": 100, "rows": 100, "rows_flagged": 90},
        {"symbol": "APART", "rows_expected": 100, "rows": 100, "compared": 100, "differing": 1},
    ]
    found = recommend(score_days(counts(*rows)), pl.DataFrame(schema=GAPS_SCHEMA))
    assert found.select("action", "symbol", "rows").rows() == [
        ("fetch_again", "APART", 1),
        ("inspect", "POOR", 90),
    ]
