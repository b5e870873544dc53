"""Marks of files that are damaged in many ways, against the rules that the lake names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from support.marks import assert_marks_are_those_of_the_rules

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.bronze.plan import FreqPolicy
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.venue import Market
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.settings import Settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import Faults, ReplicaExchange, Rule, SyntheticArchive

pytestmark = pytest.mark.integration

KINDS: tuple[tuple[Market, str, str | None], ...] = (
    ("spot", "klines", "1m"),
    ("spot", "klines", "1h"),
    ("um", "klines", "1h"),
    ("cm", "klines", "1h"),
    ("um", "markPriceKlines", "1h"),
    ("um", "premiumIndexKlines", "1h"),
    ("spot", "aggTrades", None),
    ("spot", "trades", None),
    ("um", "metrics", None),
    ("um", "bookDepth", None),
    ("um", "bookTicker", None),
    ("um", "fundingRate", None),
)
FAULTS = Faults(
    (
        # Of the rules that match a file the first one spoils its rows.
        Rule("*metrics*", "blank_cells", params={"rows": 9}),
        Rule("*lines/*-06-27*", "off_grid", params={"rows": 7}),
        Rule("*lines/*-06-28*", "early_close", params={"rows": 3}),
        Rule("*-06-28*", "missing_rows", params={"from": 0.4, "to": 0.6}),
        Rule("*-06-29*", "stale_values", params={"rows": 20}),
        Rule("*-06-30*", "untyped_cell", params={"rows": 4}),
        Rule("*-07-01*", "conflicting_key", params={"rows": 4}),
        Rule("*-07-02*", "unordered_rows", params={"rows": 30}),
    ),
    seed=11,
)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    home = tmp_path_factory.mktemp("marks") / "home"
    archive = SyntheticArchive(
        9,
        ["BTCUSDT", "BTCUSD_PERP"],
        ("spot", "um", "cm"),
        date(2024, 6, 27),
        date(2024, 7, 3),
        trades_per_minute=2,
    )
    with ReplicaExchange(archive, FAULTS) as exchange:
        writer = Writer(
            Settings(
                home=home,
                binance={"archive_url": exchange.url},
                compute={"local_bytes_max": 1 << 40},
            )
        )
        for market, dataset, interval in KINDS:
            freq: FreqPolicy = "monthly" if dataset == "fundingRate" else "daily"
            ingest(writer, IngestRequest(Selection(DATASETS[dataset], market, interval), freq))
        yield Reader(writer.settings).lake


def test_what_damaged_files_break_is_what_the_conditions_of_the_rules_find(lake: Lake) -> None:
    found = assert_marks_are_those_of_the_rules(lake)
    broken = {(dataset, rule) for dataset, _, _, rule in found}
    assert broken >= {
        ("klines", "OFF_GRID"),
        ("klines", "CUT_SHORT"),
        ("metrics", "BLANK"),
        ("aggTrades", "AGG_ID_JUMP"),
        ("trades", "TRADE_ID_JUMP"),
    }


def test_what_is_refused_is_there_once_with_its_source(lake: Lake) -> None:
    found = lake.sql(
        "select dataset, rule, source_key, count(*) n from silver.violations "
        "where severity = 'reject' group by all"
    ).pl()
    log = lake.sql(
        "select dataset, reason as rule, source_key, count(*) n from silver.quarantine group by all"
    ).pl()
    order = ["dataset", "rule", "source_key"]
    assert found.sort(order).equals(log.sort(order))
    assert {"UNTYPED_CELL", "CONFLICTING_KEY"} <= set(found["rule"])


def examples(language: str) -> list[str]:
    text = (Path(__file__).parents[2] / "docs/checks.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("query", examples("sql"))
def test_the_examples_in_sql_answer_something(lake: Lake, query: str) -> None:
    assert not lake.sql(query).pl().is_empty()


@pytest.mark.parametrize("block", examples("python"))
def test_the_examples_in_python_answer_something(lake: Lake, block: str) -> None:
    for line in block.splitlines():
        assert not eval(line, {"lake": lake, "pl": pl}).is_empty()


def test_a_statement_that_names_a_rule_looks_at_no_neighbours_for_others(lake: Lake) -> None:
    def windows(rule: str) -> int:
        statement = f"select count(*) from silver.violations where rule = '{rule}'"
        (plan,) = lake.sql(f"explain (format json) {statement}").rows()
        return int(plan["explain_value"].count('"WINDOW"'))

    assert windows("OHLC") == 0
    assert windows("AGG_ID_JUMP") == 1
    assert windows("TRADE_ID_JUMP") == 2  # of trades and of joined trades
