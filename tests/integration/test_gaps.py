"""A market made by hand in which every kind of gap is known, and what the lake says of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from pyiceberg.table import StaticTable
from support.lakes import metadata_locations
from support.recorded import publish

import lakehouse_ray as lh
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.cli.app import dispatch
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import DAY_US, MINUTE_US, day_range, parse_time
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.query import gap_facts
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.settings import Settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import FolderArchive, ReplicaExchange

pytestmark = pytest.mark.integration

FIRST, DAYS = date(2024, 7, 1), 5
SYMBOLS = ("AUSDT", "BUSDT", "CUSDT", "DUSDT", "EUSDT", "FUSDT")
# All of them stand still; the pairs come back one by one.
OUTAGE = (parse_time("2024-07-02T10:00"), parse_time("2024-07-02T10:30"))
HALT = (parse_time("2024-07-03T05:00"), parse_time("2024-07-03T06:00"))
HOLE = (parse_time("2024-07-03T12:00"), parse_time("2024-07-03T12:10"))
CALM = (parse_time("2024-07-04T03:00"), parse_time("2024-07-04T03:05"))
LISTED, DELISTED = parse_time("2024-07-02T04:00"), parse_time("2024-07-04T20:00")
NO_FILE = FIRST + timedelta(2)

Gap = tuple[str, str, str, str, int, str]
Capture = pytest.CaptureFixture[str]


def within(time: int, span: tuple[int, int]) -> bool:
    return span[0] <= time < span[1]


def is_missing(symbol: str, time: int) -> bool:
    late = SYMBOLS.index(symbol) * MINUTE_US
    return (
        within(time, (OUTAGE[0], OUTAGE[1] + late))
        or (symbol == "AUSDT" and within(time, HALT))
        or (symbol == "BUSDT" and within(time, HOLE))
        or (symbol == "EUSDT" and within(time, CALM))
        or (symbol == "FUSDT" and not within(time, (LISTED, DELISTED)))
    )


def bars(day: date, step: int, absent: Callable[[int], bool]) -> list[str]:
    start = day_range(day).start_us
    return [
        f"{time // 1000},1,2,0.5,1.5,10,{(time + step) // 1000 - 1},15,3,5,7,0"
        for time in range(start, start + DAY_US, step)
        if not absent(time)
    ]


def trades(day: date) -> list[str]:
    """One a minute, ids one by one, so nothing was traded between them."""
    start = day_range(day).start_us
    number = (day - FIRST).days * 10_000
    lines = []
    for time in range(start, start + DAY_US, MINUTE_US):
        if not is_missing("EUSDT", time):
            number += 1
            lines.append(f"{number},1,1,{number},{number},{time // 1000},true")
    return lines


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, home = tmp_path_factory.mktemp("market"), tmp_path_factory.mktemp("lake") / "home"
    folder = "data/futures/um/daily"
    for day in (FIRST + timedelta(k) for k in range(DAYS)):
        for symbol in SYMBOLS:
            rows = bars(day, MINUTE_US, lambda time, name=symbol: is_missing(name, time))
            key = f"{folder}/klines/{symbol}/1m/{symbol}-1m-{day}.zip"
            if rows and (symbol, day) != ("CUSDT", NO_FILE):
                publish(root, key, rows)
            if (symbol, day) == ("DUSDT", NO_FILE):
                (root / key).write_bytes((root / key).read_bytes()[:-40])
        for symbol in ("AUSDT", "BUSDT"):
            rows = bars(
                day, 5 * MINUTE_US,
                lambda time, name=symbol: is_missing(name, time) and not within(time, HOLE),
            )  # fmt: skip
            publish(root, f"{folder}/klines/{symbol}/5m/{symbol}-5m-{day}.zip", rows)
        publish(root, f"{folder}/aggTrades/EUSDT/EUSDT-aggTrades-{day}.zip", trades(day))
    with ReplicaExchange(FolderArchive(root)) as exchange:
        writer = Writer(
            Settings(
                home=home,
                binance={"archive_url": exchange.url},
                compute={"local_bytes_max": 1 << 40},
            )
        )
        for dataset, interval in (("klines", "1m"), ("klines", "5m"), ("aggTrades", None)):
            ingest(writer, IngestRequest(Selection(DATASETS[dataset], "um", interval)))
    return home


@pytest.fixture(scope="module")
def lake(home: Path) -> Lake:
    return lh.connect(home)


def listed(found: pl.DataFrame) -> list[Gap]:
    start, end = (pl.col(f"{name}_time").dt.strftime("%d %H:%M") for name in ("start", "end"))
    return found.select("symbol", "interval", start, end, "missing", "cause").rows()


def test_every_gap_is_found_once_and_named_for_what_it_is(lake: Lake) -> None:
    found = lake.gaps(dataset="klines")
    assert sorted(listed(found)) == sorted(
        [
            *(
                (symbol, "1m", "02 10:00", f"02 10:{30 + k}", 30 + k, "outage")
                for k, symbol in enumerate(SYMBOLS)
            ),
            ("AUSDT", "1m", "03 05:00", "03 06:00", 60, "halted"),
            ("AUSDT", "5m", "02 10:00", "02 10:30", 6, "unknown"),  # two symbols are too few
            ("AUSDT", "5m", "03 05:00", "03 06:00", 12, "halted"),
            ("BUSDT", "1m", "03 12:00", "03 12:10", 10, "archive_hole"),
            ("BUSDT", "5m", "02 10:00", "02 10:35", 7, "unknown"),
            ("CUSDT", "1m", "03 00:00", "04 00:00", 1440, "unknown"),
            ("DUSDT", "1m", "03 00:00", "04 00:00", 1440, "own_loss"),
            ("EUSDT", "1m", "04 03:00", "04 03:05", 5, "no_trades"),
        ]
    )


def test_the_evidence_tells_the_facts(lake: Lake) -> None:
    told = {
        (symbol, cause): evidence
        for symbol, cause, evidence in lake.gaps(dataset="klines", interval="1m")
        .select("symbol", "cause", "evidence")
        .rows()
    }
    assert "0 of 5 other symbols have rows then" in told["AUSDT", "outage"]
    assert "AUSDT-1m-2024-07-03.zip" in told["AUSDT", "halted"]
    assert "3 of 5 other symbols have rows then" in told["AUSDT", "halted"]
    assert "5m bars have 2 rows then" in told["BUSDT", "archive_hole"]
    assert "no file of that time" in told["CUSDT", "unknown"]
    assert "DUSDT-1m-2024-07-03.zip was refused: " in told["DUSDT", "own_loss"]
    assert "trade ids run on" in told["EUSDT", "no_trades"]


def test_jumps_of_ids_are_gaps_of_what_has_no_rhythm_in_time(lake: Lake) -> None:
    # Each day's ids begin at the next round number; on the second day 34 minutes have no trade.
    jumps = lake.gaps(dataset="aggTrades")
    assert jumps["missing"].to_list() == [10_000 - n for n in (1440, 1406, 1440, 1435)]
    assert jumps["start_time"].dt.strftime("%d %H:%M").to_list() == [
        "01 23:59", "02 23:59", "03 23:59", "04 23:59",
    ]  # fmt: skip
    # Within a day none jumps, not even where minutes have no trade.
    assert lake.gaps(dataset="aggTrades", start="2024-07-02", end="2024-07-03").is_empty()


def test_a_range_reaches_before_the_listing_and_beyond_the_end_of_a_symbol(lake: Lake) -> None:
    found = lake.gaps("um", "klines", ["FUSDT", "AUSDT"], "1m", "2024-07-01", "2024-07-06")
    assert listed(found.filter(pl.col("cause").is_in(["not_listed", "delisted"]))) == [
        ("FUSDT", "1m", "01 00:00", "02 04:00", 1440 + 240, "not_listed"),
        ("FUSDT", "1m", "04 20:00", "06 00:00", 1440 + 240, "delisted"),
    ]
    short = lake.gaps("um", "klines", "FUSDT", "1m", "2024-07-05", "2024-07-05T06:00")
    assert listed(short) == [("FUSDT", "1m", "05 00:00", "05 06:00", 360, "delisted")]
    # Nothing stored is later: whether trading ended or files are to come, nobody knows.
    later = lake.gaps("um", "klines", "AUSDT", "1m", "2024-07-06", "2024-07-07")
    assert listed(later) == [("AUSDT", "1m", "06 00:00", "07 00:00", 1440, "unknown")]


def test_a_range_inside_cuts_what_is_told(lake: Lake) -> None:
    found = lake.gaps("um", "klines", "AUSDT", "1m", "2024-07-03T05:30", "2024-07-03T05:45")
    assert listed(found) == [("AUSDT", "1m", "03 05:30", "03 05:45", 15, "halted")]


def test_asking_for_one_symbol_tells_the_same_of_it_as_asking_for_all(lake: Lake) -> None:
    everything = lake.gaps()
    for symbol in SYMBOLS:
        one = lake.gaps(symbols=symbol)
        assert one.equals(everything.filter(symbol=symbol))


def test_many_holes_and_few_are_compared_with_other_symbols_alike(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = lake.gaps()
    monkeypatch.setattr(gap_facts, "_HOLES_SPELLED_MAX", 0)
    assert lake.gaps().equals(usual)
    monkeypatch.setattr(gap_facts, "_HOLES_MAX", 1)
    monkeypatch.setattr(gap_facts, "_HOLES_ASKED", 1)
    assert lake.gaps().equals(usual)


def test_coverage_counts_the_rows_that_gaps_say_are_missing(lake: Lake) -> None:
    found = lake.coverage(dataset="klines")
    absent = found.group_by("symbol", "interval").agg(
        (pl.col("expected") - pl.col("rows")).sum().alias("missing")
    )
    gaps = lake.gaps(dataset="klines").group_by("symbol", "interval").agg(pl.col("missing").sum())
    key = ["symbol", "interval"]
    both = absent.join(gaps, on=key, suffix="_gaps", how="full", coalesce=True)
    assert both.filter(pl.col("missing").ne_missing(pl.col("missing_gaps"))).is_empty()
    first = found.filter(symbol="FUSDT").row(0, named=True)
    assert (first["day"], first["rows"], first["expected"]) == (date(2024, 7, 2), 1165, 1200)
    lost = found.filter(symbol="DUSDT", day=NO_FILE).row(0, named=True)
    assert (lost["rows"], lost["expected"], lost["share"]) == (0, 1440, 0.0)


def test_the_filters_of_the_sdk_refuse_what_does_not_exist(lake: Lake) -> None:
    for wrong in ({"market": "swap"}, {"dataset": "kline"}, {"interval": "7m"}):
        with pytest.raises(lh.InvalidError):
            lake.gaps(**wrong)
    with pytest.raises(lh.InvalidError):
        lake.gaps(dataset="aggTrades", interval="1m")
    with pytest.raises(lh.NotFoundError, match="no AUSDC in") as caught:
        lake.coverage(symbols="AUSDC")
    assert "did you mean" in caught.value.hint
    with pytest.raises(lh.NotFoundError, match="nothing of cm is stored"):
        lake.gaps("cm")


@pytest.fixture
def run(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAKEHOUSE_HOME", str(home))
    monkeypatch.setenv("LAKEHOUSE_BINANCE__ARCHIVE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("COLUMNS", "60")

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lakehouse", *arguments])
        capsys.readouterr()
        code = dispatch(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return command


Run = Callable[..., tuple[int, str, str]]


def test_the_command_lists_gaps_as_one_document(run: Run) -> None:
    code, out, err = run("gaps", "--symbols", "EUSDT,CUSDT", "--dataset", "klines", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert list(document) == ["gaps"]
    assert len(document["gaps"]) == 4
    lost = next(gap for gap in document["gaps"] if gap["cause"] == "unknown")
    evidence = lost.pop("evidence")
    assert evidence
    assert lost == {
        "market": "um", "dataset": "klines", "symbol": "CUSDT", "interval": "1m",
        "start": "2024-07-03T00:00:00Z", "end": "2024-07-04T00:00:00Z", "missing": 1440,
        "cause": "unknown",
    }  # fmt: skip


def test_what_has_no_intervals_has_none_in_the_document(run: Run) -> None:
    code, out, _ = run("gaps", "--dataset", "aggTrades", "--json")
    assert code == 0
    assert {gap["interval"] for gap in json.loads(out)["gaps"]} == {None}


@pytest.mark.parametrize("form", ["csv", "ndjson", "table"])
def test_every_format_has_every_gap(run: Run, form: str) -> None:
    code, out, err = run("gaps", "--dataset", "klines", "--output", form)
    assert code == 0
    assert len(out.splitlines()) == 14 + {"csv": 1, "ndjson": 0, "table": 2}[form]
    assert err.startswith("(14 gaps: 6 outage, ")


def test_a_range_without_gaps_is_success(run: Run) -> None:
    arguments = ("gaps", "--symbols", "AUSDT", "--interval", "1m", "--start", "2024-07-05")
    assert run(*arguments, "--json") == (0, '{"gaps": []}\n', "")
    code, out, err = run(*arguments)
    assert (code, err) == (0, "(no gap)\n")
    assert "symbol" in out


def test_what_is_not_stored_ends_with_its_own_code(run: Run, tmp_path: Path) -> None:
    for command in ("gaps", "coverage"):
        code, out, err = run(command, "--market", "cm", "--json")
        assert code == 4
        assert json.loads(out)["error"]["code"] == 4
        assert "nothing of cm is stored" in err
        code, _, err = run(command, "--symbols", "AUSD")
        assert code == 4
        assert "did you mean AUSDT" in err
        code, _, err = run(command, "--home", str(tmp_path / "nowhere"))
        assert code == 4
        assert "there is no lake" in err
        for wrong in (("--market", "x"), ("--interval", "7m"), ("--start", "2024-99")):
            assert run(command, *wrong)[0] == 2
        assert run(command, "--start", "2199-01")[0] == 2


def test_coverage_draws_a_map_of_symbols_and_days(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("coverage", "--interval", "1m")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "um klines 1m: 6 symbols, 5 days"
    drawn = {line.split()[0]: line.split()[1] for line in lines[2:8]}
    assert drawn["CUSDT"] == drawn["DUSDT"] == "█▓×██"
    assert "\x1b" not in out
    page = tmp_path / "coverage.html"
    code, out, err = run("coverage", "--html", str(page))
    assert (code, out, err) == (0, "", f"wrote {page}\n")
    assert "DUSDT" in page.read_text(encoding="utf-8")
    assert run("coverage", "--html", str(tmp_path / "no/such/folder.html"))[0] == 4
    code, out, _ = run("coverage", "--symbols", "DUSDT", "--json")
    rows: list[dict[str, Any]] = json.loads(out)["coverage"]
    assert [row["share"] for row in rows] == [1.0, 1410 / 1440 - 3 / 1440, 0.0, 1.0, 1.0]


def test_no_cause_is_told_where_the_ledger_is_lost(home: Path, lake: Lake) -> None:
    """Of klines: that of trades is kept in files of its own."""
    before = lake.gaps()
    location = metadata_locations(home)["bronze.object_log"]
    files = [
        Path(task.file.file_path.removeprefix("file://"))
        for task in StaticTable.from_metadata(location).scan().plan_files()
        if task.file.partition[1] == "klines"
    ]
    assert files
    for path in files:
        path.rename(path.with_suffix(".aside"))
    try:
        after = lake.find_gaps()
        with pytest.warns(lh.UnreadWarning, match=r"object_log/.*\.parquet is gone"):
            lake.gaps(symbols="AUSDT")
    finally:
        for path in files:
            path.with_suffix(".aside").rename(path)
    key = ["dataset", "symbol", "interval", "start_time", "end_time", "missing"]
    assert_frame_equal(after.rows.select(key), before.select(key))
    klines = pl.col("dataset") == "klines"
    assert set(after.rows.filter(klines)["cause"]) == {"unknown"}
    assert_frame_equal(after.rows.filter(~klines), before.filter(~klines))
    assert set(after.unread["part"]) == {"causes"}
    assert set(after.unread["symbol"]) == set(before.filter(klines)["symbol"])
