"""Where the replica's streams come from: a recording first, then the rows of its archive."""

from __future__ import annotations

from lakehouse_ray.testing.exchange.archive import Archive
from lakehouse_ray.testing.exchange.streams.book import RecordedBooks
from lakehouse_ray.testing.exchange.streams.events import Source
from lakehouse_ray.testing.exchange.streams.recorded import Recording


def sources_of(
    archive: Archive, recording: Recording | None, books: RecordedBooks | None
) -> list[Source]:
    return [source for source in (recording, books) if source is not None]
