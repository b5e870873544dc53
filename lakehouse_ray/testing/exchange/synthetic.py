"""An archive of a market that never was, made on the fly."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.testing.exchange.archive import Blob, Head
from lakehouse_ray.testing.exchange.bars import Bars, bar_open, day_bars, long_bar
from lakehouse_ray.testing.exchange.cache import BoundedCache
from lakehouse_ray.testing.exchange.csv_rows import (
    agg_trades_csv,
    funding_csv,
    header,
    klines_csv,
    metrics_csv,
    trades_csv,
)
from lakehouse_ray.testing.exchange.keys import (
    FREQUENCIES,
    INTERVAL_SECONDS,
    LONG_INTERVALS,
    ROOTS,
    SHAPES,
    ArchiveKey,
    seconds_of,
)
from lakehouse_ray.testing.exchange.market import Instrument
from lakehouse_ray.testing.exchange.universe import MARKETS, universe
from lakehouse_ray.testing.exchange.zips import member, pack

CHECKSUM = ".CHECKSUM"
DEFAULT_START = date(2024, 5, 1)
DEFAULT_END = date(2025, 2, 11)
_PRICE_KLINES = ("markPriceKlines", "indexPriceKlines", "premiumIndexKlines")
_TRADED = ("aggTrades", "klines", "trades")
# 150,000 zips of 430 bytes of memory each: all files of some 20 symbols for years.
_FACTS_BYTES_MAX = 64 * 2**20
_FACTS_BYTES = 430
# The names of 300 days in each of a thousand folders.
_LISTED_BYTES_MAX = 64 * 2**20
_NAME_BYTES = 100
# A zip is wanted again soon after: for its CHECKSUM, or by a GET after the listing.
_BODIES_BYTES_MAX = 64 * 2**20


@dataclass(frozen=True)
class _Facts:
    head: Head
    checksum: bytes


class SyntheticArchive:
    """A deterministic market in the layout of data.binance.vision.

    Trades are drawn; aggTrades, klines of all intervals and price klines follow from them and
    agree to the last digit. Objects are pure functions of the arguments and the key (and of numpy's
    and zlib's versions). They are made when they are first listed or asked for, about 2 ms for a
    day of 1m klines, and their sizes and ETags remembered.

    symbols: Names, Instruments, or how many per market; see `universe`.
    start, end: Days [start, end) that the market has; by default they cross the change to
        microseconds (2025-01-01) and end within a month, so that its days are there as daily files
        alone.
    trades_per_minute: At most, per symbol.
    level: Of zip compression, 1 (fast) to 9; 6 gives files as small as real ones. 0 is fastest, but
        its bytes may differ between processors.
    """

    def __init__(
        self,
        seed: int = 0,
        symbols: Sequence[str | Instrument] | int | None = None,
        markets: Sequence[str] = MARKETS,
        start: date = DEFAULT_START,
        end: date = DEFAULT_END,
        *,
        trades_per_minute: int = 4,
        level: int = 1,
    ) -> None:
        """Raise InvalidError where the arguments make no market."""
        if not 0 <= level <= 9:
            raise InvalidError(f"level must be 0 to 9, not {level}")
        self._seed = seed
        self._start = start
        self._end = end
        self._level = level
        self._instruments: dict[str, dict[str, Instrument]] = {}
        for instrument in universe(symbols, markets, start, end, trades_per_minute):
            self._instruments.setdefault(instrument.market, {})[instrument.symbol] = instrument
        self._listed: BoundedCache[list[str]] = BoundedCache(_LISTED_BYTES_MAX)
        self._facts: BoundedCache[_Facts] = BoundedCache(_FACTS_BYTES_MAX)
        self._bodies: BoundedCache[bytes] = BoundedCache(_BODIES_BYTES_MAX)

    @property
    def instruments(self) -> list[Instrument]:
        """All instruments, market by market."""
        return [one for market in self._instruments.values() for one in market.values()]

    def until(self, end: date) -> SyntheticArchive:
        """The same market, row for row, as it is known on another day: what REST has of days whose
        files this one does not have yet.
        """
        markets = [market for market in MARKETS if market in self._instruments]
        return SyntheticArchive(
            self._seed, self.instruments, markets, self._start, end, level=self._level
        )

    def children(self, folder: str) -> list[str]:
        names = self._listed.get(folder, None)
        if names is None:
            names = sorted(self._names(folder), key=str.encode)
            self._listed.put(folder, None, names, _NAME_BYTES * (1 + len(names)))
        return list(names)

    def inhabited(self, folder: str) -> bool:
        return any(True for _ in self._names(folder))

    def version(self, key: str) -> Hashable | None:
        return "" if self._published(key.removesuffix(CHECKSUM)) is not None else None

    def head(self, key: str) -> Head | None:
        name = key.removesuffix(CHECKSUM)
        parsed = self._published(name)
        if parsed is None:
            return None
        facts = self._facts.get(name, None) or self._make(parsed)[0]
        return _checksum_blob(facts).head if name != key else facts.head

    def read(self, key: str) -> Blob | None:
        name = key.removesuffix(CHECKSUM)
        parsed = self._published(name)
        if parsed is None:
            return None
        facts = self._facts.get(name, None)
        if name != key:
            return _checksum_blob(facts or self._make(parsed)[0])
        body = self._bodies.get(name, None)
        if facts is None or body is None:
            facts, body = self._make(parsed)
        return Blob(facts.head, body)

    def _make(self, key: ArchiveKey) -> tuple[_Facts, bytes]:
        csv = (header(key) + self._rows(key)).encode()
        body = pack(member(f"{key.stem}.csv", csv, self._level))
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        digest = hashlib.sha256(body).hexdigest()
        name = str(key)
        facts = _Facts(
            Head(len(body), etag, self._modified_s(key)), f"{digest}  {key.stem}.zip\n".encode()
        )
        self._facts.put(name, None, facts, _FACTS_BYTES)
        self._bodies.put(name, None, body, len(body))
        return facts, body

    def _rows(self, key: ArchiveKey) -> str:
        instrument = self._instruments[key.market][key.symbol]
        if key.dataset == "fundingRate":
            return funding_csv(self._seed, key, instrument)
        if key.interval in LONG_INTERVALS:
            return klines_csv(key, instrument, self._long_bars(key, instrument))
        days = [day for day in _days(key.period, key.end) if instrument.trades_on(day)]
        if key.interval:
            parts = [
                day_bars(self._seed, instrument, day, key.dataset, key.interval) for day in days
            ]
            return klines_csv(key, instrument, Bars.joined(parts))
        make = {"trades": trades_csv, "aggTrades": agg_trades_csv, "metrics": metrics_csv}
        return "".join(make[key.dataset](self._seed, key, instrument, day) for day in days)

    def _long_bars(self, key: ArchiveKey, instrument: Instrument) -> Bars:
        """A bar belongs to the month in which it opens, however far it reaches into the next."""
        opened = [day for day in _days(key.period, key.end) if bar_open(day, key.interval) == day]
        bars = (long_bar(self._seed, instrument, day, key.dataset, key.interval) for day in opened)
        return Bars.joined([bar for bar in bars if bar is not None])

    def _published(self, name: str) -> ArchiveKey | None:
        key = ArchiveKey.parse(name)
        if key is None or key.dataset not in self._datasets(key.market, key.frequency):
            return None
        instrument = self._instruments[key.market].get(key.symbol)
        if instrument is None or not _has(instrument, key.dataset):
            return None
        if key.interval not in _intervals(key.market, key.frequency, key.dataset):
            return None
        first, last = self._span(instrument, key.frequency, key.interval)
        return key if first <= key.period < last else None

    def _datasets(self, market: str, frequency: str) -> tuple[str, ...]:
        if market not in self._instruments:
            return ()
        if market == "spot":
            return _TRADED
        if frequency == "monthly":
            return (*_TRADED, *_PRICE_KLINES, "fundingRate")
        return (*_TRADED, *_PRICE_KLINES, *(("metrics",) if market == "um" else ()))

    def _span(self, instrument: Instrument, frequency: str, interval: str) -> tuple[date, date]:
        """The periods [first, last) that have a file."""
        first = instrument.listed
        last = min(self._end, instrument.delisted or self._end)
        if frequency == "daily":
            return first, last
        if interval in LONG_INTERVALS:
            first = bar_open(first, interval)
            opened = bar_open(last - timedelta(days=1), interval)
            last = opened + timedelta(days=1)
        # Months that have ended alone.
        return first.replace(day=1), min(last, self._end.replace(day=1))

    def _names(self, folder: str) -> Iterator[str]:
        """The names below `folder`, in no order."""
        roots = [f"{ROOTS[market]}/" for market in self._instruments]
        below = [root for root in roots if root.startswith(folder) and root != folder]
        if below:
            yield from {root[len(folder) :].split("/")[0] + "/" for root in below}
            return
        if not any(folder.startswith(root) for root in roots):
            return
        market = next(market for market, root in ROOTS.items() if folder.startswith(f"{root}/"))
        parts = folder.removeprefix(f"{ROOTS[market]}/").split("/")[:-1]
        yield from self._below(market, parts)

    def _below(self, market: str, parts: list[str]) -> Iterator[str]:
        if not parts:
            names = [name for name in FREQUENCIES if self._any(market, name)]
        elif len(parts) == 1:
            names = [d for d in self._datasets(market, parts[0]) if self._any(market, parts[0], d)]
        else:
            frequency, dataset = parts[:2]
            if dataset not in self._datasets(market, frequency):
                return
            if len(parts) == 2:
                names = list(self._symbols(market, frequency, dataset))
            elif SHAPES[dataset].by_interval and len(parts) == 3:
                names = [
                    interval
                    for interval in _intervals(market, frequency, dataset)
                    if parts[2] in self._symbols(market, frequency, dataset, interval)
                ]
            else:
                yield from self._files(market, parts)
                return
        for name in names:
            yield f"{name}/"

    def _any(self, market: str, frequency: str, dataset: str | None = None) -> bool:
        datasets = self._datasets(market, frequency) if dataset is None else (dataset,)
        return any(True for name in datasets for _ in self._symbols(market, frequency, name))

    def _symbols(
        self, market: str, frequency: str, dataset: str, interval: str = ""
    ) -> Iterator[str]:
        """Those with a file: in any interval, or in this one."""
        intervals = (interval,) if interval else _intervals(market, frequency, dataset)
        for symbol, instrument in self._instruments[market].items():
            spans = (self._span(instrument, frequency, one) for one in intervals)
            if _has(instrument, dataset) and any(first < last for first, last in spans):
                yield symbol

    def _files(self, market: str, parts: list[str]) -> Iterator[str]:
        frequency, dataset, symbol, *rest = parts
        interval = rest[0] if rest else ""
        instrument = self._instruments[market].get(symbol)
        if instrument is None or not _has(instrument, dataset) or len(rest) > 1:
            return
        if interval not in _intervals(market, frequency, dataset):
            return
        period, last = self._span(instrument, frequency, interval)
        while period < last:
            key = ArchiveKey(market, frequency, dataset, symbol, interval, period)
            yield f"{key.stem}.zip"
            yield f"{key.stem}.zip{CHECKSUM}"
            period = key.end

    def _modified_s(self, key: ArchiveKey) -> int:
        """Days appear the next morning, months on the first Monday after them."""
        day = key.end
        if key.frequency == "monthly":
            day += timedelta(days=-day.weekday() % 7)
        digest = hashlib.blake2b(str(key).encode(), digest_size=2).digest()
        return seconds_of(day) + 5 * 3600 + int.from_bytes(digest, "little") % 7200


def _checksum_blob(facts: _Facts) -> Blob:
    etag = hashlib.md5(facts.checksum, usedforsecurity=False).hexdigest()
    return Blob(Head(len(facts.checksum), etag, facts.head.modified_s), facts.checksum)


def _intervals(market: str, frequency: str, dataset: str) -> tuple[str, ...]:
    if not SHAPES[dataset].by_interval:
        return ("",)
    return tuple(
        interval
        for interval in INTERVAL_SECONDS
        if (interval != "1s" or (market == "spot" and dataset == "klines"))
        and (interval not in LONG_INTERVALS or frequency == "monthly")
    )


def _has(instrument: Instrument, dataset: str) -> bool:
    return instrument.perpetual if dataset == "fundingRate" else True


def _days(start: date, end: date) -> list[date]:
    return [start + timedelta(days=number) for number in range((end - start).days)]
