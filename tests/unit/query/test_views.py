"""Which names a statement mentions, and which it may have meant."""

from __future__ import annotations

import pytest

from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.query.views import TABLES, VIEWS, mentioned, nearest


def names(query: str) -> set[str]:
    return {view.name for view in mentioned(query)}


def test_every_data_set_and_every_physical_table_has_a_name() -> None:
    for dataset in DATASETS.values():
        assert f"silver.{dataset.view}" in VIEWS
        assert {table.name for table in dataset.tables} <= VIEWS.keys()
    assert {"bronze.objects", "silver.quarantine", *TABLES} <= VIEWS.keys()


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("select 1", set()),
        ("select * from silver.klines", {"silver.klines"}),
        ('SELECT * FROM "SILVER"."KLINES_FINE" k', {"silver.klines_fine"}),
        ("use silver; from metrics", {"silver.metrics"}),
        (
            "select * from silver.metrics join silver.funding_rates using (symbol)",
            {"silver.metrics", "silver.funding_rates"},
        ),
    ],
)
def test_only_mentioned_tables_are_planned(query: str, wanted: set[str]) -> None:
    assert names(query) == wanted


@pytest.mark.parametrize("query", ["show all tables", "from information_schema.tables"])
def test_who_asks_what_there_is_sees_everything(query: str) -> None:
    assert names(query) == set(VIEWS)


def test_mistyped_names_are_guessed() -> None:
    assert nearest("silver.klins")[0] == "silver.klines"
    assert nearest("object")[0] == "bronze.objects"
    assert nearest("zzz") == []
