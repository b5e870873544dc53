"""What is missing: the listing against the ledger, as pure functions of frames."""

from __future__ import annotations

import time
from datetime import date, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_ray.bronze.plan import FreqPolicy, Plan, make_units, plan_objects
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import DAY_US, TimeRange, day_range, month_range
from lakehouse_ray.sources.source import LISTING_SCHEMA
from lakehouse_ray.storage.ledger import events, latest_by_key

NOW_US = month_range(2025, 1).start_us
RULES = 3
KLINES = DATASETS["klines"]


def daily(day: int, month: int = 5, symbol: str = "BTCUSDT", **more: Any) -> dict[str, Any]:
    period = day_range(date(2024, month, 1) + timedelta(days=day - 1))
    return listed(f"daily/{symbol}-2024-{month:02d}-{day:02d}.zip", symbol, "daily", period, **more)


def monthly(month: int = 5, symbol: str = "BTCUSDT", **more: Any) -> dict[str, Any]:
    key = f"monthly/{symbol}-2024-{month:02d}.zip"
    return listed(key, symbol, "monthly", month_range(2024, month), **more)


def listed(
    key: str, symbol: str, freq: str, period: TimeRange, *, size: int = 100, etag: str = "e",
    checksum: str | None = "c", modified: int = 1,
) -> dict[str, Any]:  # fmt: skip
    return {
        "key": key, "symbol": symbol, "freq": freq, "period_start": period.start_us,
        "period_end": period.end_us, "size": size, "etag": etag, "checksum_etag": checksum,
        "last_modified": modified,
    }  # fmt: skip


def event(item: dict[str, Any], state: str = "built", run: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "market": "um", "dataset": "klines", "symbol": item["symbol"], "interval": "1h",
        "freq": item["freq"], "period_start": item["period_start"], "key": item["key"], "url": "",
        "etag": item["etag"], "checksum_etag": item["checksum_etag"],
        "last_modified": item["last_modified"], "size": item["size"], "published_sha256": "s",
        "sha256": "s", "version": "v", "path": "p", "state": state, "reason": None, "detail": None,
        "days_short": None, "rows": 1, "rows_quarantined": 0, "decoder_version": RULES,
        "unit_id": "u", "run_id": f"run-{run}", "seen_at": NOW_US - DAY_US // 2 + run,
        "fetched": True, **more,
    }  # fmt: skip


def plan(
    items: list[dict[str, Any]],
    log: list[dict[str, Any]] = [],  # noqa: B006 - never changed
    freq: FreqPolicy = "auto",
) -> Plan:
    ledger = latest_by_key(events(log).sort("seen_at", maintain_order=True))
    return plan_objects(
        KLINES, "um", "1h", pl.DataFrame(items, schema=LISTING_SCHEMA, orient="row"), ledger,
        freq=freq, decoder_version=RULES, attempts_max=3, now_us=NOW_US,
    )  # fmt: skip


def roles(made: Plan) -> dict[str, str]:
    return dict(made.todo.select("key", "role").iter_rows())


def test_a_monthly_file_is_taken_and_its_days_wait_until_it_is_read() -> None:
    month, day, alone = monthly(), daily(7), daily(1, month=6)
    assert roles(plan([month, day, alone])) == {
        month["key"]: "fetch", day["key"]: "candidate", alone["key"]: "fetch",
    }  # fmt: skip


def test_a_daily_file_newer_than_the_monthly_one_is_taken() -> None:
    newer = daily(7, modified=9)
    assert roles(plan([monthly(modified=5), newer]))[newer["key"]] == "fetch"


def test_days_that_the_monthly_file_is_known_to_lack_are_taken_and_no_others() -> None:
    month, lacking, whole = monthly(), daily(7), daily(8)
    made = plan([month, lacking, whole], [event(month, days_short="2024-05-07")])
    assert roles(made) == {lacking["key"]: "fetch"}
    assert made.skipped == 2


@pytest.mark.parametrize(("freq", "taken"), [("monthly", "monthly"), ("daily", "daily")])
def test_either_kind_alone_on_request(freq: FreqPolicy, taken: str) -> None:
    made = plan([monthly(), daily(1), daily(2)], freq=freq)
    assert {key.split("/")[0] for key in roles(made)} == {taken}
    assert set(roles(made).values()) == {"fetch"}


def test_what_is_built_as_it_is_listed_is_not_asked_for_again() -> None:
    item = daily(1)
    made = plan([item], [event(item)])
    assert (roles(made), made.skipped, made.sightings.height) == ({}, 1, 0)


@pytest.mark.parametrize("change", [{"etag": "other"}, {"etag": "", "size": 7}])
def test_what_is_listed_otherwise_than_it_was_built_is_fetched(change: dict[str, Any]) -> None:
    item = daily(1)
    assert roles(plan([item | change], [event(item)])) == {item["key"]: "fetch"}


def test_what_was_read_by_other_rules_is_read_again_from_bronze() -> None:
    item = daily(1)
    assert roles(plan([item], [event(item, decoder_version=RULES - 1)])) == {item["key"]: "stored"}


def refusals(item: dict[str, Any], runs: int, **more: Any) -> list[dict[str, Any]]:
    return [event(item, "quarantined", run, **more) for run in range(1, runs + 1)]


@pytest.mark.parametrize(("runs", "left_alone"), [(1, 0), (2, 0), (3, 1), (4, 1)])
def test_a_refused_object_is_left_alone_after_so_many_runs(runs: int, left_alone: int) -> None:
    item = daily(1)
    made = plan([item], refusals(item, runs))
    assert (made.left_alone, len(roles(made))) == (left_alone, 1 - left_alone)


@pytest.mark.parametrize(
    "change", [{"etag": "new"}, {"checksum_etag": "new"}, {"checksum_etag": None}]
)
def test_until_it_or_its_checksum_changes(change: dict[str, Any]) -> None:
    item = daily(1)
    assert roles(plan([item | change], refusals(item, 5))) == {item["key"]: "fetch"}


def test_or_the_rules_by_which_it_was_refused_do() -> None:
    item = daily(1)
    made = plan([item], refusals(item, 5, decoder_version=RULES - 1))
    assert roles(made) == {item["key"]: "fetch"}


def test_a_monthly_file_left_alone_covers_no_day() -> None:
    month, day = monthly(), daily(7)
    assert roles(plan([month, day], refusals(month, 3))) == {day["key"]: "fetch"}


def test_objects_that_share_rows_with_one_published_anew_are_merged_again_even_if_not_listed() -> (
    None
):
    before, changed, month, far = daily(6), daily(7), monthly(), daily(20)
    log = [event(item) for item in (before, changed, month, far)]
    made = plan([before, changed | {"etag": "new"}, far], log)
    assert roles(made) == {
        changed["key"]: "fetch", month["key"]: "stored",
    }  # fmt: skip


def test_an_object_not_seen_for_a_day_is_noted_once_more() -> None:
    item = daily(1)
    made = plan([item], [event(item, seen_at=NOW_US - 2 * DAY_US)])
    assert made.sightings["key"].to_list() == [item["key"]]


ITEMS = st.lists(
    st.one_of(
        st.builds(
            daily,
            st.integers(1, 31), st.sampled_from([1, 5, 12]),
            st.sampled_from(["A", "B", "C", "币安人生USDT"]), size=st.integers(1, 500),
        ),
        st.builds(
            monthly, st.sampled_from([1, 5, 12]), st.sampled_from(["A", "B"]),
            size=st.integers(1, 2000),
        ),
    ),
    unique_by=lambda item: item["key"],
    max_size=60,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(items=ITEMS, bytes_max=st.integers(1, 3000), name=st.sampled_from(["klines", "aggTrades"]))
def test_every_object_is_in_one_unit_and_those_that_may_share_rows_are_together(
    items: list[dict[str, Any]], bytes_max: int, name: str
) -> None:
    made = plan(items, freq="auto")
    fine = Plan(DATASETS[name], "um", "1m", *[getattr(made, n) for n in (
        "todo", "sightings", "skipped", "left_alone", "unrecognised")])  # fmt: skip
    units = list(make_units(fine, bytes_max=bytes_max, decoder_version=1))
    placed = [task.key for unit in units for task in unit.objects]
    assert sorted(placed) == sorted(made.todo["key"])
    for one in units:
        if len(one.symbols) > 1:
            assert sum(task.size for task in one.objects) <= bytes_max
        for other in units:
            if one is not other:
                assert not any(
                    a.symbol == b.symbol and a.period.overlaps(b.period)
                    for a in one.objects
                    for b in other.objects
                )
    assert len({unit.id for unit in units}) == len(units)


def test_a_hundred_thousand_keys_are_planned_in_seconds() -> None:
    days = [day_range(date(2020, 1, 1) + timedelta(days=n)) for n in range(1000)]
    items = [
        listed(f"S{s}-{d}", f"S{s}USDT", "daily", period)
        for s in range(100)
        for d, period in enumerate(days)
    ]
    frame = pl.DataFrame(items, schema=LISTING_SCHEMA, orient="row")
    started = time.perf_counter()
    made = plan_objects(
        KLINES, "um", "1m", frame, latest_by_key(events([])), freq="auto", decoder_version=1,
        attempts_max=3, now_us=NOW_US,
    )  # fmt: skip
    planned = time.perf_counter() - started
    objects = sum(
        len(unit.objects) for unit in make_units(made, bytes_max=32 << 20, decoder_version=1)
    )
    print(
        f"100,000 keys: planned in {planned:.2f} s, units in {time.perf_counter() - started:.2f} s"
    )
    assert objects == made.files == 100_000
