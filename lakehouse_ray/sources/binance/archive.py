"""Binance's bulk archive, from its bucket listing alone.

data/<spot | futures/um | futures/cm>/<daily | monthly>/<type>/<SYMBOL>[/<interval>]/<file>.zip
"""

from __future__ import annotations

import asyncio
import difflib
import re
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from urllib.parse import quote, urlencode

import polars as pl

from lakehouse_ray.clock import Clock
from lakehouse_ray.errors import BadDataError, InvalidError, NotFoundError, UnavailableError
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.instrument import parse_symbol
from lakehouse_ray.model.records.base import read_record
from lakehouse_ray.model.records.listing import ListedObject
from lakehouse_ray.model.timespan import TimeRange, day_range, from_us, month_range, to_us
from lakehouse_ray.model.venue import Freq, Market
from lakehouse_ray.sources.http import HttpClient, RetryPolicy
from lakehouse_ray.sources.source import LISTING_SCHEMA, Listing, Selection

_MARKET_FOLDER = {"spot": "spot", "um": "futures/um", "cm": "futures/cm"}
_PERIOD = re.compile(r"(?P<year>\d{4})-(?P<month>\d{1,2})(?:-(?P<day>\d{1,2}))?")
# The daily folders have no bars longer than a day.
_MONTHLY_ONLY = frozenset({"3d", "1w", "1mo"})


@dataclass(frozen=True)
class ListPage:
    """One answer of the bucket.

    next_marker: Where the next page begins; empty on the last.
    """

    objects: tuple[ListedObject, ...]
    prefixes: tuple[str, ...]
    next_marker: str


def folder_of(
    dataset: Dataset, market: Market, freq: Freq, symbol: str = "", interval: str | None = None
) -> str:
    """The prefix of a data set, or of a symbol in it; ends with a slash."""
    folder = f"data/{_MARKET_FOLDER[market]}/{freq}/{dataset.name}/"
    if symbol:
        folder += f"{symbol}/{interval}/" if dataset.bars else f"{symbol}/"
    return folder


def parse_period(name: str, stem: str) -> tuple[Freq, TimeRange] | None:
    """Read the day or month of `<stem>-2024-01[-05].zip`; None where the name is another.

    Months and days without a leading zero have been published.
    """
    if not name.startswith(f"{stem}-") or not name.endswith(".zip"):
        return None
    match = _PERIOD.fullmatch(name[len(stem) + 1 : -len(".zip")])
    if match is None:
        return None
    try:
        if match["day"] is None:
            return "monthly", month_range(int(match["year"]), int(match["month"]))
        day = date(int(match["year"]), int(match["month"]), int(match["day"]))
    except (ValueError, InvalidError):
        return None
    return "daily", day_range(day)


def stem_of(dataset: Dataset, symbol: str, interval: str | None) -> str:
    """How the file names of a symbol begin."""
    return f"{symbol}-{interval}" if dataset.bars else f"{symbol}-{dataset.name}"


def parse_page(body: bytes, url: str) -> ListPage:
    """Read a ListBucketResult. Raises UnavailableError where the answer is none."""
    try:
        root = ET.fromstring(body)
    except ET.ParseError as error:
        raise UnavailableError(
            f"{url} answered no bucket listing ({error}): {body[:80]!r}. Check binance.listing_url."
        ) from error
    namespace = root.tag[: root.tag.index("}") + 1] if root.tag.startswith("{") else ""
    if root.tag != f"{namespace}ListBucketResult":
        raise UnavailableError(f"{url} answered <{root.tag}>: {body[:300]!r}")
    objects, prefixes, truncated, marker = [], [], False, ""
    for element in root:
        tag = element.tag[len(namespace) :]
        if tag == "Contents":
            cells = {child.tag[len(namespace) :]: child.text or "" for child in element}
            try:
                objects.append(read_record(ListedObject, cells))
            except BadDataError as error:
                raise UnavailableError(f"{url} listed an object oddly: {error.detail}") from error
        elif tag == "CommonPrefixes":
            prefixes += [child.text or "" for child in element]
        elif tag == "IsTruncated":
            truncated = element.text == "true"
        elif tag == "NextMarker":
            marker = element.text or ""
    if truncated and not marker:
        # Without a delimiter S3 names no marker: the last key is it.
        last = [item.key for item in objects[-1:]] + prefixes[-1:]
        if not last:
            raise UnavailableError(f"{url} answered a truncated page without keys")
        marker = max(last)
    return ListPage(tuple(objects), tuple(prefixes), marker if truncated else "")


class BinanceArchive:
    """The archive behind two addresses: one that lists, one that serves objects."""

    venue = "binance"

    def __init__(
        self,
        archive_url: str,
        listing_url: str,
        *,
        in_flight_max: int,
        timeout_s: float,
        retry: RetryPolicy,
        clock: Clock,
    ) -> None:
        self._archive_url = archive_url
        self._listing_url = listing_url
        self._in_flight_max = in_flight_max
        self._timeout_s = timeout_s
        self._retry = retry
        self._clock = clock

    def object_url(self, key: str) -> str:
        # Unicode symbols are percent-encoded as UTF-8; nothing is upper-cased.
        return f"{self._archive_url}/{quote(key)}"

    def checksum_url(self, key: str) -> str:
        return f"{self.object_url(key)}.CHECKSUM"

    def list_symbols(self, selection: Selection, freqs: Sequence[Freq]) -> list[str]:
        async def work() -> list[str]:
            client = self._client()
            try:
                return await self._symbols(client, selection, freqs)
            finally:
                await client.close()

        return asyncio.run(work())

    def list_objects(
        self,
        selection: Selection,
        freqs: Sequence[Freq],
        progress: Callable[[int], None] | None = None,
    ) -> Listing:
        return asyncio.run(self._list(selection, freqs, progress))

    def _client(self) -> HttpClient:
        return HttpClient(self._in_flight_max, self._timeout_s, self._retry, self._clock)

    async def _list(
        self,
        selection: Selection,
        freqs: Sequence[Freq],
        progress: Callable[[int], None] | None,
    ) -> Listing:
        client = self._client()
        try:
            symbols = list(selection.symbols)
            if not symbols:
                symbols = await self._symbols(client, selection, freqs)
            jobs = [
                (symbol, freq)
                for symbol in symbols
                for freq in freqs
                if freq in selection.dataset.archive[selection.market]
                and not (freq == "daily" and selection.interval in _MONTHLY_ONLY)
            ]
            gathered = _Gathered()
            queue = iter(jobs)

            async def worker() -> None:
                for symbol, freq in queue:
                    await self._list_symbol(client, selection, symbol, freq, gathered)
                    if progress is not None:
                        progress(gathered.keys_seen)

            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._in_flight_max, len(jobs))):
                    group.create_task(worker())
            missing = sorted(set(selection.symbols) - gathered.symbols)
            if missing:
                await self._refuse_unknown(client, selection, freqs, missing)
            return gathered.listing()
        except BaseExceptionGroup as group:
            # A group of failures is of no use to a caller: the first says enough.
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise error from None
        finally:
            await client.close()

    async def _symbols(
        self, client: HttpClient, selection: Selection, freqs: Sequence[Freq]
    ) -> list[str]:
        found: set[str] = set()
        for freq in freqs:
            if freq not in selection.dataset.archive[selection.market]:
                continue
            folder = folder_of(selection.dataset, selection.market, freq)
            async for page in self._pages(client, folder, delimiter="/"):
                found.update(prefix[len(folder) : -1] for prefix in page.prefixes)
        return sorted(
            symbol for symbol in found if selection.admits(parse_symbol(symbol, selection.market))
        )

    async def _refuse_unknown(
        self, client: HttpClient, selection: Selection, freqs: Sequence[Freq], missing: list[str]
    ) -> None:
        """A symbol that is listed but has nothing in the range is no error; an unknown one is."""
        unfiltered = Selection(selection.dataset, selection.market, selection.interval)
        listed = await self._symbols(client, unfiltered, freqs)
        for symbol in missing:
            if symbol not in listed:
                near = difflib.get_close_matches(symbol, listed, n=3, cutoff=0.5)
                near += [other for other in listed if other.upper() == symbol.upper()]
                raise NotFoundError(
                    f"no symbol {symbol!r} of {selection.market} {selection.dataset.name} is listed",
                    f"did you mean {', '.join(dict.fromkeys(near))}?" if near else "",
                )

    async def _list_symbol(
        self,
        client: HttpClient,
        selection: Selection,
        symbol: str,
        freq: Freq,
        gathered: _Gathered,
    ) -> None:
        dataset, span = selection.dataset, selection.span
        folder = folder_of(dataset, selection.market, freq, symbol, selection.interval)
        stem = stem_of(dataset, symbol, selection.interval)
        marker = ""
        if span is not None:
            # Names sort by date: pages of earlier years need not be asked for. A day of margin for
            # the file whose last row belongs to the next day.
            first = from_us(span.start_us) - timedelta(days=1 if freq == "daily" else 31)
            marker = f"{folder}{stem}-{first:%Y-%m}"
        async for page in self._pages(client, folder, marker=marker):
            if not gathered.add(page, folder, stem, symbol, span, dataset.slack_us):
                return

    async def _pages(
        self, client: HttpClient, prefix: str, *, delimiter: str = "", marker: str = ""
    ) -> AsyncIterator[ListPage]:
        while True:
            query = {"prefix": prefix, "delimiter": delimiter, "marker": marker}
            url = f"{self._listing_url}/?{urlencode({k: v for k, v in query.items() if v})}"
            page = parse_page((await client.get(url)).body, url)
            yield page
            if not page.next_marker:
                return
            if page.next_marker <= marker:
                raise UnavailableError(f"{url}: the listing does not go on after {marker!r}")
            marker = page.next_marker


class _Gathered:
    """Listed objects in columns: a million of them fit into memory."""

    def __init__(self) -> None:
        self._frames: list[pl.DataFrame] = []
        self._unrecognised: list[str] = []
        self._pages = 0
        self.keys_seen = 0
        self.symbols: set[str] = set()
        # A CHECKSUM can stand on the page after its zip.
        self._checksums: dict[str, str] = {}

    def add(
        self,
        page: ListPage,
        folder: str,
        stem: str,
        symbol: str,
        span: TimeRange | None,
        slack_us: int,
    ) -> bool:
        """Take a page in; False where no later key can be of use."""
        self._pages += 1
        self.keys_seen += len(page.objects)
        rows: list[tuple[object, ...]] = []
        going_on = True
        for item in page.objects:
            if item.key.endswith(".CHECKSUM"):
                self._checksums[item.key.removesuffix(".CHECKSUM")] = item.etag
                continue
            parsed = parse_period(item.key[len(folder) :], stem)
            if parsed is None:
                self._unrecognised.append(item.key)
                continue
            self.symbols.add(symbol)
            freq, period = parsed
            if span is not None:
                if period.start_us >= span.end_us:
                    going_on = False
                    continue
                if period.end_us + slack_us <= span.start_us:
                    continue
            rows.append(
                (
                    item.key, symbol, freq, period.start_us, period.end_us, item.size, item.etag,
                    None, to_us(item.last_modified),
                )
            )  # fmt: skip
        if rows:
            self._frames.append(pl.DataFrame(rows, schema=LISTING_SCHEMA, orient="row"))
        return going_on

    def listing(self) -> Listing:
        if not self._frames:
            return Listing(LISTING_SCHEMA.to_frame(), tuple(self._unrecognised), self._pages)
        checksums = pl.DataFrame(
            {"key": list(self._checksums), "_etag": list(self._checksums.values())},
            schema={"key": pl.String, "_etag": pl.String},
        )
        objects = (
            pl.concat(self._frames)
            .join(checksums, on="key", how="left")
            .with_columns(checksum_etag=pl.col("_etag"))
            .select(LISTING_SCHEMA.names())
            .sort("key")
        )
        return Listing(objects, tuple(sorted(self._unrecognised)), self._pages)
