"""Recordings of the exchange's streams, played as they were: byte for byte, in their rhythm.

A line is a frame of a combined stream, with the time of its receipt before it or none, or an
answer of REST's depth route. Three forms of line are known, plain or in gzip:

    1633998512.0633569: {"stream":"nknusdt@depth@100ms","data":{…}}
    1723161253937085768 {"stream":"btcusdt@depth@100ms","data":{…}}
    {"stream":"BNBBTC@kline_1m","data":{…}}
    1723161254206652067 {"lastUpdateId":50093239218,"bids":[…],"asks":[…]}
    https://api.binance.com/api/v3/depth?symbol=NKNUSDT&limit=1000 -> 1633998512.320639: {…}
    wss://fstream.binance.com/stream?streams=… <-> 1626992740.179554
"""

from __future__ import annotations

import gzip
import re
import zlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.testing.exchange.streams.events import Event
from lakehouse_ray.testing.exchange.streams.names import StreamName

# Events that are handed over at once.
PIECE = 512
_LINE = re.compile(rb"(?:(https?://\S+) -> )?(?:([0-9]+(?:\.[0-9]+)?):? )?(\{.*\})\s*", re.DOTALL)
_FRAME = re.compile(rb'\{\s*"stream"\s*:\s*"([^"]+)"\s*,\s*"data"\s*:\s*(.*)\}', re.DOTALL)
_EVENT_TIME = re.compile(rb'"E"\s*:\s*([0-9]{10,16})\b')
_SYMBOL = re.compile(rb'"symbol"\s*:\s*"([^"]+)"')
_HOSTS = {"fstream": "um", "fapi": "um", "dstream": "cm", "dapi": "cm"}  # else spot's
# What only futures' messages have; with a pair they are COIN-M's.
_PAIR, _FUTURES = b'"ps":"', (b'"pu":', b'"X":"MARKET"', b'{"e":"bookTicker"')
# Between frames whose receipt nobody noted.
_STEP_US = 1000


@dataclass(frozen=True)
class Snapshot:
    """An answer of the depth route, as it was."""

    due_us: int
    market: str
    symbol: str
    body: bytes


class Recording:
    """Frames of any files, merged by time. A Source.

    A frame is sent when it was received; where the clock of the machine that recorded was behind
    the exchange's, all of its file is moved so that none is sent before its own event time.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        """Read files, or all files of folders. Raises InvalidError where a path has no frame."""
        self._events: dict[tuple[str, str], list[Event]] = {}
        self.snapshots: list[Snapshot] = []
        frames: list[tuple[int, str, str, bytes, bytes]] = []
        for path in paths:
            within = sorted(inner for inner in path.rglob("*") if inner.is_file())
            found = within if path.is_dir() else [path]
            files = [_File(file) for file in found]
            if not any(file.frames or file.snapshots for file in files):
                raise InvalidError(
                    f"{path} holds no frame of a stream", "known are lines of `time: {…}`"
                )
            for file in files:
                frames.extend(file.frames)
                self.snapshots.extend(file.snapshots)
        frames.sort(key=lambda frame: frame[0])
        self.snapshots.sort(key=lambda snapshot: snapshot.due_us)
        events = defaultdict(list)
        for order, (due_us, market, name, body, combined) in enumerate(frames):
            events[market, name].append(Event(due_us, order, body, combined))
        self._events = dict(events)
        self.span_us = (frames[0][0], frames[-1][0]) if frames else (0, 0)

    @property
    def streams(self) -> list[tuple[str, str]]:
        """Market and name of each, as recorded."""
        return sorted(self._events)

    def all_of(self, market: str, name: str) -> Sequence[Event]:
        """Every event of a stream, by the name it was recorded under."""
        return self._events.get((market, name), ())

    def book_of(self, market: str, symbol: str) -> Sequence[Event]:
        """Changes of a symbol's book, of whatever speed was recorded."""
        start = f"{symbol.lower()}@depth"
        for (at, name), events in self._events.items():
            if at == market and name in (start, *(f"{start}@{speed}" for speed in _SPEEDS)):
                return events
        return ()

    def events(self, name: StreamName, from_us: int) -> Iterator[Sequence[Event]] | None:
        found = self.all_of(name.market, name.text) or self.all_of(name.market, _capital(name.text))
        if found:
            return _pieces(found, from_us)
        if name.is_book and (found := self.book_of(name.market, name.symbol)):
            # The same changes by another name: the message is made anew around the same data.
            return _pieces([Event(e.due_us, e.order, e.body) for e in found], from_us)
        return None


_SPEEDS = ("100ms", "0ms", "250ms", "500ms", "1000ms")


def _pieces(events: Sequence[Event], from_us: int) -> Iterator[Sequence[Event]]:
    start = bisect_left(events, from_us, key=lambda event: event.due_us)
    for at in range(start, len(events), PIECE):
        yield events[at : at + PIECE]


def _capital(name: str) -> str:
    """Some recordings spell symbols in capitals."""
    symbol, at, what = name.partition("@")
    return symbol.upper() + at + what


class _File:
    """One file, read: frames as (due, market, name, data, whole message)."""

    def __init__(self, path: Path) -> None:
        lines = _lines(path)
        market = _market(lines)
        self.frames: list[tuple[int, str, str, bytes, bytes]] = []
        self.snapshots: list[Snapshot] = []
        snapshots: list[tuple[int, str, str, bytes]] = []
        late_us, last_us, timed = 0, 0, True
        for line in lines:
            match = _LINE.fullmatch(line)
            if match is None:
                continue
            url, time, body = match.groups()
            stamp = _EVENT_TIME.search(body)
            sent_us = int(stamp[1]) * 1000 if stamp else 0
            if time is None:
                timed = False
                last_us = last_us + _STEP_US if last_us else sent_us
            else:
                last_us = max(last_us, _micros(time))
            if frame := _FRAME.fullmatch(body):
                late_us = max(late_us, sent_us - last_us) if timed else 0
                self.frames.append((last_us, market, frame[1].decode(), frame[2], body))
            elif body.startswith(b'{"lastUpdateId"'):
                snapshots.append((last_us, *_whose(url, body, market), body))
        # A millisecond is as exactly as event times are told.
        move_us = late_us + 1000 if late_us else 0
        self.frames = [(due_us + move_us, *rest) for due_us, *rest in self.frames]  # type: ignore[misc]
        names = {name.partition("@")[0].upper() for _, _, name, _, _ in self.frames}
        only = names.pop() if len(names) == 1 else ""
        self.snapshots = [
            Snapshot(due_us + move_us, at, symbol or only, body)
            for due_us, at, symbol, body in snapshots
            if symbol or only
        ]


def _lines(path: Path) -> list[bytes]:
    try:
        data = path.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidError(f"the recording {path} cannot be read: {error}") from error
    return data.split(b"\n")


def _market(lines: Sequence[bytes]) -> str:
    """By the address that was asked, else by what the messages have."""
    if lines and lines[0].startswith(b"wss://"):
        return _market_of_host(lines[0].decode("utf-8", "replace"))
    futures = False
    for line in lines:
        if _PAIR in line:
            return "cm"
        futures = futures or any(mark in line for mark in _FUTURES)
    return "um" if futures else "spot"


def _market_of_host(url: str) -> str:
    host = urlsplit(url.split()[0]).hostname or ""
    return next((market for start, market in _HOSTS.items() if host.startswith(start)), "spot")


def _whose(url: bytes | None, body: bytes, market: str) -> tuple[str, str]:
    """Market and symbol of an answer; the symbol is empty where it is not said."""
    if url is not None:
        text = url.decode("utf-8", "replace")
        return _market_of_host(text), parse_qs(urlsplit(text).query).get("symbol", [""])[0]
    told = _SYMBOL.search(body)
    return market, told[1].decode() if told else ""


def _micros(time: bytes) -> int:
    """Seconds, or nanoseconds where it is so long."""
    number = Decimal(time.decode())
    return int(number // 1000) if number > 10**17 else int(number * 1_000_000)
