"""Live rows in the views: each key once, the best row of it, whatever table it is in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.live_lake import LiveLake
from support.live_rows import live_rows, version
from support.served import serving

from lakehouse_ray.model.dataset import PRECEDENCE, Dataset
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import HOUR_US, parse_time
from lakehouse_ray.pipeline.folding import fold
from lakehouse_ray.query import plain
from lakehouse_ray.query.contents import contents
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.straight import StraightResult
from lakehouse_ray.query.symbol_rows import SymbolRows
from lakehouse_ray.query.verify import verify

pytestmark = pytest.mark.integration

KLINES, AGG_TRADES = DATASETS["klines"], DATASETS["aggTrades"]
START_US = parse_time("2024-05-31T20:00")
START = datetime(2024, 5, 31, 20, tzinfo=UTC)
CASES = {"klines": "open", "aggTrades": "price"}

# (into the hot table or the main ones, source, hour, value, second of receipt)
ROW = st.tuples(
    st.booleans(), st.sampled_from(["rest", "stream"]), st.integers(0, 7), st.integers(1, 3)
)


def frame(dataset: Dataset, rows: list[tuple[str, int, float, int]], symbol: str) -> pl.DataFrame:
    interval = "1h" if dataset.bars else None
    parts = [
        live_rows(dataset, [(START_US + hour * HOUR_US, value, version(second))],
                  source=source, symbol=symbol, interval=interval)
        for source, hour, value, second in rows
    ]  # fmt: skip
    return pl.concat(parts)


def seen(lake: Lake, dataset: Dataset, where: str = "true") -> dict[int, tuple[str, float]]:
    """By hour: source and value, as SQL tells."""
    column = CASES[dataset.name]
    rows = lake.sql(
        f"SELECT epoch_us({dataset.time}) AS t, source, {column} AS v FROM silver.{dataset.view} "
        f"WHERE symbol = 'BTCUSDT' AND {where}"
    ).rows()
    hours = [(row["t"] - START_US) // HOUR_US for row in rows]
    assert len(set(hours)) == len(hours), "each key once"
    return {h: (row["source"], row["v"]) for h, row in zip(hours, rows, strict=True)}


@pytest.mark.parametrize("dataset", [KLINES, AGG_TRADES], ids=["klines", "aggTrades"])
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(ROW, min_size=1, max_size=14), cut=st.integers(0, 8))
def test_a_view_has_each_key_once_and_main_rows_hide_live_ones(
    dataset: Dataset,
    rows: list[tuple[bool, str, int, int]],
    cut: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    lake = LiveLake(tmp_path_factory.mktemp("live"))
    wanted: dict[int, tuple[bool, int, int, str, float]] = {}
    for second, (is_hot, source, hour, value) in enumerate(rows):
        own = (is_hot, PRECEDENCE[source], -second, source, float(value))
        wanted[hour] = min(wanted.get(hour, own), own)
    for hot in (True, False):
        own_rows = [(r[1], r[2], r[3], i) for i, r in enumerate(rows) if r[0] == hot]
        for part in (own_rows[::2], own_rows[1::2]):
            if part:
                into = lake.append if hot else lake.merge
                into(dataset, frame(dataset, part, "BTCUSDT"))
                into(dataset, frame(dataset, part, "ETHUSDT"))
    expected = {hour: row[3:] for hour, row in wanted.items()}
    reader = lake.connect()
    assert seen(reader, dataset) == expected
    moment = START + timedelta(hours=cut)
    later = f"{dataset.time} >= TIMESTAMPTZ '{moment:%Y-%m-%d %H:%M:%S}+00'"
    assert seen(reader, dataset, later) == {h: r for h, r in expected.items() if h >= cut}
    interval = "1h" if dataset.bars else None
    found = reader.rows(
        dataset.name, "BTCUSDT", moment, None, market="um", interval=interval
    ).collect()
    got = {
        h: (s, v)
        for h, s, v in zip(
            ((found[dataset.time].dt.epoch("us") - START_US) // HOUR_US).to_list(),
            found["source"].to_list(),
            found[CASES[dataset.name]].to_list(),
            strict=True,
        )
    }
    assert got == {h: r for h, r in expected.items() if h >= cut}
    assert found[dataset.time].is_sorted()


def hours(first: int, last: int, value: float = 1, second: int = 0) -> list[tuple[int, float, str]]:
    return [(START_US + h * HOUR_US, value, version(second)) for h in range(first, last)]


@pytest.fixture
def lake(tmp_path: Path) -> LiveLake:
    """Bars of six hours in the main table, of the last two of them and two more in the hot one."""
    lake = LiveLake(tmp_path)
    lake.merge(KLINES, live_rows(KLINES, hours(0, 6), interval="1h"))
    lake.append(KLINES, live_rows(KLINES, hours(4, 8, 2), source="stream", interval="1h"))
    return lake


def asked(lake: Lake, first: int, last: int) -> SymbolRows:
    start, end = (START + timedelta(hours=h) for h in (first, last))
    return SymbolRows(lake, "klines", "BTCUSDT", start, end, "um", "1h", None)


def test_a_range_without_live_rows_is_read_straight_as_if_there_were_none(lake: LiveLake) -> None:
    reader = lake.connect()
    with asked(reader, 0, 4).run(None, None) as result:
        assert isinstance(result, StraightResult)
        assert result.arrow().num_rows == 4
    with asked(reader, 0, 8).run(None, None) as result:
        assert not isinstance(result, StraightResult)
        assert result.arrow().num_rows == 8
        assert set(result.snapshots) == {
            "silver.klines_hot", "silver.klines_fine", "silver.klines_coarse",
        }  # fmt: skip


def test_the_hot_tables_name_has_the_rows_that_count(lake: LiveLake) -> None:
    rows = lake.connect().sql("SELECT open_time FROM silver.klines_hot ORDER BY 1").rows()
    assert [row["open_time"] for row in rows] == [START + timedelta(hours=h) for h in (6, 7)]


def test_a_pinned_read_sees_the_same_whatever_is_appended(lake: LiveLake) -> None:
    reader = lake.connect()
    before = reader.klines("BTCUSDT", "1h", market="um").collect()
    versions = asked(reader, 0, 99).snapshots
    spelled = ",".join(f"{n}@{'-' if s is None else s}" for n, s in versions.items())
    lake.append(KLINES, live_rows(KLINES, hours(8, 9), source="stream", interval="1h"))
    assert reader.klines("BTCUSDT", "1h", market="um").collect().height == 9
    again = reader.klines("BTCUSDT", "1h", market="um", as_of=spelled).collect()
    assert again.equals(before)
    old = ",".join(part for part in spelled.split(",") if "hot" not in part)
    told_before_there_were_live_rows = reader.klines("BTCUSDT", "1h", market="um", as_of=old)
    assert told_before_there_were_live_rows.collect().height == 6


def test_live_rows_are_marked_and_refused_as_others_are(tmp_path: Path) -> None:
    lake = LiveLake(tmp_path)
    rows = live_rows(KLINES, [*hours(0, 2), (START_US + 1, 1, version(0))], interval="1h")
    rows = rows.with_columns(
        close=pl.when(pl.int_range(pl.len()) == 0).then(float("inf")).otherwise("close")
    )
    hot = lake.append(KLINES, rows)
    assert (hot.rows, hot.rows_refused) == (2, 1)
    reader = lake.connect()
    (found,) = reader.sql(
        "SELECT count(*) n FROM silver.klines WHERE flags LIKE '%OFF_GRID%'"
    ).rows()
    assert found["n"] == 1
    (refused,) = reader.sql("SELECT reason, symbol FROM silver.quarantine").rows()
    assert refused == {"reason": "UNTYPED_CELL", "symbol": "BTCUSDT"}


def test_facts_about_the_lake_know_live_rows(tmp_path: Path) -> None:
    """A symbol that has none but live rows, one with both, and a gap between them."""
    lake = LiveLake(tmp_path)
    lake.append(
        KLINES, live_rows(KLINES, hours(0, 3), source="stream", symbol="NEWUSDT", interval="1h")
    )
    for dataset in (KLINES, AGG_TRADES):
        interval = "1h" if dataset.bars else None
        lake.append(dataset, live_rows(dataset, hours(4, 8), source="stream", interval=interval))
    reader = lake.connect()
    assert {one.symbols for one in contents(reader).series} == {1, 2}
    lake.merge(KLINES, live_rows(KLINES, hours(0, 3), interval="1h"))
    lake.merge(KLINES, live_rows(KLINES, hours(5, 6), interval="1h"))
    found = {(one.dataset.name, one.interval): one for one in contents(reader).series}
    bars = found["klines", "1h"]
    assert (bars.symbols, bars.rows) == (2, 3 + 3 + 4)
    assert (bars.first_us, bars.last_us) == (START_US, START_US + 7 * HOUR_US)
    assert found["aggTrades", None].rows == 4
    gaps = reader.gaps(dataset="klines", symbols="BTCUSDT")
    assert gaps["start_time"].to_list() == [START + timedelta(hours=3)]
    assert gaps["missing"].to_list() == [1]
    covered = reader.coverage(dataset="klines", symbols="BTCUSDT")
    assert covered["rows"].sum() == 7
    told = reader.why("BTCUSDT", START + timedelta(hours=7), market="um", interval="1h")
    assert told["found"]
    assert told["rows"][0]["stored"]["table"] == "silver.klines_hot"
    result = verify(reader, deep=True)
    assert result.problems == []


def test_the_service_answers_with_live_rows(lake: LiveLake) -> None:
    with serving(lake.home) as service:
        reply = service.get("/v1/klines", symbol="BTCUSDT", interval="1h", market="um")
        assert len(reply.json["rows"]) == 8
        assert "silver.klines_hot@" in reply.headers["Lakehouse-Snapshots"]
        tag = reply.headers["ETag"]
        pages = service.get("/v1/klines", symbol="BTCUSDT", interval="1h", market="um", limit=5)
        assert len(pages.json["rows"]) == 5
        lake.append(KLINES, live_rows(KLINES, hours(8, 9), source="stream", interval="1h"))
        rest = service.get(
            "/v1/klines",
            cursor=pages.headers["Lakehouse-Next"],
            symbol="BTCUSDT",
            interval="1h",
            market="um",
            limit=5,
        )
        assert len(rest.json["rows"]) == 3, "later pages are of the same state"
        again = service.get("/v1/klines", symbol="BTCUSDT", interval="1h", market="um")
        assert again.headers["ETag"] != tag
        assert len(again.json["rows"]) == 9


def test_plain_reading_leaves_live_rows_to_the_rule(
    lake: LiveLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where statements that only choose columns are read straight from the files."""
    monkeypatch.setattr(plain, "ROWS_MIN", 1)
    reader = lake.connect()
    query = "SELECT open_time, source FROM silver.{}"
    found = reader.sql(query.format("klines")).pl()
    assert sorted(found["source"].to_list()) == ["rest"] * 6 + ["stream"] * 2
    assert reader.sql(query.format("klines_hot")).pl().height == 2
    fold(lake.writer())
    found = reader.sql(query.format("klines")).pl()
    assert sorted(found["source"].to_list()) == ["rest"] * 6 + ["stream"] * 2
    assert reader.sql(query.format("klines_hot")).pl().is_empty()


def test_who_is_only_captured_yet_is_known_to_every_question(tmp_path: Path) -> None:
    """And what is told of it is what is told when its rows have been folded."""
    lake = LiveLake(tmp_path)

    def bars(symbol: str, first: int, last: int) -> pl.DataFrame:
        rows = [(START_US + n * HOUR_US, 1.0, version(1)) for n in range(first, last)]
        return live_rows(KLINES, rows, source="stream", symbol=symbol, interval="1h")

    lake.merge(KLINES, bars("BTCUSDT", -40, -3))
    lake.append(KLINES, bars("BTCUSDT", -4, 2))
    lake.append(KLINES, bars("ETHUSDT", -30, 2))
    # After a long hole: another life.
    lake.append(KLINES, bars("OLDUSDT", 24 * 9, 24 * 9 + 2))
    lake.merge(KLINES, bars("OLDUSDT", -5, 0))
    opened = lake.connect()
    at = START + timedelta(minutes=90)

    def told() -> list[list[dict[str, object]]]:
        symbols = ["BTCUSDT", "ETHUSDT", "OLDUSDT"]
        return [
            opened.universe("um", at=at).to_dicts(),
            opened.identities("um", symbols).to_dicts(),
            opened.coverage("um", "klines", symbols, "1h").to_dicts(),
            opened.gaps("um", "klines", symbols, "1h").to_dicts(),
        ]

    live = told()
    evidence = {row["symbol"]: row["evidence"] for row in live[0]}
    assert evidence == {"BTCUSDT": "rows", "ETHUSDT": "rows", "OLDUSDT": "rows_around"}
    assert {row["symbol"] for row in live[1]} == evidence.keys()
    fold(lake.writer())
    assert not opened.sql("FROM silver.klines_hot").rows()
    assert told() == live
