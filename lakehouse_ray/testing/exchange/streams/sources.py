"""Where the replica's streams come from: a recording first, then the rows of its archive."""

from __future__ import annotations

from lakehouse_ray.testing.exchange.history import History
from lakehouse_ray.testing.exchange.streams.book import RecordedBooks
from lakehouse_ray.testing.exchange.streams.events import Source
from lakehouse_ray.testing.exchange.streams.recorded import Recording
from lakehouse_ray.testing.exchange.streams.rows import RowStreams


def sources_of(
    history: History, recording: Recording | None, books: RecordedBooks | None
) -> list[Source]:
    """The first that has a stream plays it."""
    recorded = [source for source in (recording, books) if source is not None]
    return [*recorded, RowStreams(history)]
