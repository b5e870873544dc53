"""The rules as declared: complete, readable, and the same to both engines that read them."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

import polars as pl
import pytest

import lakehouse_ray
from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.checks.refusals import (
    OBJECT_REFUSALS,
    RECORD_REFUSALS,
    ROW_REFUSALS,
)
from lakehouse_ray.model.checks.registry import (
    find_rules,
    free_names,
    rules_by_name,
    rules_of,
    sequence_rules_of,
)
from lakehouse_ray.model.checks.rule import Rule
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.venue import INTERVALS

CASES = [
    (dataset.name, market, interval)
    for dataset in DATASETS.values()
    for market in dataset.archive
    for interval in (INTERVALS if dataset.bars else [None])
]


@pytest.mark.parametrize(("dataset", "market", "interval"), CASES)
def test_every_data_set_has_rules_that_name_its_columns(
    dataset: str, market: str, interval: str | None
) -> None:
    columns = set(DATASETS[dataset].table(interval).names)
    both = (rules_of(dataset, market, interval), sequence_rules_of(dataset, market))
    assert all(both)
    names = [rule.name for rule in chain(*both)]
    assert len(set(names)) == len(names)
    for rule in both[0]:
        assert not rule.needs_previous
    for rule in both[1]:
        assert rule.needs_previous
    for rule in chain(*both):
        assert rule.severity == "flag"
        asked = pl.sql_expr(rule.where).meta.root_names()
        assert {name.removeprefix("prev_").removesuffix("_us") for name in asked} <= columns


def test_a_name_is_a_code_and_a_doc_is_a_sentence() -> None:
    for name, rules in rules_by_name().items():
        assert re.fullmatch(r"[A-Z][A-Z0-9_]+", name)
        for rule in rules:
            assert rule.doc[0].isupper()
            assert rule.doc.endswith(".")


def test_every_reason_that_refuses_a_row_or_object_is_declared() -> None:
    """Reads the package for what stands as a reason: in errors, bad rows and results."""
    package = Path(lakehouse_ray.__file__).parent
    said: set[str] = set()
    for room in ("sources", "bronze", "silver", "model/records", "pipeline"):
        for file in sorted((package / room).rglob("*.py")):
            text = file.read_text()
            said |= set(re.findall(r'(?:BadDataError|BadRow)\(\s*"([A-Z0-9_]{4,})"', text))
            said |= set(
                re.findall(r'(?:"reason": |REASON = |_add\(result, None, )"([A-Z0-9_]{4,})"', text)
            )
            said |= set(re.findall(r'f?"([A-Z0-9_]{6,})\|', text))
    declared = {rule.name for rule in (*ROW_REFUSALS, *OBJECT_REFUSALS, *RECORD_REFUSALS)}
    # Chosen by what is missing: `"MISSING_FIELD" if missing else …`.
    assert said | {"MISSING_FIELD"} == declared


def test_refusals_are_kept_by_no_condition_on_rows() -> None:
    for rule in (*ROW_REFUSALS, *OBJECT_REFUSALS, *RECORD_REFUSALS):
        assert (rule.severity, rule.where) == ("reject", "")


def test_numbers_left_out_by_the_exchange_cost_nothing() -> None:
    assert free_names() == {"TRADE_ID_JUMP"}


def test_a_code_is_looked_up_by_name_and_an_unknown_one_gets_the_nearest() -> None:
    (rule,) = find_rules("ohlc")
    assert "high" in rule.doc
    assert len(find_rules("ZERO_PRICE")) > 1
    with pytest.raises(InvalidError) as caught:
        find_rules("OF_GRID")
    assert "OFF_GRID" in caught.value.hint


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("klines", "spot", None), "interval"),
        (("klines", "spot", "7m"), "7m"),
        (("kliness", "spot", "1m"), "kliness"),
        (("klines", "margin", "1m"), "margin"),
    ],
)
def test_rules_of_what_does_not_exist_are_an_error(
    arguments: tuple[str, str, str | None], said: str
) -> None:
    with pytest.raises(InvalidError, match=said):
        rules_of(*arguments)


def test_a_rule_says_itself_in_sql() -> None:
    rule = Rule("X", "flag", "Doc.", "t_us < prev_t_us OR a > prev_a")
    assert rule.sql("ORDER BY t") == (
        "epoch_us(t) < epoch_us(lag(t) OVER (ORDER BY t)) OR a > lag(a) OVER (ORDER BY t)"
    )
