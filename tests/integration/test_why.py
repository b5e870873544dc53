"""Where a value is from, held against the zips themselves, read without this package."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from support.recorded import publish

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.cli.app import dispatch
from lakehouse_ray.errors import InvalidError, NotFoundError
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.timespan import DAY_US, HOUR_US, day_range, month_range, parse_time
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.settings import Settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import FolderArchive, ReplicaExchange

pytestmark = pytest.mark.integration

ARCHIVE = Path(__file__).parents[2].parent / "shared/data/archive"
FOLDER = "data/spot"
BAR = "2024-03-05T07:00"


class Stage:
    """A folder served as the archive, and a lake that reads it."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        self.exchange = ReplicaExchange(FolderArchive(root)).start()
        self.settings = Settings(home=home, binance={"archive_url": self.exchange.url})

    def ingest(self, interval: str = "1h", market: str = "spot", **chosen: Any) -> None:
        selection = Selection(KLINES, market, interval, **chosen)  # type: ignore[arg-type]
        ingest(Writer(self.settings), IngestRequest(selection))

    @property
    def lake(self) -> Lake:
        return Reader(self.settings).lake


def line(time_us: int, close: float, trades: int = 5) -> str:
    end = (time_us + HOUR_US) // 1000 - 1
    return f"{time_us // 1000},1,9,0.5,{close},10,{end},15,{trades},5,7,0"


def daily(
    root: Path, symbol: str, day: date, close: float, *, without: tuple[int, ...] = ()
) -> str:
    start = day_range(day).start_us
    lines = [line(start + hour * HOUR_US, close) for hour in range(24) if hour not in without]
    key = f"{FOLDER}/daily/klines/{symbol}/1h/{symbol}-1h-{day}.zip"
    publish(root, key, lines)
    return key


def monthly(root: Path, symbol: str, close: float, *, days: range = range(31)) -> str:
    start = month_range(2024, 3).start_us
    lines = [
        line(start + day * DAY_US + hour * HOUR_US, close) for day in days for hour in range(24)
    ]
    key = f"{FOLDER}/monthly/klines/{symbol}/1h/{symbol}-1h-2024-03.zip"
    publish(root, key, lines)
    return key


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    (tmp_path / "archive/data").mkdir(parents=True)
    stage = Stage(tmp_path / "archive", tmp_path / "home")
    yield stage
    stage.exchange.stop()


@pytest.mark.skipif(not ARCHIVE.is_dir(), reason="no real files beside")
def test_the_line_of_a_real_file_that_gave_a_bar_is_shown(tmp_path: Path) -> None:
    stage = Stage(ARCHIVE, tmp_path / "home")
    stage.ingest("15m")
    found = stage.lake.why("BTCUSDT", "2022-04-13T05:07", "15m")
    stage.exchange.stop()
    key = f"{FOLDER}/daily/klines/BTCUSDT/15m/BTCUSDT-15m-2022-04-13.zip"
    path = ARCHIVE / key
    with zipfile.ZipFile(path) as opened:
        lines = opened.read(opened.namelist()[0]).decode().splitlines()
    number, raw = next(
        (i, text) for i, text in enumerate(lines, 1) if text.startswith("1649826000000,")
    )
    (row,) = found["rows"]
    (won,) = row["objects"]
    assert (won["key"], won["verdict"]) == (key, "gave the row")
    assert won["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert won["url"] == f"{stage.exchange.url}/{key}"
    assert won["lines"] == [{"line": number, "raw": raw, "refused": None}]
    cells = next(csv.reader(io.StringIO(raw)))
    assert row["row"]["open_time"] == "2022-04-13T05:00:00Z"
    assert [row["row"][name] for name in ("open", "high", "low", "close", "volume")] == [
        float(cell) for cell in cells[1:6]
    ]
    assert won["values"][0]["trades"] == row["row"]["trades"] == int(cells[8])


def test_every_other_account_of_a_bar_is_told_and_why_it_lost(stage: Stage) -> None:
    day = date(2024, 3, 5)
    # Older than the daily file, which is therefore read too.
    month = monthly(stage.root, "BTCUSDT", 2.0, days=range(4, 6))
    os.utime(stage.root / month, (1_712_000_000, 1_712_000_000))
    key = daily(stage.root, "BTCUSDT", day, 3.0)
    stage.ingest()
    first = stage.lake.why("BTCUSDT", BAR, "1h")["rows"][0]
    daily(stage.root, "BTCUSDT", day, 4.0)
    stage.ingest()
    (row,) = stage.lake.why("BTCUSDT", BAR, "1h")["rows"]
    assert row["row"]["close"] == 4.0
    told = {(one["key"], one["values"][0]["close"]): one["verdict"] for one in row["objects"]}
    assert told == {
        (key, 4.0): "gave the row",
        (key, 3.0): "replaced by a later version of the same file",
        (month, 2.0): "lost: daily files win over monthly ones",
    }
    assert row["objects"][0]["lines"] == [
        {"line": 8, "raw": line(parse_time(BAR), 4.0), "refused": None}
    ]
    assert first["row"]["close"] == 3.0
    assert first["stored"]["written_in_snapshot"] != row["stored"]["written_in_snapshot"]
    snapshot = first["stored"]["read_at_snapshot"]
    before = stage.lake.why("BTCUSDT", BAR, "1h", as_of=snapshot)["rows"][0]
    assert before["row"]["close"] == 3.0
    assert before["stored"] == first["stored"]
    assert [one["verdict"] for one in before["objects"]][:2] == [
        "gave the row", "a later version of the same file",
    ]  # fmt: skip


def test_the_place_of_the_row_in_the_table_is_where_it_is(stage: Stage) -> None:
    daily(stage.root, "BTCUSDT", date(2024, 3, 5), 3.0)
    daily(stage.root, "ETHUSDT", date(2024, 3, 5), 5.0)
    stage.ingest()
    (row,) = stage.lake.why("ETHUSDT", BAR, "1h")["rows"]
    table = pq.read_table(row["stored"]["file"].removeprefix("file://"), partitioning=None)
    there = table.slice(row["stored"]["row"], 1).to_pylist()[0]
    assert (there["symbol"], there["close"]) == ("ETHUSDT", 5.0)
    assert there["open_time"].isoformat() == "2024-03-05T07:00:00+00:00"


def test_a_row_that_breaks_a_rule_says_which(stage: Stage) -> None:
    start = day_range(date(2024, 3, 5)).start_us
    lines = [line(start + hour * HOUR_US, 20.0 if hour == 7 else 2.0) for hour in range(24)]
    publish(stage.root, f"{FOLDER}/daily/klines/AUSDT/1h/AUSDT-1h-2024-03-05.zip", lines)
    stage.ingest()
    (row,) = stage.lake.why("AUSDT", BAR, "1h")["rows"]
    assert [flag["rule"] for flag in row["flags"]] == row["row"]["flags"].split(",")
    assert all(flag["doc"] for flag in row["flags"])
    assert stage.lake.why("AUSDT", "2024-03-05T08:00", "1h")["rows"][0]["flags"] == []


def test_of_a_row_that_was_refused_its_line_and_reason_are_shown(stage: Stage) -> None:
    start = day_range(date(2024, 3, 5)).start_us
    lines = [line(start + hour * HOUR_US, 2.0) for hour in range(24)]
    lines[7] = lines[7].replace(",9,", ",much,")
    publish(stage.root, f"{FOLDER}/daily/klines/AUSDT/1h/AUSDT-1h-2024-03-05.zip", lines)
    stage.ingest()
    found = stage.lake.why("AUSDT", BAR, "1h")
    assert found["found"] is False
    assert found["gap"]["cause"] == "own_loss"
    (one,) = found["objects"]
    assert one["verdict"] == "its row was refused"
    assert one["lines"][0]["line"] == 8
    assert one["lines"][0]["refused"].startswith("UNTYPED_CELL")


def test_a_bar_that_is_not_there_is_explained_by_its_gap(stage: Stage) -> None:
    for k in range(3):
        daily(
            stage.root,
            "AUSDT",
            date(2024, 3, 4) + timedelta(k),
            2.0,
            without=(7,) if k == 1 else (),
        )
        daily(stage.root, "BUSDT", date(2024, 3, 4) + timedelta(k), 2.0)
    stage.ingest()
    found = stage.lake.why("AUSDT", "2024-03-05T07:20", "1h")
    assert (found["found"], found["gap"]["cause"]) == (False, "halted")
    assert found["gap"]["start"] == "2024-03-05T07:00:00Z"
    assert [one["verdict"] for one in found["objects"]] == ["has no row of this time"]
    before = stage.lake.why("AUSDT", "2024-03-01T07:00", "1h")
    assert (before["gap"]["cause"], before["objects"]) == ("not_listed", [])


def test_a_file_that_bronze_has_lost_is_told_as_such(stage: Stage) -> None:
    daily(stage.root, "AUSDT", date(2024, 3, 5), 2.0)
    stage.ingest()
    (path,) = stage.lake.sql("select path from bronze.objects").pl()["path"]
    Reader(stage.settings).store.delete(path)
    (row,) = stage.lake.why("AUSDT", BAR, "1h")["rows"]
    assert row["objects"][0]["verdict"] == "gave the row"
    assert "lost" in row["objects"][0]["unreadable"]
    Reader(stage.settings).store.put(path, b"PK something else")
    (row,) = stage.lake.why("AUSDT", BAR, "1h")["rows"]
    assert "not what it was" in row["objects"][0]["unreadable"]


def test_behind_a_derived_bar_are_the_rows_it_was_made_of(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    key = daily(stage.root, "AUSDT", date(2024, 3, 5), 2.0, without=(9,))
    stage.ingest()
    home = ["--home", str(stage.settings.home)]
    assert dispatch(["build", *home, "--quiet"]) == 0
    day = stage.lake.why("AUSDT", BAR, "1h", gold="daily")
    assert day["row"]["bars"] == 23
    (item,) = day["inputs"]
    assert (item["rows"], [one["source_key"] for one in item["objects"]]) == (23, [key])
    bar = stage.lake.why("AUSDT", BAR, "1h", gold="klines")
    assert bar["silver"]["rows"][0]["objects"][0]["verdict"] == "gave the row"
    filled = stage.lake.why("AUSDT", "2024-03-05T09:00", "1h", gold="klines")
    assert filled["row"]["is_filled"] is True
    assert "silver" not in filled
    assert filled["inputs"][0]["rows"] == 0
    capsys.readouterr()
    ask = ["why", *home, "--symbol", "AUSDT", "--interval", "1h", "--at", BAR]
    assert dispatch([*ask, "--gold", "klines", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["row"] == bar["row"]
    for more in ([], ["--gold", "daily"], ["--at", "2024-03-05T09:00"]):
        assert dispatch([*ask, *more]) == 0
        assert key in capsys.readouterr().out


def test_its_rows_in_every_format_are_the_documents(
    stage: Stage, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    daily(stage.root, "AUSDT", date(2024, 3, 5), 2.0)
    stage.ingest()
    home = ["--home", str(stage.settings.home)]
    ask = ["why", *home, "--symbol", "AUSDT", "--interval", "1h"]
    wanted = stage.lake.why("AUSDT", BAR, "1h")["rows"][0]["objects"]

    def told(form: str, at: str = BAR) -> bytes:
        capfdbinary.readouterr()
        assert dispatch([*ask, "--at", at, "--output", form]) == 0
        return capfdbinary.readouterr().out

    assert json.loads(told("json"))["rows"][0]["objects"] == wanted
    for form, read in (
        ("ndjson", pl.read_ndjson),
        ("csv", pl.read_csv),
        ("parquet", pl.read_parquet),
        ("arrow", pl.read_ipc_stream),
    ):
        rows = read(told(form))
        assert rows["key"].to_list() == [one["key"] for one in wanted for _ in one["lines"]]
        assert rows["verdict"].to_list() == [one["verdict"] for one in wanted]
        assert rows["raw"].to_list() == [line["raw"] for one in wanted for line in one["lines"]]
    absent = json.loads(told("ndjson", "2024-03-04T05:00").splitlines()[0])
    assert (absent["verdict"], absent["key"]) == ("no row", None)


def test_what_cannot_be_asked_is_refused(stage: Stage) -> None:
    daily(stage.root, "AUSDT", date(2024, 3, 5), 2.0)
    stage.ingest()
    lake = stage.lake
    with pytest.raises(NotFoundError, match="no AUSD "):
        lake.why("AUSD", BAR, "1h")
    with pytest.raises(NotFoundError, match="nothing of spot klines 1m"):
        lake.why("AUSDT", BAR, "1m")
    for arguments in (("AUSDT", BAR), ("AUSDT", None, "1h"), ("AUSDT", "soon", "1h")):
        with pytest.raises(InvalidError):
            lake.why(*arguments)  # type: ignore[arg-type]
    with pytest.raises(InvalidError):
        lake.why("AUSDT", BAR, "1h", gold="moon")
    with pytest.raises(NotFoundError):
        lake.why("AUSDT", BAR, "1h", gold="klines")
