"""Rows carry what they break, whichever way they come into the table, and can be asked in SQL."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from support.marks import assert_marks_are_those_of_the_rules, by_violations

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.check import flag_rows
from lakehouse_ray.model.checks.registry import rules_of
from lakehouse_ray.model.dataset import FLAGS, Dataset
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.table import Column, ColumnType, Partition, Table
from lakehouse_ray.model.timespan import day_range, month_range
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.statement import Engine
from lakehouse_ray.storage.catalog import TableCatalog
from lakehouse_ray.storage.committer import Committer
from lakehouse_ray.storage.schemas import bucket_of

MakeLake = Callable[..., Any]
DAY = day_range(date(2024, 1, 30))
NEXT = day_range(date(2024, 1, 31))
MONTH = month_range(2024, 1)
MINUTE_US = 60_000_000
# Its rows lie in the same files.
NEIGHBOUR = next(s for i in range(999) if bucket_of(s := f"S{i}USDT") == bucket_of("BTCUSDT"))


class BeforeMarks(Dataset):
    """A data set as it was declared before its tables had the column `flags`."""

    def _table(self, name: str, layout: tuple[Partition, ...]) -> Table:
        table = super()._table(name, layout)
        return replace(table, columns=tuple(c for c in table.columns if c != FLAGS))


def before_marks(name: str) -> BeforeMarks:
    dataset = DATASETS[name]
    return BeforeMarks(**{field: getattr(dataset, field) for field in Dataset.__match_args__})


def text(us: int) -> str:
    return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us):%Y-%m-%d %H:%M:%S}"


def bar(us: int, number: int, rng: random.Random) -> str:
    """Mostly fine; some with a high below the low, trades without volume, beside the grid, cut."""
    high, volume, trades, end = rng.choice([(12, 1, 1, 59_999)] * 12 + [
        (8, 1, 1, 59_999), (12, 0, 3, 59_999), (12, 1, 0, 59_999), (0, 1, 1, 59_999),
        (12, 1, 1, 20_000), (12, 1, 1, 60_000), (12, 1, 1, 130_000), (12, -1, 1, 59_999),
    ])  # fmt: skip
    t = us // 1000 + rng.choice([0] * 12 + [1])
    return f"{t},10,{high},9,11,{volume},{t + end},{volume * 10},{trades},{volume / 2},{volume},0"


def joined_trade(us: int, number: int, rng: random.Random) -> str:
    price, amount, first = rng.choice([("9.5", "1.5", 0)] * 9 + [
        ("0", "1.5", 0), ("-1", "0", 0), ("9.5", "0", 0), ("9.5", "1.5", -1), ("9.5", "1.5", 1),
    ])  # fmt: skip
    first = -1 if first < 0 else 3 * number + first
    last = -1 if first < 0 else 3 * number + rng.choice([2, 2, 2, 3, -5])
    return f"{number},{price},{amount},{first},{last},{us // 1000},true"


def sample(us: int, number: int, rng: random.Random) -> str:
    cells = [rng.choice(["1.5"] * 9 + ["", "0", "-1", "2000000"]) for _ in range(6)]
    return f"{text(us + rng.choice([0, 0, 1_000_000]))},BTCUSDT,{','.join(cells)}"


def depth(us: int, number: int, rng: random.Random) -> str:
    percentage = (-5, -4, -3, -2, -1, 1, 2, 3, 4, 5)[number % 10]
    amount = rng.choice([100 * abs(percentage)] * 5 + [0, -3, 7])
    return f"{text(us - number % 10 * MINUTE_US)},{percentage}.00,{amount},{abs(amount) or 1}"


MAKERS = {"klines": bar, "aggTrades": joined_trade, "metrics": sample, "bookDepth": depth}


def csv(name: str, start_us: int, count: int, seed: int, first: int = 1000) -> bytes:
    rng = random.Random(seed)
    make = MAKERS[name]
    lines = [make(start_us + i * 5 * MINUTE_US, first + i, rng) for i in range(count)]
    return "".join(f"{line}\n" for line in lines).encode()


def lake_of(make_lake: MakeLake, dataset: Dataset, **more: object) -> Any:
    return make_lake(dataset, "um", "1m" if dataset.bars else None, **more)


def reader(small: Any) -> Lake:
    return Lake(TableCatalog(small.access).find, Engine(small.store, small.root / "tmp"))


def assert_marked(small: Any) -> pl.DataFrame:
    """Hold what is stored to the kernel, and what the lake says to the conditions that it names."""
    stored = small.frame().sort(small.table.key)
    rules = rules_of(small.dataset.name, "um", small.interval)
    expected = flag_rows(rules, stored)
    assert expected is not None, "nothing is broken in these rows"
    assert stored["flags"].to_list() == expected.to_list()
    assert_marks_are_those_of_the_rules(reader(small))
    return stored


@pytest.mark.parametrize("large", [False, True], ids=["in memory", "on disk"])
@pytest.mark.parametrize("name", MAKERS)
def test_rows_are_marked_with_what_they_break(make_lake: MakeLake, name: str, large: bool) -> None:
    small = lake_of(make_lake, DATASETS[name], csv_bytes_in_memory=0 if large else 1 << 30)
    small.publish("BTCUSDT", "daily", DAY, csv(name, DAY.start_us, 200, seed=1))
    small.ingest()
    stored = assert_marked(small)
    assert 10 < stored["flags"].null_count() < 190


@pytest.mark.parametrize("large", [False, True], ids=["in memory", "on disk"])
@pytest.mark.parametrize("name", ["klines", "aggTrades"])
def test_rows_that_stay_keep_their_marks_and_those_that_go_take_theirs_along(
    make_lake: MakeLake, name: str, large: bool
) -> None:
    small = lake_of(make_lake, DATASETS[name], csv_bytes_in_memory=0 if large else 1 << 30)
    small.publish("BTCUSDT", "monthly", MONTH, csv(name, DAY.start_us, 400, seed=1))
    small.publish(NEIGHBOUR, "monthly", MONTH, csv(name, DAY.start_us, 50, seed=2))
    small.ingest()
    before = assert_marked(small)
    # Published anew: other rows break other things.
    small.publish("BTCUSDT", "daily", NEXT, csv(name, NEXT.start_us, 100, seed=3, first=1288))
    small.ingest()
    after = assert_marked(small)
    stays = after.filter(source="monthly")
    assert 300 < stays.height < before.height
    kept = before.join(stays, on=list(small.table.key), how="semi")
    assert kept.sort(small.table.key)["flags"].to_list() == stays["flags"].to_list()
    replaced = after.filter(source="daily")
    assert replaced["flags"].drop_nulls().len() > 5


def test_a_file_published_anew_without_its_errors_takes_the_marks_away(
    make_lake: MakeLake,
) -> None:
    small = lake_of(make_lake, DATASETS["klines"])
    small.publish("BTCUSDT", "daily", DAY, csv("klines", DAY.start_us, 100, seed=1))
    small.ingest()
    lake = reader(small)
    (snapshot,) = {s for s in lake.sql("from silver.klines").snapshots.values() if s}
    found = by_violations(lake)
    fine = "".join(
        f"{t},10,12,9,11,1,{t + 59_999},10,1,0.5,1,0\n"
        for t in range(DAY.start_us // 1000, DAY.start_us // 1000 + 100 * 60_000, 60_000)
    )
    small.publish("BTCUSDT", "daily", DAY, fine.encode())
    small.ingest()
    assert not by_violations(lake)
    then = lake.sql(
        "select rule, count(*) as n from silver.violations group by rule", as_of=snapshot
    )
    marks = {row["rule"]: row["n"] for row in then.rows()}
    assert marks == {key[3]: n for key, n in found.items()}
    assert marks["OHLC"] > 0


def test_a_jump_across_files_is_there_until_the_file_between_them_comes(
    make_lake: MakeLake,
) -> None:
    small = lake_of(make_lake, DATASETS["aggTrades"])
    lake = reader(small)
    days = [day_range(date(2024, 1, number)) for number in (5, 6, 7)]

    def publish(at: int) -> None:
        first = at * 10
        rows = (
            f"{n},9.5,1,{n},{n},{days[at].start_us // 1000 + n},true\n"
            for n in range(first, first + 10)
        )
        small.publish("BTCUSDT", "daily", days[at], "".join(rows).encode())
        small.ingest()

    def violations() -> list[tuple[str, datetime]]:
        query = "select rule, time, severity from silver.violations order by time, rule"
        return [(row["rule"], row["time"]) for row in lake.sql(query).rows()]

    publish(0)
    assert violations() == []
    publish(2)
    second = datetime(2024, 1, 7, tzinfo=UTC) + timedelta(milliseconds=20)
    assert violations() == [("AGG_ID_JUMP", second)]
    assert small.frame()["flags"].null_count() == 20
    publish(1)
    assert violations() == []


def test_what_is_refused_is_a_violation_of_severity_reject(make_lake: MakeLake) -> None:
    small = lake_of(make_lake, DATASETS["aggTrades"])
    t = DAY.start_us // 1000
    lines = [
        f"1,9.5,1,1,1,{t},true",
        f"2,9.5,,2,2,{t},true",  # null
        f"3,nine,1,3,3,{t},true",  # untyped
        f"4,9.5,1,4,4,{t},true",
        f"4,9.6,1,4,4,{t},true",  # the same key, another price
        f"5,9.5,1,5,5,{t - 1000},true",  # of the day before
        f"6,9.5,1,6,6,{t}",
        f"7,0,1,7,7,{t},true",
    ]
    key = small.publish("BTCUSDT", "daily", DAY, "\n".join(lines).encode())
    small.ingest()
    lake = reader(small)
    found = lake.sql("select * from silver.violations").pl()
    rejected = found.filter(severity="reject")
    assert sorted(rejected["rule"]) == [
        "CONFLICTING_KEY", "CONFLICTING_KEY", "OUTSIDE_PERIOD", "UNTYPED_CELL", "UNTYPED_CELL",
        "WRONG_CELL_COUNT",
    ]  # fmt: skip
    assert set(found["source_key"]) == {key}
    assert set(found["symbol"]) == {"BTCUSDT"}
    assert set(found["dataset"]) == {"aggTrades"}
    assert rejected["time"].null_count() == rejected.height
    named = lake.sql("select rule from silver.rules where severity = 'reject'").pl()
    assert set(rejected["rule"]) <= set(named["rule"])
    assert small.frame().sort("agg_trade_id")["flags"].to_list() == [None, "ZERO_PRICE"]


# Tables from before they had the column.


def old_and_new(make_lake: MakeLake, name: str) -> tuple[Any, Any]:
    """The same rows in a table of either kind; the old one is then gone on with as it is now."""
    old, new = (lake_of(make_lake, kind) for kind in (before_marks(name), DATASETS[name]))
    for small in (old, new):
        small.publish("BTCUSDT", "monthly", MONTH, csv(name, DAY.start_us, 300, seed=4))
        small.publish(NEIGHBOUR, "monthly", MONTH, csv(name, DAY.start_us, 50, seed=5))
        small.ingest()
    assert "flags" not in old.frame().columns
    return old, new


def go_on(old: Any) -> None:
    """Open the old table as a run of now does."""
    old.dataset = DATASETS[old.dataset.name]
    old.table = old.dataset.table(old.interval)
    old.committer = Committer(old.access, old.table, "run of now")


@pytest.mark.parametrize("name", ["klines", "metrics"])
def test_rows_from_before_the_column_are_marked_when_they_are_read(
    make_lake: MakeLake, name: str
) -> None:
    old, new = old_and_new(make_lake, name)
    view = f"from silver.{DATASETS[name].view} order by all"
    wanted = reader(new).sql(view).pl()
    assert wanted["flags"].null_count() < wanted.height
    assert reader(old).sql(view).pl().equals(wanted)
    found = assert_marks_are_those_of_the_rules(reader(old))
    assert found == by_violations(reader(new))


@pytest.mark.parametrize("name", ["klines", "aggTrades"])
def test_an_old_table_gets_the_column_and_its_past_stays(make_lake: MakeLake, name: str) -> None:
    old, new = old_and_new(make_lake, name)
    view = f"from silver.{DATASETS[name].view} order by all"
    lake = reader(old)
    before = lake.sql(view)
    (snapshot,) = {s for s in before.snapshots.values() if s}
    past = before.pl()
    go_on(old)
    assert lake.sql(view).pl().equals(past), "the column alone changes nothing"
    for small in (old, new):
        small.publish("BTCUSDT", "daily", NEXT, csv(name, NEXT.start_us, 100, seed=6, first=1288))
        small.publish("SOLUSDT", "daily", NEXT, csv(name, NEXT.start_us, 100, seed=7))
        small.ingest()
    now = lake.sql(view).pl()
    assert now.equals(reader(new).sql(view).pl())
    assert assert_marks_are_those_of_the_rules(lake) == by_violations(reader(new))
    # What was written again holds its marks, also for engines that know no rules.
    assert old.frame().sort(old.table.key)["flags"].to_list() == (
        new.frame().sort(new.table.key)["flags"].to_list()
    )
    assert lake.sql(view, as_of=snapshot).pl().equals(past)
    assert (
        lake.rows(name, "BTCUSDT", market="um", interval=old.interval, as_of=snapshot)
        .collect()
        .equals(past.filter(symbol="BTCUSDT").sort(old.table.sort))
    )


def test_a_run_of_an_old_version_may_go_on_beside_one_of_now(make_lake: MakeLake) -> None:
    """It writes files without the column into a table that has it."""
    old, new = old_and_new(make_lake, "klines")
    go_on(lake_of(lambda *_, **__: replace_lake(old), DATASETS["klines"]))
    for small in (old, new):
        small.publish("SOLUSDT", "daily", NEXT, csv("klines", NEXT.start_us, 100, seed=7))
        small.ingest()
    view = "from silver.klines order by all"
    assert reader(old).sql(view).pl().equals(reader(new).sql(view).pl())


def replace_lake(small: Any) -> Any:
    """The same folder, opened by another run."""
    return replace(small, objects=dict(small.objects), log=list(small.log), built=[])


def test_many_runs_that_begin_at_once_add_the_column_once(make_lake: MakeLake) -> None:
    old, _ = old_and_new(make_lake, "klines")
    table = DATASETS["klines"].table("1m")
    opened: list[Any] = []
    barrier = threading.Barrier(6)

    def open_it() -> None:
        catalog = TableCatalog(old.access)
        barrier.wait()
        opened.append(catalog.open(table))

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 6
    for found in [*opened, TableCatalog(old.access).find(table.name)]:
        assert [field.name for field in found.schema().fields] == list(table.names)
        assert found.schema().find_field("flags").field_id == len(table.columns)
        assert len(found.schemas()) == 2


@pytest.mark.parametrize("kind", ["long", "string"])
def test_a_column_that_another_engine_added_is_not_taken_for_ours(
    make_lake: MakeLake, kind: ColumnType
) -> None:
    old, _ = old_and_new(make_lake, "klines")
    theirs = replace(old.table, columns=(*old.table.columns, Column("mine", kind, "")))
    TableCatalog(old.access).open(theirs)
    with pytest.raises(InvalidError, match=r"'mine'.*not 'flags'") as caught:
        go_on(old)
    assert "another engine" in caught.value.hint


def test_a_column_that_another_engine_renamed_is_still_ours(make_lake: MakeLake) -> None:
    _, new = old_and_new(make_lake, "klines")
    wanted = reader(new).sql("from silver.klines order by all").pl()
    found = TableCatalog(new.access).find(new.table.name)
    assert found is not None
    with found.update_schema() as update:
        update.rename_column("flags", "marks")
    new.committer = Committer(new.access, new.table, "another run")
    assert reader(new).sql("from silver.klines order by all").pl().equals(wanted)
