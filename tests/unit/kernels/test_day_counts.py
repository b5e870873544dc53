"""What is counted of a symbol's days, and which rules their rows break."""

from __future__ import annotations

import polars as pl

from lakehouse_ray.kernels.day_counts import DAY_COUNTS_SCHEMA, day_counts, rules_together
from lakehouse_ray.kernels.quality import score_days
from lakehouse_ray.model.timespan import DAY_US

TIMES = pl.Series([0, 1, DAY_US, DAY_US + 1, 2 * DAY_US], dtype=pl.Int64).cast(
    pl.Datetime("us", "UTC")
)
FLAGS = pl.Series(["OHLC,BLANK", "BLANK", None, "FREE", "FREE,OHLC"])


def test_days_name_each_rule_that_costs_once() -> None:
    counts = day_counts(TIMES, FLAGS, {"FREE"})
    assert counts.schema == DAY_COUNTS_SCHEMA
    assert counts["rows_flagged"].to_list() == [2, 0, 1]
    assert counts["rules"].to_list() == ["BLANK, OHLC", None, "OHLC"]


def test_pieces_of_a_day_name_the_rules_of_the_whole() -> None:
    parts = [day_counts(TIMES[k : k + 1], FLAGS[k : k + 1], {"FREE"}) for k in range(5)]
    whole = pl.concat(parts).group_by("day").agg(rules_together()).sort("day")
    assert whole["rules"].to_list() == ["BLANK, OHLC", None, "OHLC"]


def test_rows_without_flags_break_no_rule() -> None:
    assert day_counts(TIMES, None)["rules"].to_list() == [None] * 3


def test_a_score_says_which_rules_its_rows_break() -> None:
    counts = day_counts(TIMES[:2], FLAGS[:2]).with_columns(rows_expected=pl.lit(2))
    names = {name: pl.lit("x") for name in ("market", "dataset", "symbol", "interval")}
    (reason,) = score_days(counts.with_columns(**names))["reasons"].item()
    assert reason == "FLAGGED: 2 of 2 rows break a rule: BLANK, OHLC (-0.225)"
