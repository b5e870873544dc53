"""Which days break which thresholds, and which of them are news."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.kernels.alerts import LOOKED_AT, alerts_of, runs_of, unheard
from lakehouse_ray.model.alerts import RULES, Thresholds

LIMITS = Thresholds(score=0.9, own_loss_rows_max=2, differing_share_max=0.05, anomalies_max=10)
GOOD = {"score": 1.0, "missing_own_loss": 0, "compared": 100, "differing": 0, "anomalies": 0}


def rules(**day: object) -> list[str]:
    return alerts_of(pl.DataFrame([GOOD | day], schema=LOOKED_AT), LIMITS)["rule"].to_list()


@pytest.mark.parametrize(
    ("at", "beyond", "rule"),
    [
        ({"score": 0.9}, {"score": 0.8999}, "score"),
        ({"missing_own_loss": 2}, {"missing_own_loss": 3}, "own_loss"),
        ({"differing": 5}, {"differing": 6}, "differing"),
        ({"anomalies": 10}, {"anomalies": 11}, "anomalies"),
    ],
)
def test_a_day_at_a_threshold_is_none_and_one_beyond_it_is_an_alert_of_this_rule(
    at: dict[str, object], beyond: dict[str, object], rule: str
) -> None:
    assert rules(**at) == []
    assert rules(**beyond) == [rule]


def test_what_was_not_measured_breaks_nothing() -> None:
    assert rules(**dict.fromkeys(GOOD)) == []
    assert rules(compared=0, differing=0) == []
    assert alerts_of(pl.DataFrame({"score": [0.5]}), LIMITS)["rule"].to_list() == ["score"]


def test_an_alert_says_what_the_day_has_and_what_it_may_have() -> None:
    found = alerts_of(pl.DataFrame([GOOD | {"differing": 7}], schema=LOOKED_AT), LIMITS)
    assert found.select("value", "threshold").rows() == [(0.07, 0.05)]


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "score": st.none() | st.floats(0, 1),
                "missing_own_loss": st.none() | st.integers(0, 5),
                "compared": st.none() | st.integers(0, 100),
                "differing": st.none() | st.integers(0, 100),
                "anomalies": st.none() | st.integers(0, 20),
            }
        ),
        max_size=20,
    )
)
def test_each_day_and_rule_is_judged_by_itself(days: list[dict[str, float | None]]) -> None:
    frame = pl.DataFrame(days, schema=LOOKED_AT).with_row_index("day")
    found = alerts_of(frame, LIMITS)
    wanted = []
    for number, day in enumerate(days):
        broken = {
            "score": day["score"] is not None and day["score"] < 0.9,
            "own_loss": (day["missing_own_loss"] or 0) > 2,
            "differing": bool(day["compared"])
            and day["differing"] is not None
            and day["differing"] / (day["compared"] or 1) > 0.05,
            "anomalies": (day["anomalies"] or 0) > 10,
        }
        wanted += [(number, rule) for rule in RULES if broken[rule]]
    assert sorted(found.select("day", "rule").rows()) == sorted(wanted)


START = datetime(2024, 1, 1, tzinfo=UTC)
TOLD = {"symbol": pl.String, "rule": pl.String, "codes": pl.String, "day": pl.Datetime("us", "UTC"),
        "last_day": pl.Datetime("us", "UTC")}  # fmt: skip
BROKEN = {"symbol": pl.String, "day": pl.Datetime("us", "UTC"), "rule": pl.String,
          "codes": pl.String, "score": pl.Float64, "value": pl.Float64}  # fmt: skip
Broken = tuple[str, int, str, str | None, float]


def at(day: int) -> datetime:
    return START + timedelta(days=day)


def broken(*days: Broken) -> pl.DataFrame:
    rows = [(symbol, at(day), rule, codes, 0.5, value) for symbol, day, rule, codes, value in days]
    return pl.DataFrame(rows, BROKEN, orient="row")


def hole(first: int, last: int, codes: str | None = "UNKNOWN") -> list[Broken]:
    return [("A", day, "score", codes, 0.5) for day in range(first, last + 1)]


def spans(runs: pl.DataFrame) -> list[tuple[int, int]]:
    return [
        ((first - START).days, (last - START).days)
        for first, last in runs.select("day", "last_day").iter_rows()
    ]


def test_a_hole_of_years_is_one_alert() -> None:
    (run,) = runs_of(broken(*hole(0, 1542))).iter_rows(named=True)
    assert (run["day"], run["last_day"], run["days"]) == (at(0), at(1542), 1543)


def test_a_run_ends_where_a_day_is_well_or_lost_by_something_else() -> None:
    days = [*hole(0, 2), *hole(4, 5), *hole(6, 7, "DIFFERS"), *hole(8, 8, None), *hole(9, 9, None)]
    assert spans(runs_of(broken(*days)).sort("day")) == [(0, 2), (4, 5), (6, 7), (8, 9)]


def test_the_same_losses_in_another_order_are_the_same() -> None:
    days = [*hole(0, 0, "UNKNOWN,DIFFERS"), *hole(1, 1, "DIFFERS,UNKNOWN")]
    assert spans(runs_of(broken(*days))) == [(0, 1)]
    told = pl.DataFrame([("A", "score", "DIFFERS,UNKNOWN", at(0), at(1))], TOLD, orient="row")
    assert unheard(runs_of(broken(*days)), told).is_empty()


def test_a_run_has_what_its_worst_day_has() -> None:
    days = [
        ("A", day, rule, "X", value)
        for rule in ("score", "anomalies")
        for day, value in enumerate((3.0, 1.0, 2.0, 9.0, 9.0))
    ]
    worst = {
        run["rule"]: ((run["worst_day"] - START).days, run["value"])
        for run in runs_of(broken(*days)).iter_rows(named=True)
    }
    assert worst == {"score": (1, 1.0), "anomalies": (3, 9.0)}


@pytest.mark.parametrize(
    ("told", "now", "news"),
    [
        ([], (0, 0), True),
        ([(0, 0)], (0, 0), False),
        ([(0, 0)], (0, 1), True),  # twice as long
        ([(0, 0), (0, 1)], (0, 2), False),
        ([(0, 0), (0, 1)], (0, 3), True),
        ([(0, 9)], (0, 18), False),
        ([(0, 9)], (0, 19), True),
        ([(5, 9)], (0, 9), True),  # it grew backwards
        ([(5, 9)], (1, 9), False),
        ([(0, 9)], (2, 5), False),  # some of it was mended
        ([(0, 4), (6, 9)], (0, 9), False),  # two became one
        (
            [(day, day) for day in range(30)],
            (0, 29),
            False,
        ),  # as they were told before there were runs
    ],
)
def test_what_goes_on_is_told_when_it_has_doubled(
    told: list[tuple[int, int]], now: tuple[int, int], news: bool
) -> None:
    rows = [("A", "score", "UNKNOWN", at(a), at(b)) for a, b in told]
    # Of another series, rule or reason.
    rows += [("B", "score", "UNKNOWN", at(0), at(50)), ("A", "anomalies", "UNKNOWN", at(0), at(50)),
             ("A", "score", None, at(0), at(50))]  # fmt: skip
    found = unheard(runs_of(broken(*hole(*now))), pl.DataFrame(rows, TOLD, orient="row"))
    assert spans(found) == ([now] if news else [])
    assert found.columns == runs_of(broken(*hole(*now))).columns


@given(
    st.sets(
        st.tuples(
            st.sampled_from("AB"),
            st.integers(0, 12),
            st.sampled_from(["score", "anomalies"]),
            st.sampled_from([None, "X", "Y"]),
        ),
        max_size=30,
    )
)
def test_runs_hold_every_day_once_and_none_that_is_well(
    days: set[tuple[str, int, str, str | None]],
) -> None:
    # A series has each day once per rule.
    chosen = {(symbol, day, rule): codes for symbol, day, rule, codes in days}
    given_ = [(s, d, r, codes, 0.5) for (s, d, r), codes in chosen.items()]
    found = runs_of(broken(*given_))
    told = []
    for run in found.iter_rows(named=True):
        first, last = ((run[name] - START).days for name in ("day", "last_day"))
        assert run["days"] == last - first + 1
        told += [(run["symbol"], d, run["rule"], run["codes"]) for d in range(first, last + 1)]
        for beside in (first - 1, last + 1):
            assert chosen.get((run["symbol"], beside, run["rule"]), "") != run["codes"]
    assert sorted(map(str, told)) == sorted(str((s, d, r, c)) for s, d, r, c, _ in given_)
    assert unheard(found, found.select(*TOLD)).is_empty()
    assert unheard(found, found.select(*TOLD).head(0)).equals(found)
