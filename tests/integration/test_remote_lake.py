"""One suite for every kind of lake: the same questions, locally and over HTTP, have one answer."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import re
import textwrap
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal
from support.bars import BarLake, bars
from support.served import Served, serving

import lakehouse_ray as lh
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.venue import Market
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.pipeline.quality_assessment import AssessmentRequest, assess
from lakehouse_ray.query.asked import Asked
from lakehouse_ray.settings import Settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import FolderArchive, ReplicaExchange

pytestmark = pytest.mark.integration

ARCHIVE = Path(__file__).parents[2].parent / "shared/data/archive"
REAL: tuple[tuple[str, Market], ...] = (
    ("fundingRate", "um"),
    ("metrics", "um"),
    ("aggTrades", "um"),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("remote") / "home"
    lake = BarLake(home)
    lake.put(
        bars("BTCUSDT", "2024-01-01", 6), bars("ETHUSDT", "2024-01-01", 6),
        bars("BTCUSDT", "2024-01-01", 2, interval="1m"),
    )  # fmt: skip
    if ARCHIVE.is_dir():
        with ReplicaExchange(FolderArchive(ARCHIVE)) as exchange:
            writer = Writer(
                Settings(
                    home=home,
                    binance={"archive_url": exchange.url},
                    compute={"local_bytes_max": 1 << 40},
                )
            )
            for dataset, market in REAL:
                ingest(writer, IngestRequest(Selection(DATASETS[dataset], market, None)))
    assess(lake.writer(), AssessmentRequest(Asked(market="spot")))
    lake.put(bars("BTCUSDT", "2024-01-09", 1))
    return home


@pytest.fixture(scope="module")
def local(home: Path) -> lh.Lake:
    return lh.connect(home)


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[Served]:
    with serving(home) as served:
        yield served


class Awaited:
    """The asynchronous lake, each of its methods awaited."""

    def __init__(self, url: str, page_rows: int) -> None:
        self._url, self._page_rows = url, page_rows

    def __getattr__(self, name: str) -> Any:
        def ask(*args: Any, **kwargs: Any) -> Any:
            async def asked() -> Any:
                async with lh.AsyncRemoteLake(self._url, page_rows=self._page_rows) as lake:
                    return await getattr(lake, name)(*args, **kwargs)

            return asyncio.run(asked())

        return ask


@pytest.fixture(params=["blocking", "awaited"])
def remote(request: pytest.FixtureRequest, served: Served) -> Iterator[Any]:
    if request.param == "awaited":
        yield Awaited(served.url, page_rows=100)
        return
    with lh.RemoteLake(served.url, page_rows=100) as lake:
        yield lake


def snapshot(lake: Any, number: int) -> int:
    """An id of an earlier snapshot."""
    kept = lake.snapshots("silver.klines_coarse")
    return int(kept["snapshot_id"][number])


HOURS = ("BTCUSDT", "1h")
DAY = ("2024-01-02", "2024-01-03T12:00")
WEEK = ("2024-01-01", "2024-01-08")
QUESTIONS: dict[str, Callable[[Any], Any]] = {
    "bars": lambda lake: lake.klines(*HOURS),
    "bars of a range": lambda lake: lake.klines(*HOURS, *DAY),
    "times as a date and as a datetime": lambda lake: lake.klines(
        *HOURS, date(2024, 1, 2), datetime(2024, 1, 3, 12, tzinfo=UTC)
    ),
    "bars over many pages": lambda lake: lake.klines("BTCUSDT", "1m"),
    "some columns": lambda lake: lake.klines(*HOURS).select("close", "open_time"),
    "a column of the view": lambda lake: lake.klines(*HOURS).select("base_volume"),
    "no column": lambda lake: lake.klines(*HOURS).select(pl.len()),
    "the first rows": lambda lake: lake.klines("BTCUSDT", "1m").head(150),
    "a filter": lambda lake: lake.klines("BTCUSDT", "1m").filter(pl.col("volume") > 25),
    "a filter and the first rows": lambda lake: (
        lake.klines("BTCUSDT", "1m").filter(pl.col("volume") > 25).head(120).select("close")
    ),
    "bars as of a snapshot": lambda lake: lake.klines(*HOURS, as_of=snapshot(lake, 0)),
    "bars as of a time": lambda lake: lake.klines(
        *HOURS, as_of=lake.snapshots("silver.klines_coarse")["committed_at"][0]
    ),
    "no rows in a range": lambda lake: lake.klines(*HOURS, "2023-01", "2023-02"),
    "rows": lambda lake: lake.rows("klines", "ETHUSDT", interval="1h"),
    "rows in batches": lambda lake: lake.select("klines", "ETHUSDT", interval="1h"),
    "indicators": lambda lake: lake.indicators(*HOURS, "sma_20,macd_12_26_9", *DAY, warmup=30),
    "indicators in batches": lambda lake: lake.select_indicators(*HOURS, ["rsi_14"]),
    "an indicator alone": lambda lake: lake.indicators(*HOURS, ["sma_5"]).select("sma_5"),
    "longer bars": lambda lake: lake.resample("BTCUSDT", "15m", offset=["0m", "5m"]),
    "longer bars of a range": lambda lake: lake.resample(
        "BTCUSDT", "4h", *DAY, source="1h", partial="drop", empty="carry"
    ),
    "sql": lambda lake: lake.sql(
        "select symbol, max(high) as high, count(*) as n from silver.klines "
        "where interval = ? group by symbol order by symbol", ["1h"]
    ),
    "sql as of a snapshot": lambda lake: lake.sql(
        "select count(*) as n, min(open_time) as first from silver.klines",
        as_of=snapshot(lake, 0),
    ),
    "sql with a name twice": lambda lake: lake.sql("select 1 as a, 'x' as a"),
    "gaps": lambda lake: lake.gaps("spot", "klines"),
    "gaps of a range": lambda lake: lake.gaps("spot", "klines", ["BTCUSDT"], "1h", *WEEK),
    "found gaps": lambda lake: lake.find_gaps("spot", "klines", "BTCUSDT", "1h").rows,
    "coverage": lambda lake: lake.coverage("spot", "klines", interval="1h"),
    "measured coverage": lambda lake: lake.measure_coverage("spot", "klines").rows,
    "quality": lambda lake: lake.quality("spot", "klines", "BTCUSDT", "1h"),
    "snapshots": lambda lake: lake.snapshots(),
    # Of a table without rows a service does not tell.
    "data sets": lambda lake: [
        *lake.datasets()["datasets"],
        *(one for one in lake.datasets()["tables"] if one["snapshot_id"] is not None),
    ],
    "universe": lambda lake: lake.universe("spot", "2024-01-03", quote="USDT"),
    "identities": lambda lake: lake.identities("spot", "BTCUSDT,ETHUSDT"),
    "exchangeInfo": lambda lake: lake.exchange_info("spot"),
    "why": lambda lake: lake.why("BTCUSDT", "2024-01-02T05:00", "1h"),
}  # fmt: skip
OF_THE_ARCHIVE: dict[str, Callable[[Any], Any]] = {
    "funding": lambda lake: lake.funding_rates("BTCUSDT"),
    "metrics": lambda lake: lake.metrics("ETHUSDT", "2026-04", "2026-05"),
    # Of three hours, since who awaits them has them all read, page by page, before the first 2500.
    "trades": lambda lake: lake.agg_trades(
        "CLUSDT", "2026-04-18", "2026-04-18T03:00", market="um"
    ).head(2500),
    "why of a file": lambda lake: lake.why(
        "BTCUSDT",
        lake.funding_rates("BTCUSDT").head(1).collect()["calc_time"][0],
        market="um",
        dataset="fundingRate",
    ),
}


def compared(answer: Any) -> Any:
    if isinstance(answer, pl.LazyFrame):
        return answer.collect()
    if isinstance(answer, pl.DataFrame | dict | list):
        return answer
    with answer:
        found = answer.pl()
        assert [answer.columns, answer.schema.names] == [found.columns] * 2
        return (found, answer.types, answer.snapshots)


def assert_same(found: Any, wanted: Any) -> None:
    if isinstance(wanted, pl.DataFrame):
        assert_frame_equal(found, wanted, check_exact=True)
    elif isinstance(wanted, tuple):
        assert_frame_equal(found[0], wanted[0], check_exact=True)
        assert found[1:] == wanted[1:]
    else:
        assert found == wanted


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_has_one_answer_wherever_it_is_asked(
    local: lh.Lake, remote: Any, name: str
) -> None:
    wanted = compared(QUESTIONS[name](local))
    assert_same(compared(QUESTIONS[name](remote)), wanted)
    if isinstance(wanted, pl.DataFrame):
        assert wanted.is_empty() == (name == "no rows in a range")


@pytest.mark.skipif(not ARCHIVE.is_dir(), reason="the real files are not on this machine")
@pytest.mark.parametrize("name", OF_THE_ARCHIVE)
def test_so_do_questions_for_other_data_sets(local: lh.Lake, remote: Any, name: str) -> None:
    wanted = compared(OF_THE_ARCHIVE[name](local))
    assert len(wanted) > 0
    assert_same(compared(OF_THE_ARCHIVE[name](remote)), wanted)


WRONG: dict[str, tuple[Callable[[Any], Any], type[Exception]]] = {
    "an unknown interval": (lambda lake: lake.klines("BTCUSDT", "7m"), lh.InvalidError),
    "an unknown market": (lambda lake: lake.klines(*HOURS, market="moon"), lh.InvalidError),
    "an unknown data set": (lambda lake: lake.rows("candles", "BTCUSDT"), lh.InvalidError),
    "a range that ends before it begins": (
        lambda lake: lake.klines(*HOURS, "2024-02", "2024-01"), lh.InvalidError
    ),
    "a naive time": (
        lambda lake: lake.klines(*HOURS, datetime(2024, 1, 1)), lh.InvalidError  # noqa: DTZ001
    ),
    "a snapshot that never was": (lambda lake: lake.klines(*HOURS, as_of=12345), lh.NotFoundError),
    "an unknown indicator": (lambda lake: lake.indicators(*HOURS, "sma_x"), lh.InvalidError),
    "bars that cannot be made": (
        lambda lake: lake.resample("BTCUSDT", "7m", source="5m"), lh.InvalidError
    ),
    "a broken statement": (lambda lake: lake.sql("select from where"), lh.InvalidError),
    "a table that is none": (lambda lake: lake.sql("select * from silver.nope"), lh.InvalidError),
    "gaps of nothing": (lambda lake: lake.gaps("cm"), lh.NotFoundError),
    "an unknown table": (lambda lake: lake.snapshots("silver.kline"), lh.NotFoundError),
    "a universe of nothing": (lambda lake: lake.universe("cm"), lh.NotFoundError),
    "a kind that is none": (lambda lake: lake.universe("spot", kind="x"), lh.InvalidError),
    "why without a moment": (lambda lake: lake.why("BTCUSDT", None, "1h"), lh.InvalidError),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_the_same_error_wherever_it_is_made(
    local: lh.Lake, remote: Any, name: str
) -> None:
    ask, kind = WRONG[name]
    for lake in (local, remote):
        with pytest.raises(kind) as caught:
            ask(lake)
        assert str(caught.value)


def test_an_unknown_symbol_is_told_with_what_is_near(remote: Any) -> None:
    with pytest.raises(lh.NotFoundError) as caught:
        remote.klines("BTCUSD", "1h")
    assert "BTCUSDT" in caught.value.hint


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_an_answer_leaves_polars_by_every_door(
    kind: str, local: lh.Lake, remote: Any, home: Path
) -> None:
    lake = local if kind == "local" else remote
    frame = lake.klines(*HOURS, *DAY)
    wanted = frame.collect()
    assert isinstance(frame, pl.LazyFrame)
    assert isinstance(frame, lh.LakeFrame)
    assert_frame_equal(pl.from_arrow(frame.arrow()), wanted)  # type: ignore[arg-type]
    assert frame.pandas()["close"].tolist() == wanted["close"].to_list()
    assert frame.duckdb().aggregate("sum(trades)").fetchall() == [(wanted["trades"].sum(),)]
    with duckdb.connect() as connection:
        bars = frame.duckdb(connection)  # noqa: F841 - DuckDB finds it by its name
        assert connection.sql("select count(*) from bars").fetchall() == [(wanted.height,)]
    assert frame.filter(pl.col("trades") > 5).arrow().num_rows < wanted.height
    batches = list(frame.batches(7))
    assert {batch.num_rows for batch in batches[:-1]} <= set(range(1, 8))
    assert_frame_equal(pl.from_arrow(pa.Table.from_batches(batches)), wanted)  # type: ignore[arg-type]
    with lake.sql("select 7 as seven") as result:
        assert result.pandas()["seven"].tolist() == [7]
        assert result.duckdb().fetchall() == [(7,)]
        assert "seven" in result._repr_html_()


def test_an_answer_says_its_snapshots_its_gaps_and_its_quality(
    local: lh.Lake, served: Served
) -> None:
    for lake in (local, lh.RemoteLake(served.url)):
        meta = lake.klines(*HOURS, *WEEK).meta
        current = lake.snapshots("silver.klines_coarse").filter("current")["snapshot_id"][0]
        assert meta.snapshots["silver.klines_coarse"] == int(current)
        assert_frame_equal(meta.gaps(), local.gaps("spot", "klines", "BTCUSDT", "1h", *WEEK))
        wanted = local.quality("spot", "klines", "BTCUSDT", "1h", *WEEK)
        assert wanted.height > 4
        assert_frame_equal(meta.quality(), wanted)
        page = lake.klines(*HOURS, *WEEK)._repr_html_()
        for told in ("silver.klines_coarse@", f"{min(wanted['score']):.4f}", "rows missing"):
            assert told in page
        with pytest.raises(lh.InvalidError):
            lake.klines(*HOURS).filter(pl.col("close") > 0).meta  # noqa: B018

    async def awaited() -> None:
        async with await lh.connect_async(served.url) as lake:
            frame = await lake.klines(*HOURS, *WEEK)
            assert_frame_equal(
                await frame.meta.gaps(), local.gaps("spot", "klines", "BTCUSDT", "1h", *WEEK)
            )
            assert "await meta.quality()" in frame._repr_html_()

    asyncio.run(awaited())


def test_both_lakes_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(value).parameters)
            for name, value in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    wanted = methods(lh.Lake)
    for internal in ("ask", "pin"):  # of views, for those who build on it
        del wanted[internal]
    for kind in (lh.RemoteLake, lh.AsyncRemoteLake):
        found = methods(kind)
        assert {name: found.get(name) for name in wanted} == wanted
    named = {name.replace("_", "") for name in wanted}
    assert {dataset.view.replace("_", "") for dataset in DATASETS.values()} <= named


@pytest.mark.parametrize("kind", ["local", "blocking", "awaited"])
def test_an_answer_is_of_one_version_and_can_be_had_again(tmp_path: Path, kind: str) -> None:
    store = BarLake(tmp_path / "home")
    store.put(bars("BTCUSDT", "2024-01-01", 2), bars("BTCUSDT", "2024-01-05", 2))
    with serving(store.home) as served:
        lake: Any = {
            "local": lambda: lh.connect(store.home),
            "blocking": lambda: lh.RemoteLake(served.url, page_rows=10),
            "awaited": lambda: Awaited(served.url, 10),
        }[kind]()
        asked = lake.klines(*HOURS)
        batches = asked.batches(10)
        first = next(batches)
        wanted = store.rows("silver.klines_coarse").sort("open_time")
        store.put(bars("BTCUSDT", "2024-01-03", 2, seed=1))
        walked = pa.Table.from_batches([first, *batches])
        for found in (
            pl.from_arrow(walked),
            asked.collect(),
            lake.klines(*HOURS, as_of=asked.meta.as_of).collect(),
        ):
            assert isinstance(found, pl.DataFrame)
            assert_frame_equal(found.select(wanted.columns), wanted)
        assert lake.klines(*HOURS).collect().height > wanted.height


def test_chunks_hold_one_page(served: Served) -> None:
    async def walked() -> list[int]:
        async with lh.AsyncRemoteLake(served.url, page_rows=500) as lake:
            batches = lake.batches("klines", "BTCUSDT", interval="1m", rows=200)
            return [batch.num_rows async for batch in batches]

    sizes = asyncio.run(walked())
    wanted = lh.RemoteLake(served.url).klines("BTCUSDT", "1m").collect().height
    assert sum(sizes) == wanted > 2000
    assert max(sizes) <= 200
    assert len(list(itertools.takewhile(lambda size: size == 200, sizes))) >= 2


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_the_examples_of_the_page_run(
    home: Path, served: Served, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("LAKEHOUSE_HOME", str(home))
    page = (Path(__file__).parents[2] / "docs/sdk.md").read_text()
    for written, here in (
        ("https://lake.example.com", served.url), ("http://127.0.0.1:8080", served.url),
        ("/data/lake", str(home)), ("lk_…", "lk_any"),
    ):  # fmt: skip
        assert written in page
        page = page.replace(written, here)
    # Jobs need a cluster: test_serve_on_ray. What is followed has no end: test_lake_live.
    found = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    examples = [example for example in found if not re.search(r"lake\.jobs|\blive\b", example)]
    assert len(examples) == len(found) - 5 == 6
    names: dict[str, Any] = {}
    for example in examples:
        if "await" in example:
            body = textwrap.indent(example, "    ")
            exec(f"async def main():\n{body}\n", names)
            asyncio.run(names["main"]())
        else:
            exec(example, names)
        if kind == "local":
            names["lake"] = lh.connect(home)
    assert names["bars"].collect().height > 40
