"""What any source of bulk files offers: a listing, and the address of each object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.instrument import Instrument
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
