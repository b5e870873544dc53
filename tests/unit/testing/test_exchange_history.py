"""The rows of archives, held against the CSVs in their zips."""

from __future__ import annotations

import csv
import io
import zipfile
from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path

import pytest

from lakehouse_ray.testing.exchange import FolderArchive, SyntheticArchive
from lakehouse_ray.testing.exchange import file_rows as module
from lakehouse_ray.testing.exchange.history import History, Row, Series

MARKET = SyntheticArchive(
    3, ["BTCUSDT", "FTMUSDT"], ("spot", "um"), date(2024, 12, 28), date(2025, 2, 3)
)
MINUTES = Series("spot", "klines", "BTCUSDT", "1m")
TRADES = Series("spot", "aggTrades", "BTCUSDT")


def us(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * 1_000_000


def lines_of(name: str) -> list[tuple[str, ...]]:
    blob = MARKET.read(name)
    assert blob is not None
    with zipfile.ZipFile(io.BytesIO(blob.body)) as archive:
        text = archive.read(archive.namelist()[0]).decode()
    return [tuple(cells) for cells in csv.reader(text.splitlines())]


def put(root: Path, key: str, *lines: str) -> None:
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(path.stem + ".csv", "\n".join(lines))


def bar(day: int, close: str, unit: int = 1000) -> str:
    opened = us(2024, 3, day) // 1_000_000
    return f"{opened * unit},1,2,1,{close},5,{(opened + 86400) * unit - 1},5,1,5,5,0"


DAYS = Series("spot", "klines", "AUSDT", "1d")
FOLDER = "data/spot/{}/klines/AUSDT/1d/AUSDT-1d-{}.zip"


def test_rows_are_the_text_of_the_file_placed_in_microseconds() -> None:
    rows = list(History(MARKET).rows(MINUTES, us(2024, 12, 31), us(2025, 1, 2)))
    before = lines_of("data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-12-31.zip")
    after = lines_of("data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2025-01-01.zip")
    assert [row.cells for row in rows] == before + after
    assert {b.time_us - a.time_us for a, b in pairwise(rows)} == {60_000_000}


def test_a_range_is_half_open_and_crosses_files() -> None:
    rows = list(History(MARKET).rows(MINUTES, us(2025, 1, 31, 23, 59), us(2025, 2, 1, 0, 1)))
    assert [row.time_us for row in rows] == [us(2025, 1, 31, 23, 59), us(2025, 2, 1)]


def test_the_last_rows_before_a_moment_come_in_order_of_time() -> None:
    history = History(MARKET)
    end = us(2025, 1, 1, 0, 10)
    last = history.last(MINUTES, 100, end)
    assert last == list(history.rows(MINUTES, 0, end))[-100:]


def test_trades_are_found_by_their_id_in_any_file() -> None:
    history = History(MARKET)
    every = list(history.rows(TRADES))
    ids = [int(row.cells[0]) for row in every]
    for at in (0, 1, 5000, len(ids) // 2, len(ids) - 1):
        assert list(islice(history.from_id(TRADES, ids[at]), 3)) == every[at : at + 3]
    assert list(history.from_id(TRADES, ids[-1] + 1)) == []


def test_what_there_is_is_told_by_folders() -> None:
    history = History(MARKET)
    assert history.markets() == ["spot", "um"]
    assert history.symbols("um", "klines") == ["BTCUSDT", "FTMUSDT"]
    assert history.intervals("um", "klines", "BTCUSDT")[:2] == ["1m", "3m"]
    assert not history.has(Series("um", "klines", "NOSUCH", "1m"))
    assert history.span(MINUTES) == (us(2024, 12, 28), us(2025, 2, 2, 23, 59))


def test_the_rows_of_a_day_after_midnight_are_in_the_metrics_of_the_day_before() -> None:
    series = Series("um", "metrics", "BTCUSDT")
    rows = list(History(MARKET).rows(series, us(2025, 1, 2), us(2025, 1, 3)))
    assert len(rows) == 288
    assert rows[0].cells[0] == "2025-01-02 00:00:00"


def test_a_day_of_its_own_counts_where_a_month_has_it_too(tmp_path: Path) -> None:
    put(tmp_path, FOLDER.format("monthly", "2024-03"), *(bar(day, "month") for day in (1, 2, 3)))
    put(tmp_path, FOLDER.format("daily", "2024-03-02"), bar(2, "day"))
    history = History(FolderArchive(tmp_path))
    assert [row.cells[4] for row in history.rows(DAYS)] == ["month", "day", "month"]
    assert [row.cells[4] for row in history.last(DAYS, 2)] == ["day", "month"]


def test_headers_disorder_repeats_and_broken_lines_are_no_rows_of_the_exchange(
    tmp_path: Path,
) -> None:
    put(
        tmp_path,
        FOLDER.format("monthly", "2024-03"),
        "open_time,open,high,low,close,volume,close_time,quote_volume,count,tb,tq,ignore",
        bar(2, "1.50", 1_000_000),
        bar(1, "4.088E-4"),
        bar(2, "1.50", 1_000_000),
        bar(3, "9") + bar(4, "9"),
    )
    rows = list(History(FolderArchive(tmp_path)).rows(DAYS))
    assert [(row.time_us, row.cells[4]) for row in rows] == [
        (us(2024, 3, 1), "4.088E-4"),
        (us(2024, 3, 2), "1.50"),
    ]


def test_files_that_come_or_change_show_at_the_next_question(tmp_path: Path) -> None:
    put(tmp_path, FOLDER.format("daily", "2024-03-01"), bar(1, "1"))
    history = History(FolderArchive(tmp_path))
    assert [row.cells[4] for row in history.rows(DAYS)] == ["1"]
    put(tmp_path, FOLDER.format("daily", "2024-03-01"), bar(1, "22"))
    put(tmp_path, FOLDER.format("daily", "2024-03-02"), bar(2, "3"))
    assert [row.cells[4] for row in history.rows(DAYS)] == ["22", "3"]


@pytest.mark.parametrize("damage", ["cut", "bits", "no_zip", "empty"])
def test_a_zip_that_cannot_be_read_has_no_rows(tmp_path: Path, damage: str) -> None:
    name = FOLDER.format("daily", "2024-03-02")
    for day in (1, 2):
        put(tmp_path, FOLDER.format("daily", f"2024-03-0{day}"), bar(day, "1"))
    body = (tmp_path / name).read_bytes()
    middle = len(body) // 4
    spoiled = {
        "cut": body[: len(body) // 2],
        "bits": body[:middle] + bytes(byte ^ 255 for byte in body[middle : middle + 9])
        + body[middle + 9 :],
        "no_zip": b"<Error><Code>NoSuchKey</Code></Error>",
        "empty": b"",
    }  # fmt: skip
    (tmp_path / name).write_bytes(spoiled[damage])
    rows = list(History(FolderArchive(tmp_path)).rows(DAYS))
    assert [row.time_us for row in rows] == [us(2024, 3, 1)]


def test_a_file_in_pieces_gives_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    start, end = (
        us(2024, 12, 30),
        us(2024, 12, 30) + timedelta(hours=30) // timedelta(microseconds=1),
    )
    whole: list[Row] = list(History(MARKET).rows(MINUTES, start, end))
    trades: list[Row] = list(History(MARKET).rows(TRADES, start, end))
    number = int(trades[-1].cells[0])
    monkeypatch.setattr(module, "WHOLE_BYTES", 20_000)
    monkeypatch.setattr(module, "PIECE_BYTES", 10_000)
    pieces = History(MARKET)
    for _ in range(2):  # not read yet; read
        assert pieces.last(MINUTES, 70, end) == whole[-70:]
        assert list(pieces.rows(MINUTES, start, end)) == whole
        assert list(islice(pieces.rows(MINUTES, end - 60_000_000), 1)) == whole[-1:]
        assert next(pieces.from_id(TRADES, number)) == trades[-1]
        assert list(pieces.rows(TRADES, start, end)) == trades


def test_only_the_pieces_that_are_asked_for_are_parsed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "WHOLE_BYTES", 20_000)
    monkeypatch.setattr(module, "PIECE_BYTES", 10_000)
    day, end = us(2024, 12, 30), us(2024, 12, 31)
    history = History(MARKET, cache_bytes_max=0)
    whole = list(history.rows(MINUTES, day, end))
    parsed: list[int] = []
    parse = module._parse

    def counted(text: bytes, key: object) -> object:
        parsed.append(len(text))
        return parse(text, key)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_parse", counted)
    assert history.last(MINUTES, 3, end) == whole[-3:]
    assert list(history.rows(MINUTES, end - 180_000_000, end)) == whole[-3:]
    assert len(parsed) == 2
