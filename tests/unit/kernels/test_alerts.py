"""Which days break which thresholds."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.kernels.alerts import LOOKED_AT, alerts_of
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
