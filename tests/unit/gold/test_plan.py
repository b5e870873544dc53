"""Which units are stale: by what they read, and by nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.products import LIVES, RANKS, STEPS

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.gold.plan import BuildScope, Logged, Output, ProductPlan, plan_product
from lakehouse_ray.gold.recipe import Recipe
from lakehouse_ray.gold.registry import RECIPES, in_order
from lakehouse_ray.gold.tasks import make_tasks
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.product import ALL_SYMBOLS, Input, Product, ProductUnit
from lakehouse_ray.model.products.registry import PRODUCTS
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import month_ordinal, parse_time
from lakehouse_ray.storage.files import ANY, FileEntry, FileIndex, PartitionKey, Region, matches
from lakehouse_ray.storage.groups import RowGroup
from lakehouse_ray.storage.schemas import bucket_of

FINE, COARSE = KLINES.tables


def group(
    path: str,
    symbol: str,
    first: str,
    last: str,
    *,
    table: Table = FINE,
    interval: str = "1m",
    rows: int = 100,
    number: int = 0,
) -> RowGroup:
    start_us, end_us = parse_time(first), parse_time(last)
    key: PartitionKey = ("spot", interval, month_ordinal(start_us), bucket_of(symbol))
    region = Region(key, symbol, symbol, start_us, end_us)
    return RowGroup(table.name, path, number, region, rows, 10 * rows)


def plan(
    groups: Iterable[RowGroup],
    log: dict[ProductUnit, Logged] | None = None,
    *,
    product: Product = STEPS,
    scope: BuildScope | None = None,
    output: Output | None = None,
    rebuild: bool = False,
) -> ProductPlan:
    inputs = {item.name: list(groups) for item in product.inputs}
    return plan_product(
        product, scope or BuildScope(), inputs, output or Output(), log or {}, rebuild=rebuild
    )


def logged(done: ProductPlan, sequence: int = 1) -> dict[ProductUnit, Logged]:
    """As if everything stale had been built."""
    return {
        s.unit: Logged(s.fingerprint, f"content of {s.fingerprint}", s.rows_read, 1, sequence)
        for s in done.stale
    }


def units(done: ProductPlan) -> list[str]:
    return [str(item.unit) for item in done.stale]


MAY = group("may", "AAA", "2024-05-03", "2024-05-30")
JUNE = group("june", "AAA", "2024-06-01", "2024-06-07")


def test_what_was_never_built_is_stale_and_what_was_is_current() -> None:
    first = plan([MAY, JUNE])
    assert units(first) == ["spot 1m AAA 2024-05", "spot 1m AAA 2024-06"]
    second = plan([MAY, JUNE], logged(first))
    assert (units(second), second.current) == ([], 2)
    assert len(plan([MAY, JUNE], logged(first), rebuild=True).stale) == 2


def test_a_unit_reads_its_symbol_and_period_and_what_is_declared_around_it() -> None:
    late = group("may 31", "AAA", "2024-05-31", "2024-05-31T12:00")
    other = group("other", "BBB", "2024-05-03", "2024-05-30")
    found = {
        str(s.unit): sorted(g.path for g in s.inputs["bars"])
        for s in plan([MAY, late, JUNE, other]).stale
    }
    assert found == {
        "spot 1m AAA 2024-05": ["may", "may 31"],
        "spot 1m AAA 2024-06": ["june", "may 31"],
        "spot 1m BBB 2024-05": ["other"],
    }


def test_files_of_others_change_nothing() -> None:
    done = logged(plan([MAY, JUNE]))
    other = group("other", "BBB", "2024-05-03", "2024-05-30")
    hour = group("hour", "AAA", "2024-05-03", "2024-05-30", interval="1h")
    assert units(plan([MAY, JUNE, other, hour], done)) == [
        "spot 1h AAA 2024-05",
        "spot 1m BBB 2024-05",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"parameters": (("days", 3),)},
        {"inputs": (replace(STEPS.inputs[0], lookback_us=0),)},
        {"inputs": (replace(STEPS.inputs[0], columns=("open_time", "open")),)},
    ],
)
def test_another_declaration_makes_everything_stale(change: dict[str, object]) -> None:
    done = logged(plan([MAY, JUNE]))
    assert len(plan([MAY, JUNE], done, product=replace(STEPS, **change)).stale) == 2  # type: ignore[arg-type]


def test_a_unit_whose_input_is_gone_has_its_rows_removed_once() -> None:
    done = logged(plan([MAY, JUNE]))
    after = plan([JUNE], done)
    assert [(str(s.unit), s.gone) for s in after.stale if s.gone] == [("spot 1m AAA 2024-05", True)]
    assert units(plan([JUNE], done | logged(after))) == []


def test_rows_that_nobody_logged_and_nothing_makes_any_more_are_removed() -> None:
    orphan = replace(group("out", "AAA", "2024-05-03", "2024-05-30"), table=STEPS.table.name)
    (item,) = plan([], output=written([orphan])).stale
    assert (str(item.unit), item.gone) == ("spot 1m AAA 2024-05", True)


def test_a_hole_of_months_is_a_unit_however_files_are_cut() -> None:
    august = group("august", "AAA", "2024-08-01", "2024-08-02")
    whole = group("whole", "AAA", "2024-05-03", "2024-08-02", table=COARSE)
    assert units(plan([MAY, august])) == units(plan([whole]))
    assert len(units(plan([MAY, august]))) == 4


def test_content_is_compared_only_where_it_may_be_the_same() -> None:
    done = logged(plan([MAY]))
    output = written([replace(MAY, path="out", table=STEPS.table.name)])
    rewritten = replace(MAY, path="compacted")
    (item,) = plan([rewritten], done, output=output).stale
    assert item.known == done[item.unit]
    grown = replace(MAY, path="compacted", rows=101)
    assert plan([grown], done, output=output).stale[0].known is None


def test_content_is_not_compared_where_the_rows_are_newer_than_the_log() -> None:
    """A run died after its rows were visible; what the log says is not what they were made from."""
    done = logged(plan([MAY]), sequence=1)
    held = replace(MAY, path="out", table=STEPS.table.name)
    rewritten = replace(MAY, path="compacted")
    newer = written([held], sequence=2)
    assert plan([rewritten], done, output=newer).stale[0].known is None
    assert plan([rewritten], done, output=written([])).stale[0].known is None


def test_a_market_is_one_unit_of_all_its_symbols() -> None:
    days = [
        RowGroup("gold.daily", path, 0, Region(("spot", "1h", 54), s, s, *two_days()), 2, 20)
        for path, s in (("a", "AAA"), ("b", "BBB"))
    ]
    (item,) = plan(days, product=RANKS).stale
    assert item.unit == ProductUnit("spot", "1h", ALL_SYMBOLS, "2024-05")
    assert [g.path for g in item.inputs["days"]] == ["a", "b"]
    more = [*days, replace(days[0], path="c")]
    assert len(plan(more, logged(plan(days, product=RANKS)), product=RANKS).stale) == 1


def test_a_product_without_intervals_reads_all_of_them() -> None:
    hour = group("hour", "AAA", "2024-05-03", "2024-05-30", interval="1h", table=COARSE)
    (item,) = plan([MAY, hour], product=LIVES).stale
    assert str(item.unit) == "spot AAA all"
    assert len(item.inputs["bars"]) == 2


def test_a_scope_takes_units_by_name_and_by_time() -> None:
    groups = [MAY, JUNE, group("other", "BBB", "2024-05-03", "2024-05-30")]
    wanted = BuildScope(symbols=("AAA",))
    assert len(plan(groups, scope=wanted).stale) == 2
    assert plan(groups, scope=wanted).symbols == {"AAA", "BBB"}
    assert units(plan(groups, scope=BuildScope(intervals=("1h",)))) == []
    assert units(plan(groups, scope=BuildScope(markets=("um",)))) == []


def two_days() -> tuple[int, int]:
    return parse_time("2024-05-03"), parse_time("2024-05-04")


def written(groups: Sequence[RowGroup], sequence: int = 1) -> Output:
    """A product's table of these row groups."""
    files: dict[str, list[RowGroup]] = {}
    for one in groups:
        files.setdefault(one.path, []).append(one)
    entries = [
        FileEntry(
            path,
            Region(
                held[0].region.partition,
                min(g.region.lead_min for g in held),
                max(g.region.lead_max for g in held),
                min(g.region.time_min_us for g in held),
                max(g.region.time_max_us for g in held),
            ),
            100, 1000, sequence,
        )
        for path, held in files.items()
    ]  # fmt: skip
    return Output(FileIndex(entries), tuple(groups))


NAMES = [f"S{i:02}" for i in range(12)]
# Which file of the product holds which symbols of May, and which symbols are stale now.
layouts = st.lists(st.sampled_from(["f0", "f1", "f2", "f3", ""]), min_size=12, max_size=12)


@given(layouts, st.sets(st.sampled_from(NAMES), min_size=1), st.integers(1, 1 << 20))
def test_tasks_of_a_run_never_get_into_each_others_way(
    layout: list[str], stale: set[str], bytes_max: int
) -> None:
    """Whatever lies in which file: no file or range of symbols belongs to two tasks."""
    table = replace(STEPS.table, partitions=STEPS.table.partitions[:3])
    product = replace(STEPS, table=table)
    held = [
        RowGroup(table.name, path, i, Region(("spot", "1m", 652), name, name, *two_days()), 10, 10)
        for i, (name, path) in enumerate(zip(NAMES, layout, strict=True))
        if path
    ]
    groups = [group(name, name, "2024-05-03", "2024-05-30") for name in sorted(stale)]
    scope = BuildScope(symbols=tuple(stale))
    done = plan(groups, product=product, output=written(held), scope=scope)
    tasks = make_tasks(done, bytes_max=bytes_max)
    assert sorted(item.unit.symbol for task in tasks for item in task.units) == sorted(stale)
    paths = [path for task in tasks for path in {g.path for g in task.old}]
    assert len(paths) == len(set(paths))
    ranges = []
    for task in tasks:
        symbols = {item.unit.symbol for item in task.units}
        # All rows of its units are in files that it may replace, and it has seen those.
        assert {g.path for g in held if g.region.lead_min in symbols} <= {g.path for g in task.old}
        assert {g.path for g in task.old} <= task.seen
        touched = symbols | {g.region.lead_min for g in task.old}
        ranges.append((min(touched), max(touched)))
    ranges.sort()
    assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges))
    assert len({task.id for task in tasks}) == len(tasks)


def test_small_units_share_a_task_and_large_ones_do_not() -> None:
    groups = [group(name, name, "2024-05-03", "2024-05-30", rows=100_000) for name in NAMES]
    table = replace(STEPS.table, partitions=STEPS.table.partitions[:3])
    done = plan(groups, product=replace(STEPS, table=table))
    assert len(make_tasks(done, bytes_max=1 << 30)) == 1
    assert len(make_tasks(done, bytes_max=3_000_000)) == 4
    assert len(make_tasks(done, bytes_max=1)) == 12


def test_units_of_one_cell_of_files_are_not_torn_apart() -> None:
    """A year's file holds twelve months: they are replaced together."""
    product = replace(RANKS, of="symbol")
    days = [
        RowGroup("gold.daily", "in", i, Region(("spot", "1h", 54), "AAA", "AAA", t, t), 2, 20)
        for i, t in enumerate(parse_time(f"2024-{month:02}") for month in range(1, 13))
    ]
    (task,) = make_tasks(plan(days, product=product), bytes_max=1)
    assert len(task.units) == 12


def test_regions_cover_every_partition_that_a_unit_can_touch() -> None:
    (task,) = make_tasks(plan([MAY]), bytes_max=1)
    (region,) = task.regions
    assert region.partition == (
        "spot",
        "1m",
        month_ordinal(parse_time("2024-05")),
        bucket_of("AAA"),
    )
    history = replace(STEPS, period="history", version=2)
    (task,) = make_tasks(plan([MAY, JUNE], product=history), bytes_max=1)
    (region,) = task.regions
    assert region.partition == ("spot", "1m", ANY, bucket_of("AAA"))
    assert matches(region.partition, ("spot", "1m", 5, bucket_of("AAA")))
    assert not matches(region.partition, ("um", "1m", 5, bucket_of("AAA")))


def test_files_are_found_in_all_partitions_of_a_pattern() -> None:
    keys = [("spot", "1m", month, bucket) for month in range(3) for bucket in range(2)]
    index = FileIndex(FileEntry(str(key), Region(key, "A", "C", 0, 9), 1, 1) for key in keys)
    found = index.overlapping(Region(("spot", ANY, ANY, 1), "B", "B", 0, 0))
    assert [entry.region.partition for entry in found] == [key for key in keys if key[3] == 1]
    assert index.overlapping(Region(("spot", ANY, ANY, 1), "D", "E", 0, 0)) == []


def test_every_product_has_a_function_and_comes_after_what_it_is_made_from() -> None:
    assert RECIPES.keys() == PRODUCTS.keys()
    made: set[str] = set()
    names = {product.table.name for product in PRODUCTS.values()}
    for recipe in in_order(RECIPES.values()):
        needed = {table.name for item in recipe.product.inputs for table in item.tables("")}
        assert needed & names <= made
        made.add(recipe.product.table.name)


def test_products_that_are_made_from_each_other_are_refused() -> None:
    one = replace(RANKS, inputs=(Input("ranks", RANKS.table, ("rank",)),))
    with pytest.raises(InvalidError, match="from each other"):
        in_order([Recipe(one, RECIPES["daily"].derive)])
