"""Recordings of streams, in the three forms they come in, and the books behind them."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path

import pytest

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.testing.exchange.streams.book import Book, RecordedBooks
from lakehouse_ray.testing.exchange.streams.events import Event
from lakehouse_ray.testing.exchange.streams.names import parse
from lakehouse_ray.testing.exchange.streams.recorded import Recording

TRADE = '{"stream":"btcusdt@trade","data":{"e":"trade","E":%d,"s":"BTCUSDT","t":%d}}'
BOOK = '{"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate","E":%d,"s":"BTCUSDT","U":%d,"u":%d,"b":%s,"a":%s}}'
SNAPSHOT = '{"lastUpdateId":10,"bids":[["9.0","1.0"],["8.0","2.0"]],"asks":[["10.0","1.5"],["11.0","1.0"]]}'
SECOND_NS = 1_000_000_000


def write(path: Path, *lines: str) -> Path:
    data = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def played(recording: Recording, market: str, name: str, from_us: int = 0) -> list[Event]:
    pieces = recording.events(parse(market, name), from_us)
    assert pieces is not None
    return [event for piece in pieces for event in piece]


def test_seconds_nanoseconds_and_no_time_are_read(tmp_path: Path) -> None:
    address = "wss://fstream.binance.com/stream?streams=btcusdt@trade <-> 5"
    seconds = Recording([write(tmp_path / "a", address, f"5.25: {TRADE % (0, 1)}")])
    assert [e.due_us for e in played(seconds, "um", "btcusdt@trade")] == [5_250_000]
    nanos = Recording([write(tmp_path / "b.gz", f"1723161253937085768 {TRADE % (0, 2)}")])
    assert [e.due_us for e in played(nanos, "spot", "btcusdt@trade")] == [1_723_161_253_937_085]
    lines = (TRADE % (1_600_000_000_000, 3), "", TRADE % (1, 4))
    untimed = played(Recording([write(tmp_path / "c", *lines)]), "spot", "btcusdt@trade")
    assert [e.due_us for e in untimed] == [1_600_000_000_000_000, 1_600_000_000_001_000]


def test_bytes_stay_as_they_were(tmp_path: Path) -> None:
    spaced = (
        '{"stream": "btcusdt@trade", "data": {"e": "trade",  "E": 1, "s": "BTCUSDT", "p": "1.10"}}'
    )
    (event,) = played(Recording([write(tmp_path / "a", spaced)]), "spot", "btcusdt@trade")
    assert event.combined == spaced.encode()
    assert event.body == b'{"e": "trade",  "E": 1, "s": "BTCUSDT", "p": "1.10"}'


def test_markets_are_told_by_address_or_by_what_messages_have(tmp_path: Path) -> None:
    for number, (lines, market) in enumerate(
        [
            (["wss://stream.binance.com:9443/stream?streams=x <-> 1", f"2: {TRADE % (0, 1)}"], "spot"),
            (["wss://dstream.binance.com/stream <-> 1", f"2: {TRADE % (0, 1)}"], "cm"),
            ([f"2: {TRADE % (0, 1)}", '3: {"stream":"x@depth","data":{"e":"depthUpdate","pu":1}}'], "um"),
            ([f"2: {TRADE % (0, 1)}", '3: {"stream":"x@depth","data":{"s":"X","ps":"X","pu":1}}'], "cm"),
        ]
    ):  # fmt: skip
        recording = Recording([write(tmp_path / str(number), *lines)])
        assert {at for at, _ in recording.streams} == {market}


def test_no_frame_is_played_before_its_own_time(tmp_path: Path) -> None:
    """Of a recorder whose clock was 1.2 s slow."""
    sent_ms = (1_700_000_000_900, 1_700_000_001_300, 1_700_000_001_301)
    lines = [f"1700000000.{n}: {TRADE % (moment, n)}" for n, moment in enumerate(sent_ms)]
    events = played(Recording([write(tmp_path / "a", *lines)]), "spot", "btcusdt@trade")
    late_us = [e.due_us - ms * 1000 for e, ms in zip(events, sent_ms, strict=True)]
    assert min(late_us) == 1000
    # Their rhythm stays.
    assert [after.due_us - before.due_us for before, after in pairwise(events)] == [100_000] * 2


def test_playing_begins_where_it_is_asked_to(tmp_path: Path) -> None:
    lines = [f"{n}.5: {TRADE % (0, n)}" for n in range(1, 2000)]
    recording = Recording([write(tmp_path / "a", *lines)])
    ids = [
        json.loads(e.body)["t"] for e in played(recording, "spot", "btcusdt@trade", 1_500_500_000)
    ]
    assert ids == list(range(1500, 2000))
    assert recording.events(parse("spot", "ethusdt@trade"), 0) is None
    assert recording.span_us == (1_500_000, 1_999_500_000)


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    for name, data in (("a", b"hello\n"), ("b", b"\x1f\x8bbroken"), ("c", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InvalidError):
            Recording([tmp_path / name])
    with pytest.raises(InvalidError):
        Recording([tmp_path / "absent"])


@pytest.fixture
def books(tmp_path: Path) -> RecordedBooks:
    changes = [
        BOOK % (0, 8, 9, '[["7.0","1.0"]]', "[]"),
        SNAPSHOT,
        BOOK % (0, 10, 12, '[["9.0","0.0"],["8.5","3.0"]]', '[["10.0","1.0"]]'),
        BOOK % (0, 13, 13, "[]", '[["9.5","7.0"]]'),
    ]
    lines = [f"{number}: {change}" for number, change in enumerate(changes, 1)]
    return RecordedBooks(Recording([write(tmp_path / "a", *lines)]))


def test_a_book_is_as_recorded_until_it_changed(books: RecordedBooks) -> None:
    for moment_us in (0, 2_500_000):
        assert books.answer("spot", "BTCUSDT", 1000, moment_us) == SNAPSHOT.encode()
    told = json.loads(books.answer("spot", "BTCUSDT", 1, 2_500_000) or b"")
    assert told == {"lastUpdateId": 10, "bids": [["9.0", "1.0"]], "asks": [["10.0", "1.5"]]}
    told = json.loads(books.answer("spot", "BTCUSDT", 100, 3_000_000) or b"")
    assert told == {
        "lastUpdateId": 12,
        "bids": [["8.5", "3.0"], ["8.0", "2.0"]],
        "asks": [["10.0", "1.0"], ["11.0", "1.0"]],
    }
    assert books.answer("spot", "ETHUSDT", 5, 0) is None
    assert books.answer("um", "BTCUSDT", 5, 0) is None


def test_partial_books_follow_the_changes(books: RecordedBooks) -> None:
    pieces = books.events(parse("spot", "btcusdt@depth5@100ms"), 0)
    assert pieces is not None
    found = [json.loads(event.body) for piece in pieces for event in piece]
    assert [one["lastUpdateId"] for one in found] == [12, 13]
    assert found[1]["asks"] == [["9.5", "7.0"], ["10.0", "1.0"], ["11.0", "1.0"]]
    assert books.events(parse("spot", "btcusdt@depth"), 0) is None


def test_futures_books_keep_their_times_and_ids() -> None:
    book = Book(b'{"lastUpdateId":10,"E":1,"T":2,"symbol":"X","pair":"Y","bids":[],"asks":[]}')
    assert not book.apply({"u": 10, "b": [["1", "1"]], "a": [], "E": 5, "T": 6})
    assert book.apply({"u": 11, "b": [["1", "1"]], "a": [], "E": 5, "T": 6})
    assert book.answer(5) == (
        b'{"lastUpdateId":11,"E":5,"T":6,"symbol":"X","pair":"Y","bids":[["1","1"]],"asks":[]}'
    )
