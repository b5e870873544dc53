"""What any source of bulk files offers: a listing, and the address of each object."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import polars as pl

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.instrument import Instrument
from lakehouse_ray.model.records.instruments import InstrumentRecord
from lakehouse_ray.model.timespan import TimeRange
from lakehouse_ray.model.venue import Freq, Market

# One row per object, sorted by key. `checksum_etag` is null where no CHECKSUM is listed beside it;
# times are microseconds since 1970 UTC.
LISTING_SCHEMA = pl.Schema(
    {
        "key": pl.String,
        "symbol": pl.String,
        "freq": pl.String,
        "period_start": pl.Int64,
        "period_end": pl.Int64,
        "size": pl.Int64,
        "etag": pl.String,
        "checksum_etag": pl.String,
        "last_modified": pl.Int64,
    }
)


# As it was unpacked: a copy of it costs as much as a fifth of unpacking it. Nobody writes to it.
Csv = bytes | bytearray


@dataclass(frozen=True)
class Selection:
    """What to take of a data set.

    symbols: Empty: every symbol that is listed, delisted ones too, and that the other filters let
        through.
    span: Objects whose period touches it; None: all.
    """

    dataset: Dataset
    market: Market
    interval: str | None
    symbols: tuple[str, ...] = ()
    quote: str | None = None
    leveraged: bool = True
    stable_pairs: bool = True
    contract: str | None = None
    span: TimeRange | None = None

    def admits(self, instrument: Instrument) -> bool:
        """Whether the filters (not the list of symbols) let the instrument through."""
        return (
            (self.quote is None or instrument.quote == self.quote)
            and (self.leveraged or not instrument.leveraged)
            and (self.stable_pairs or not instrument.stable_pair)
            and (self.contract is None or instrument.contract == self.contract)
        )


@dataclass(frozen=True)
class Listing:
    """What a source has of a selection.

    objects: Rows of LISTING_SCHEMA.
    unrecognised: Keys whose names are none of the data set's; they are left alone and reported.
    pages: Answers the listing took.
    """

    objects: pl.DataFrame
    unrecognised: tuple[str, ...]
    pages: int


class ObjectSource(Protocol):
    """An archive of objects."""

    venue: str

    def list_objects(
        self,
        selection: Selection,
        freqs: Sequence[Freq],
        progress: Callable[[int], None] | None = None,
    ) -> Listing:
        """List the objects of a selection; `progress` is told the number of keys seen so far.

        Raises NotFoundError for a symbol asked for by name that is not listed.
        """

    def list_symbols(self, selection: Selection, freqs: Sequence[Freq]) -> list[str]:
        """Every symbol that is listed and that the filters let through, sorted."""

    def object_url(self, key: str) -> str: ...

    def checksum_url(self, key: str) -> str: ...


@dataclass(frozen=True)
class CsvFile:
    """The inflated bytes of one file, and what its name promises.

    period: The day or month of the file.
    """

    key: str
    symbol: str
    period: TimeRange
    data: Csv


@dataclass(frozen=True)
class BadRow:
    """A row that was refused.

    line: From 1, the header counted.
    """

    line: int
    reason: str
    detail: str
    raw: str


@dataclass(frozen=True)
class FoundLines:
    """Lines of a file as they stand there. header: Empty where the file has none."""

    header: str
    lines: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class BadRecord(BadRow):
    """A record of an answer that was refused.

    line: Its place in the answer, from 1. symbol: Empty where it does not tell.
    """

    symbol: str = ""


@dataclass(frozen=True)
class SymbolState:
    """What an answer says of one symbol.

    raw: The record as JSON, its keys sorted. digest: Of `raw`.
    """

    record: InstrumentRecord
    raw: str
    digest: str


@dataclass(frozen=True)
class ExchangeInfo:
    """What an exchange says of all its symbols at a moment.

    states: By symbol.
    refused: Records that are malformed, or whose symbol has another record that says otherwise.
    """

    states: Mapping[str, SymbolState]
    refused: tuple[BadRecord, ...]

    @property
    def doubtful(self) -> frozenset[str]:
        """Symbols of refused records: neither present nor absent."""
        return frozenset(row.symbol for row in self.refused if row.symbol)

    @property
    def nameless(self) -> bool:
        """Some refused record does not tell its symbol: then no symbol can be said to be absent."""
        return any(not row.symbol for row in self.refused)


@dataclass(frozen=True)
class Decoded:
    """Rows of the files asked for, in the files' order.

    frame: The data set's own columns; times in UTC microseconds. Keys are unique in each file.
    rows: Rows of each file in `frame`.
    bad: Refused rows of each file.
    ordered: All rows are in strict order of time and key, across the files too.
    duplicates: Rows dropped in each file because another of its rows is the same in every cell.
    clashing: Keys of which rows were refused because they differ; of one file alone.
    """

    frame: pl.DataFrame
    rows: tuple[int, ...]
    bad: tuple[tuple[BadRow, ...], ...]
    duplicates: tuple[int, ...]
    ordered: bool = False
    clashing: pl.DataFrame | None = None


class ObjectDecoder(Protocol):
    """Reads the objects of a source.

    version: Raised whenever the same bytes could be read differently.
    """

    version: int

    def unpack(self, key: str, data: bytes, room_bytes: int) -> Csv | None:
        """Return the CSV in an object's bytes; None where it is larger than `room_bytes`.

        Raises BadDataError where there is none.
        """

    def check(self, dataset: Dataset, market: Market, key: str, csv: Csv) -> None:
        """Raises BadDataError where the CSV as a whole is not of the data set."""

    def decode(self, dataset: Dataset, market: Market, files: Sequence[CsvFile]) -> list[Decoded]:
        """Decode checked files of one symbol, in the order given; one result per run of files."""

    def decode_pieces(
        self,
        dataset: Dataset,
        market: Market,
        key: str,
        symbol: str,
        period: TimeRange,
        file: Path,
        piece_bytes: int,
    ) -> Iterator[Decoded]:
        """Decode one object too large for memory, in pieces of about `piece_bytes` of CSV.

        Keys are unique in each piece only. Raises BadDataError, at the end at the latest: nothing
        of the object may be used before.
        """


# Finds the lines of a zip whose time lies in a range: data set, market, key, file, range.
FindLines = Callable[[Dataset, Market, str, Path, TimeRange], FoundLines]
