"""Derived tables: built, built again, built where something changed, by one run and by two.

Silver is written by the test, file by file; what was built is read by pyiceberg and checked by
DuckDB over silver's own files, which share no code with the engine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from ray import cloudpickle
from support import products
from support.bars import BarLake, bars
from support.days import ask, assert_days
from support.failing import Crashed, FailingCommitter, FailingWriter, crash, lose_the_answer
from support.products import ALL, derive_steps, only, refuse_bbb
from support.products import STEPS as STEPS_PRODUCT
from support.restored import Restored

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.errors import NotFoundError
from lakehouse_ray.gold.plan import BuildScope
from lakehouse_ray.gold.recipe import Inputs, Recipe
from lakehouse_ray.model.lake import BUILD_LOG
from lakehouse_ray.model.product import ProductUnit
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import TimeRange, parse_time
from lakehouse_ray.pipeline.commits import TableCommitter
from lakehouse_ray.pipeline.gold import BuildRequest, build
from lakehouse_ray.pipeline.gold_report import BuildReport
from lakehouse_ray.runtime.session import RaySession
from lakehouse_ray.storage.committer import CommitRequest, Outcome

pytestmark = pytest.mark.integration

FINE, COARSE = "silver.klines_fine", "silver.klines_coarse"
SYMBOLS = ["AAA", "BBB", "CCC", "DDD"]

STEPS = """
select symbol, open_time, close - lag(close) over (partition by symbol order by open_time) as step
from silver where "interval" = '1m'
"""

BROKEN = [
    (pl.lit(1).alias("more"), "WRONG_COLUMNS"),
    (pl.lit("XXX").alias("symbol"), "WRONG_UNIT"),
    (pl.lit(None, pl.Datetime("us", "UTC")).alias("open_time"), "NULL_VALUE"),
    (pl.col("open_time").last(), "DOUBLE_KEY"),
]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Restored:
    """Four symbols of hours in one file, two of minutes across the end of a month."""

    def fill(home: Path) -> None:
        BarLake(home).put(
            *(bars(symbol, "2024-05-20", 20) for symbol in SYMBOLS),
            *(bars(symbol, "2024-05-31", 2, interval="1m") for symbol in SYMBOLS[:2]),
        )

    return Restored(tmp_path_factory.mktemp("filled"), fill)


@pytest.fixture
def lake(filled: Restored) -> BarLake:
    return BarLake(filled.again())


def run(
    lake: BarLake,
    recipes: Mapping[str, Recipe] = ALL,
    *names: str,
    on_ray: bool = False,
    **more: Any,
) -> BuildReport:
    return build(lake.writer(on_ray=on_ray), BuildRequest(names, **more), recipes=recipes)


def counts(report: BuildReport, name: str) -> tuple[int, int, int, int]:
    """Units built, unchanged, current, failed."""
    found = report.products[name]
    return found.built, found.unchanged, found.current, found.failed


def assert_like_new(lake: BarLake, recipes: Mapping[str, Recipe] = ALL) -> None:
    """Hold what was built step by step to what one build from scratch makes of the same silver."""
    fresh = BarLake(lake.home / "fresh")
    fresh.put(*(frame for frame in (lake.rows(FINE), lake.rows(COARSE)) if frame.height))
    run(fresh, recipes)
    for recipe in recipes.values():
        table = recipe.product.table
        assert_frame_equal(
            lake.rows(table.name).sort(table.key), fresh.rows(table.name).sort(table.key)
        )


def without(symbol: str) -> Any:
    return lambda rows: rows.filter(pl.col("symbol") != symbol)


def test_days_are_what_duckdb_makes_of_the_bars(lake: BarLake) -> None:
    run(lake)
    assert_days(lake)
    assert lake.rows("gold.daily").height == 4 * 20 + 2 * 2


def test_a_second_run_makes_no_snapshot_and_no_row(lake: BarLake) -> None:
    first = run(lake)
    assert counts(first, "daily") == (4 * 2 + 2 * 2, 0, 0, 0)
    before = lake.snapshots()
    again = run(lake)
    assert counts(again, "daily") == (0, 0, 12, 0)
    assert (again.commits, again.executor) == (0, "")
    assert lake.snapshots() == before


def test_a_row_that_needs_the_month_before_is_there_whichever_month_is_built(
    lake: BarLake,
) -> None:
    run(lake, only("steps"))
    silver = lake.rows(FINE)
    found = lake.rows("gold.steps").filter(interval="1m").select("symbol", "open_time", "step")
    assert_frame_equal(
        found.sort("symbol", "open_time"),
        ask(STEPS, silver).sort("symbol", "open_time"),
        check_dtypes=False,
        check_exact=True,
    )
    # One first bar for each of two symbols, and none at the start of June.
    assert found["step"].null_count() == 2


def test_files_that_were_merely_written_anew_rebuild_nothing(lake: BarLake) -> None:
    run(lake, only("steps"))
    before = lake.snapshots()
    lake.rewrite(FINE, lambda rows: rows)
    lake.rewrite(COARSE, lambda rows: rows)
    report = run(lake, only("steps"))
    assert counts(report, "steps") == (0, 12, 0, 0)
    after = lake.snapshots()
    assert after["gold.steps"] == before["gold.steps"]
    assert after["gold.build_log"] > before["gold.build_log"]
    assert counts(run(lake, only("steps")), "steps") == (0, 0, 12, 0)


def test_a_day_that_was_published_anew_rebuilds_its_unit_alone(lake: BarLake) -> None:
    run(lake)
    lake.rewrite(
        COARSE,
        lambda rows: rows.with_columns(
            close=pl.when(
                (pl.col("symbol") == "CCC") & (pl.col("open_time").dt.strftime("%m-%d") == "05-25")
            )
            .then(pl.col("close") + 1)
            .otherwise(pl.col("close"))
        ),
    )
    report = run(lake)
    built, unchanged, _, failed = counts(report, "daily")
    assert (built, unchanged, failed) == (1, 7, 0)
    assert counts(report, "steps")[0] == 1
    assert_like_new(lake)


def test_a_changed_last_day_of_a_month_rebuilds_the_month_that_looks_back_at_it(
    lake: BarLake,
) -> None:
    run(lake, only("steps"))
    last = (
        pl.col("open_time")
        == pl.col("open_time")
        .filter(pl.col("open_time").dt.month() == 5, pl.col("symbol") == "AAA")
        .max()
    )
    lake.rewrite(
        FINE,
        lambda rows: rows.with_columns(
            close=pl.when((pl.col("symbol") == "AAA") & last).then(1.0).otherwise(pl.col("close"))
        ),
    )
    report = run(lake, only("steps"))
    assert counts(report, "steps")[:2] == (2, 2)
    assert_like_new(lake, only("steps"))


def test_new_days_rebuild_the_months_that_have_them(lake: BarLake) -> None:
    run(lake)
    lake.put(bars("BBB", "2024-06-09", 3, seed=1), bars("AAA", "2024-07-01", 1, seed=1))
    report = run(lake)
    assert counts(report, "daily")[0] == 2
    assert_like_new(lake)


def test_rows_that_vanish_from_silver_vanish(lake: BarLake) -> None:
    run(lake)
    assert "BBB" in lake.rows("gold.daily")["symbol"].to_list()
    lake.rewrite(COARSE, without("BBB"))
    lake.rewrite(FINE, without("BBB"))
    run(lake)
    for recipe in ALL.values():
        assert "BBB" not in lake.rows(recipe.product.table.name)["symbol"].to_list()
    assert_like_new(lake)
    before = lake.snapshots()
    run(lake)
    assert lake.snapshots() == before


def test_what_needs_a_whole_market_follows_a_change_of_one_symbol(lake: BarLake) -> None:
    run(lake)
    lake.put(bars("EEE", "2024-06-01", 3))
    report = run(lake)
    # June of the hours, and not May, nor the minutes.
    assert counts(report, "ranks")[0] == 1
    assert_like_new(lake)
    ranks = lake.rows("gold.ranks").filter(interval="1h")
    assert ranks.group_by("day").len().filter(pl.col("len") > 4).height == 3


def test_a_symbol_that_fails_does_not_stop_the_others_and_keeps_its_rows(lake: BarLake) -> None:
    run(lake, only("steps"))
    old = lake.rows("gold.steps").filter(symbol="BBB")
    lake.put(*(bars(symbol, "2024-06-09", 1, seed=2) for symbol in SYMBOLS))
    report = run(lake, only("steps", refuse_bbb))
    assert counts(report, "steps")[0] == 3
    assert (report.partial, dict(report.reasons)) == (True, {"ZeroDivisionError": 1})
    assert report.examples[0]["unit"] == "steps spot 1h BBB 2024-06"
    kept = lake.rows("gold.steps").filter(symbol="BBB")
    assert_frame_equal(kept.sort(kept.columns), old.sort(old.columns))
    assert counts(run(lake, only("steps")), "steps")[0] == 1
    assert_like_new(lake, only("steps"))


@pytest.mark.parametrize(("change", "reason"), BROKEN)
def test_rows_that_break_the_shape_of_their_table_are_refused_with_a_reason(
    lake: BarLake, change: pl.Expr, reason: str
) -> None:
    def derive(unit: ProductUnit, inputs: Inputs) -> pl.DataFrame:
        return derive_steps(unit, inputs).with_columns(change)

    report = run(lake, only("steps", derive))
    assert counts(report, "steps") == (0, 0, 0, 12)
    assert dict(report.reasons) == {reason: 12}
    assert lake.rows("gold.steps").is_empty()
    assert not list(lake.home.rglob("tables/gold/steps/data/**/*.parquet"))


def test_a_new_version_rebuilds_everything(lake: BarLake) -> None:
    run(lake, only("steps"))
    assert counts(run(lake, only("steps", version=2)), "steps")[0] == 12
    assert counts(run(lake, only("steps", version=2)), "steps")[0] == 0
    assert counts(run(lake, only("steps", version=2), rebuild=True), "steps")[0] == 12
    assert_like_new(lake, only("steps"))


def test_a_coarser_period_takes_over_the_rows_of_the_finer_ones(lake: BarLake) -> None:
    run(lake, only("steps"))
    assert counts(run(lake, only("steps", version=2, period="year")), "steps")[0] == 6
    assert_like_new(lake, only("steps"))


def test_a_scope_builds_what_it_says(lake: BarLake) -> None:
    scope = BuildScope(symbols=("AAA",), intervals=("1h",))
    assert counts(run(lake, ALL, "daily", scope=scope), "daily") == (2, 0, 0, 0)
    june = BuildScope(span=TimeRange(parse_time("2024-06"), parse_time("2024-07")))
    assert counts(run(lake, ALL, "daily", scope=june), "daily") == (5, 0, 1, 0)
    assert counts(run(lake, ALL, "daily"), "daily") == (5, 0, 7, 0)
    assert_like_new(lake, {"daily": ALL["daily"]})


def test_names_that_do_not_exist_are_told(lake: BarLake) -> None:
    with pytest.raises(NotFoundError) as told:
        run(lake, ALL, scope=BuildScope(symbols=("AAB",)))
    assert told.value.hint == "did you mean AAA?"
    with pytest.raises(NotFoundError):
        run(lake, ALL, scope=BuildScope(markets=("um",)))


def test_a_wanted_product_brings_what_it_is_made_from(lake: BarLake) -> None:
    report = run(lake, ALL, "ranks")
    assert list(report.products) == ["daily", "ranks"]
    assert lake.rows("gold.ranks").height == lake.rows("gold.daily").height


def test_symbols_that_come_one_by_one_do_not_leave_a_file_each(lake: BarLake) -> None:
    run(lake, ALL, "daily")
    for number in range(6):
        lake.put(bars(f"S{number}", "2024-05-20", 20))
        run(lake, ALL, "daily")
    assert len([path for path in lake.files("gold.daily") if "interval=1h" in path]) == 10
    # All are built anew in the next month: their files become one.
    lake.put(*(bars(f"S{number}", "2024-06-09", 1, seed=1) for number in range(6)))
    build(lake.writer(task_bytes_max=1 << 30), BuildRequest(("daily",)))
    hours = [symbols for path, symbols in lake.files("gold.daily").items() if "interval=1h" in path]
    assert sorted(hours) == [*([name] for name in SYMBOLS), [f"S{number}" for number in range(6)]]
    assert_like_new(lake, {"daily": ALL["daily"]})


def test_two_runs_at_once_are_equal_to_one(lake: BarLake) -> None:
    lake.put(*(bars(f"T{number}", "2024-05-01", 40) for number in range(4)))
    errors: list[BaseException] = []
    reports: list[BuildReport] = []
    barrier = threading.Barrier(2)

    def one() -> None:
        try:
            barrier.wait(10)
            reports.append(run(lake))
        except BaseException as error:  # noqa: BLE001 - told to the test
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert not any(report.partial for report in reports)
    assert_like_new(lake)
    before = lake.snapshots()
    run(lake)
    assert lake.snapshots() == before


def test_ray_gives_what_this_process_gives(lake: BarLake, ray_session: RaySession) -> None:
    # Ray's workers know this package, and not the tests.
    cloudpickle.register_pickle_by_value(products)
    report = run(lake, on_ray=True)
    assert (report.executor, report.partial) == ("ray", False)
    assert all(report.products[name].built for name in ALL)
    assert_like_new(lake)
    before = lake.snapshots()
    assert run(lake, on_ray=True).total("built") == 0
    assert lake.snapshots() == before


def test_what_was_built_is_asked_in_sql_over_one_snapshot(lake: BarLake) -> None:
    run(lake, ALL, "daily")
    reader = Reader(lake.writer().settings)
    with reader.lake.sql("select count(*) as n from gold.daily") as asked:
        lake.put(bars("ZZZ", "2024-06-01", 2))
        run(lake, ALL, "daily")
        assert asked.rows() == [{"n": 84}]
        snapshot = asked.snapshots["gold.daily"]
    assert reader.lake.sql("select count(*) as n from gold.daily").rows() == [{"n": 86}]
    then = reader.lake.sql("select count(*) as n from gold.daily", as_of=snapshot)
    assert then.rows() == [{"n": 84}]
    built = "select symbol, sum(rows)::int as rows from gold.builds group by symbol order by symbol"
    assert [row["rows"] for row in reader.lake.sql(built).rows()] == [22, 22, 20, 20, 2]


def failing(lake: BarLake, table: Table, number: int, **hooks: Callable[[], None]) -> FailingWriter:
    made = lake.writer(kind=FailingWriter)
    assert isinstance(made, FailingWriter)
    around = {table.name: lambda inner: FailingCommitter(inner, number, **hooks)}
    object.__setattr__(made, "around", around)
    return made


POINTS = [
    (table, number, when)
    for table in (STEPS_PRODUCT.table, BUILD_LOG)
    for number in (1, 3)
    for when in ("before", "after")
]
# Each table, each number and each side of a commit.
FIRST = [
    (STEPS_PRODUCT.table, 1, "after"), (STEPS_PRODUCT.table, 3, "before"),
    (BUILD_LOG, 1, "before"), (BUILD_LOG, 3, "after"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "number", "when"),
    [point if point in FIRST else pytest.param(*point, marks=pytest.mark.slow) for point in POINTS],
)
def test_a_build_that_ends_around_a_commit_is_completed_by_the_next(
    lake: BarLake, table: Table, number: int, when: str
) -> None:
    run(lake, only("steps"))
    lake.put(*(bars(symbol, "2024-06-09", 1, seed=1) for symbol in SYMBOLS[1:]))
    lake.rewrite(FINE, without("AAA"))
    dead = failing(lake, table, number, **{when: crash})
    with pytest.raises(Crashed):
        build(dead, BuildRequest(), recipes=only("steps"))
    assert not run(lake, only("steps")).partial
    assert_like_new(lake, only("steps"))
    before = lake.snapshots()
    run(lake, only("steps"))
    assert lake.snapshots() == before


@pytest.mark.parametrize("table", [STEPS_PRODUCT.table, BUILD_LOG])
def test_a_commit_whose_answer_is_lost_is_not_made_twice(lake: BarLake, table: Table) -> None:
    writer = failing(lake, table, 1, after=lose_the_answer)
    report = build(writer, BuildRequest(), recipes=only("steps"))
    assert (report.total("failed"), report.conflicts) == (0, 0)
    assert lake.rows(BUILD_LOG.name).height == 12
    assert_like_new(lake, only("steps"))


def test_a_dead_runs_late_commit_of_older_rows_does_not_stay(lake: BarLake) -> None:
    """It was held back until a run that knows more of silver had built; and once more after it."""
    held: list[Callable[[], None]] = []

    class Holding(FailingCommitter):
        def commit(self, requests: Sequence[CommitRequest]) -> list[Outcome]:
            held.append(lambda: self.inner.commit(requests) and None)
            raise Crashed

    dead = lake.writer(kind=FailingWriter)
    object.__setattr__(dead, "around", {"gold.steps": lambda inner: Holding(inner, 0)})
    with pytest.raises(Crashed):
        build(dead, BuildRequest(), recipes=only("steps"))
    lake.put(*(bars(symbol, "2024-06-09", 1, seed=1) for symbol in SYMBOLS))
    report = build(
        failing(lake, STEPS_PRODUCT.table, 1, before=held[0]),
        BuildRequest(),
        recipes=only("steps"),
    )
    assert report.conflicts > 0
    assert_like_new(lake, only("steps"))
    held[0]()
    assert_like_new(lake, only("steps"))


def test_content_that_comes_back_after_a_crash_is_not_taken_for_unchanged(lake: BarLake) -> None:
    """Rows of another state of silver are visible and were never logged."""
    run(lake, only("steps"))
    original = lake.rows(COARSE)
    lake.rewrite(COARSE, lambda rows: rows.with_columns(pl.col("close") * 2))
    with pytest.raises(Crashed):
        build(failing(lake, BUILD_LOG, 1, before=crash), BuildRequest(), recipes=only("steps"))
    lake.rewrite(COARSE, lambda rows: original)
    run(lake, only("steps"))
    assert_like_new(lake, only("steps"))


def test_a_run_that_pinned_silver_before_another_built_does_not_undo_it(lake: BarLake) -> None:
    def overtaken(inner: TableCommitter) -> TableCommitter:
        lake.put(*(bars(symbol, "2024-06-09", 1, seed=1) for symbol in SYMBOLS))
        run(lake, only("steps"))
        return inner

    late = lake.writer(kind=FailingWriter)
    object.__setattr__(late, "around", {"gold.steps": overtaken})
    report = build(late, BuildRequest(), recipes=only("steps"))
    assert report.conflicts > 0
    assert not report.partial
    assert_like_new(lake, only("steps"))
