"""A symbol too large for memory ends in the table as it would have through memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import day_range, month_range

MakeLake = Callable[..., Any]
DAY = day_range(date(2024, 1, 31))
NEXT = day_range(date(2024, 2, 1))
MONTH = month_range(2024, 1)


class SmallPieces:
    """The decoder, made to give its pieces after so many bytes of CSV."""

    def __init__(self, inner: Any, piece_bytes: int) -> None:
        self._inner = inner
        self._piece_bytes = piece_bytes
        self.version = inner.version
        self.pieces = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def decode_pieces(self, *args: Any) -> Iterator[Any]:
        for piece in self._inner.decode_pieces(*args[:-1], self._piece_bytes):
            self.pieces += 1
            yield piece


def text(us: int) -> str:
    return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us):%Y-%m-%d %H:%M:%S}"


# One line of each data set: from a time in µs, a number that may be its key, and a value.
LINES: dict[str, Callable[[int, int, int], str]] = {
    "klines": lambda t, n, v: f"{t // 1000},{v},{v},{v},{v},1,{t // 1000 + 59_999},1,1,1,1,0",
    "aggTrades": lambda t, n, v: f"{n},{v},1.5,{n},{n},{t // 1000},true",
    "trades": lambda t, n, v: f"{n},{v},1.5,2,{t // 1000},true",
    "metrics": lambda t, n, v: f"{text(t)},BTCUSDT,{v},1,1,1,1,1",
    "bookTicker": lambda t, n, v: f"{n},{v},1,2,1,{t // 1000},{t // 1000 + 1}",
    "bookDepth": lambda t, n, v: f"{text(t)},{n % 5 - 2}.00,{v},1",
    "liquidationSnapshot": lambda t, n, v: (
        f"{t // 1000},SELL,LIMIT,IOC,{v},100.5,100.25,FILLED,{v},{v}"
    ),
    "fundingRate": lambda t, n, v: f"{t // 1000},8,0.000{v}",
    "markPriceKlines": lambda t, n, v: (
        f"{t // 1000},{v},{v},{v},{v},0,{t // 1000 + 59_999},0,1,0,0,0"
    ),
}


def lines(name: str, start_us: int, count: int, step_us: int = 60_000_000) -> list[str]:
    return [LINES[name](start_us + i * step_us, 1000 + i, 1 + i % 7) for i in range(count)]


def disordered(rows: list[str], rng: random.Random) -> list[str]:
    copy = list(rows)
    for _ in range(6):
        i, j = rng.randrange(len(copy)), rng.randrange(len(copy))
        copy[i], copy[j] = copy[j], copy[i]
    return copy


def doubled(rows: list[str], rng: random.Random) -> list[str]:
    """Some rows twice: at once, or far apart."""
    copy = list(rows)
    for row in rng.sample(rows, 8):
        copy.insert(rng.choice([copy.index(row), rng.randrange(len(copy))]), row)
    return copy


def contradicting(name: str, start_us: int) -> Callable[[list[str], random.Random], list[str]]:
    """Some keys with two or three different values: at once, or far apart."""

    def make(rows: list[str], rng: random.Random) -> list[str]:
        copy = list(rows)
        for i in rng.sample(range(len(rows)), 6):
            for value in rng.choice([(8,), (8, 9), (8, 9, 8)]):
                row = LINES[name](start_us + i * 60_000_000, 1000 + i, value)
                copy.insert(rng.choice([copy.index(rows[i]) + 1, rng.randrange(len(copy))]), row)
        return copy

    return make


COUNTS = ("rows", "rows_quarantined", "duplicates", "days_short")


def csv(rows: list[str]) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode()


def both_ways(make_lake: MakeLake, name: str, piece_bytes: int) -> tuple[Any, Any]:
    dataset = DATASETS[name]
    interval = "1m" if dataset.bars else None
    small = make_lake(dataset, "um", interval)
    large = make_lake(dataset, "um", interval, csv_bytes_in_memory=0)
    large.decoder = SmallPieces(large.decoder, piece_bytes)
    return small, large


def assert_same(small: Any, large: Any, *, counts: tuple[str, ...] = COUNTS) -> None:
    order = [*small.table.key, "source_key"]
    assert small.frame().sort(order).equals(large.frame().sort(order))
    for one, other in zip(small.built, large.built, strict=True):
        assert (one.rows, one.rows_replaced) == (other.rows, other.rows_replaced)
        found = {r.task.key: {n: getattr(r, n) for n in counts} for r in one.results}
        assert {r.task.key: {n: getattr(r, n) for n in counts} for r in other.results} == found
    reasons = ["source_key", "reason"]
    refused = [lake.refused() for lake in (small, large)]
    if not refused[0].is_empty() or not refused[1].is_empty():
        summed = [frame.group_by(reasons).len().sort(reasons) for frame in refused]
        if counts != COUNTS:
            summed = [frame.drop("len") for frame in summed]
        assert summed[0].equals(summed[1])


@pytest.mark.parametrize("name", list(LINES))
def test_files_in_order_are_the_same_by_either_path(make_lake: MakeLake, name: str) -> None:
    small, large = both_ways(make_lake, name, 500)
    period = MONTH if name == "fundingRate" else DAY
    freq = "monthly" if name == "fundingRate" else "daily"
    for lake in (small, large):
        lake.publish("BTCUSDT", freq, period, csv(lines(name, period.start_us, 100)))
        lake.ingest()
    assert large.decoder.pieces > 3
    assert_same(small, large)


DEFECTS = ["disordered", "doubled", "contradicting"]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("name", ["klines", "aggTrades", "bookTicker", "metrics"])
def test_disorder_and_repetition_and_contradiction_are_the_same_by_either_path(
    make_lake: MakeLake, name: str, defect: str, seed: int
) -> None:
    spoil = {
        "disordered": disordered,
        "doubled": doubled,
        "contradicting": contradicting(name, DAY.start_us),
    }[defect]
    rows = spoil(lines(name, DAY.start_us, 60), random.Random(seed))
    small, large = both_ways(make_lake, name, 300)
    for lake in (small, large):
        lake.publish("BTCUSDT", "daily", DAY, csv(rows))
        lake.ingest()
    # A row that repeats one refused in an earlier piece counts as refused, not as a duplicate.
    assert_same(small, large, counts=("rows",) if defect == "contradicting" else COUNTS)


@pytest.mark.parametrize("name", ["klines", "aggTrades", "bookTicker"])
def test_a_file_published_anew_replaces_its_rows_by_either_path(
    make_lake: MakeLake, name: str
) -> None:
    small, large = both_ways(make_lake, name, 400)
    rows = lines(name, DAY.start_us, 50)
    for lake in (small, large):
        lake.publish("BTCUSDT", "daily", DAY, csv(rows))
        lake.publish("BTCUSDT", "daily", NEXT, csv(lines(name, NEXT.start_us, 20)))
        lake.publish("ETHUSDT", "daily", DAY, csv(rows))
        lake.ingest()
        lake.publish("BTCUSDT", "daily", DAY, csv(rows[:20] + rows[25:]))
        lake.ingest()
    assert small.frame().filter(symbol="BTCUSDT").height == 65
    assert_same(small, large)


@pytest.mark.parametrize("name", ["klines", "aggTrades"])
def test_a_monthly_file_and_newer_daily_files_are_the_same_by_either_path(
    make_lake: MakeLake, name: str
) -> None:
    small, large = both_ways(make_lake, name, 400)
    for lake in (small, large):
        lake.publish("BTCUSDT", "monthly", MONTH, csv(lines(name, DAY.start_us, 30)))
        lake.ingest()
        changed = [LINES[name](DAY.start_us + i * 60_000_000, 1000 + i, 9) for i in range(10, 40)]
        lake.publish("BTCUSDT", "daily", DAY, csv(changed))
        lake.ingest()
    frame = small.frame()
    assert sorted(frame["source"].value_counts().rows()) == [("daily", 30), ("monthly", 10)]
    assert_same(small, large)


def test_days_that_a_large_monthly_file_lacks_are_remembered(make_lake: MakeLake) -> None:
    """Their daily files may be out of reach today, and are wanted tomorrow."""
    _, large = both_ways(make_lake, "klines", 400)
    large.publish("BTCUSDT", "monthly", MONTH, csv(lines("klines", MONTH.start_us, 1440 + 700)))
    (built,) = large.ingest()
    short = built.results[0].days_short.split(",")
    assert short == [f"2024-01-{day:02d}" for day in range(2, 32)]


def test_an_id_that_returns_in_the_next_piece_is_seen(make_lake: MakeLake) -> None:
    """In order of time alone the two rows would pass."""
    rows = [LINES["aggTrades"](DAY.start_us + i * 1_000_000, 5, 1 + i) for i in range(2)]
    _, large = both_ways(make_lake, "aggTrades", 1)
    large.publish("BTCUSDT", "daily", DAY, csv(rows))
    large.ingest()
    assert large.frame().is_empty()
    assert large.refused()["reason"].to_list() == ["CONFLICTING_KEY"] * 2


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"\r\n", b""])
def test_a_byte_order_mark_or_a_blank_line_costs_no_row_by_either_path(
    make_lake: MakeLake, start: bytes
) -> None:
    small, large = both_ways(make_lake, "klines", 400)
    for lake in (small, large):
        lake.publish("BTCUSDT", "daily", DAY, start + csv(lines("klines", DAY.start_us, 20)))
        lake.ingest()
    assert small.frame().height == 20
    assert_same(small, large)


def test_an_object_whose_end_is_broken_leaves_nothing(make_lake: MakeLake) -> None:
    _, large = both_ways(make_lake, "klines", 400)
    key = large.publish("BTCUSDT", "daily", DAY, csv(lines("klines", DAY.start_us, 60)))
    whole = large.objects[key].zip
    at = whole.index(b"PK\x01\x02") + 16  # the CRC in the directory
    object.__setattr__(large.objects[key], "zip", whole[:at] + b"\0\0\0\0" + whole[at + 4 :])
    (built,) = large.ingest()
    assert [(r.state, r.reason) for r in built.results] == [("quarantined", "ZIP_CORRUPT")]
    assert large.frame().is_empty()
    assert large.refused().select("line", "reason").rows() == [(None, "ZIP_CORRUPT")]


def test_memory_and_pieces_agree_on_the_order_of_rows_in_files(make_lake: MakeLake) -> None:
    small, large = both_ways(make_lake, "aggTrades", 300)
    rows = disordered(lines("aggTrades", DAY.start_us, 60), random.Random(1))
    for lake in (small, large):
        lake.publish("BTCUSDT", "daily", DAY, csv(rows))
        lake.ingest()
        assert lake.frame()["transact_time"].is_sorted()
    assert pl.DataFrame.equals(small.frame(), large.frame())
