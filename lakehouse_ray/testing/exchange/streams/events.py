"""Events of streams in the order of their moments, and where they come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from lakehouse_ray.testing.exchange.streams.names import StreamName


class Event(NamedTuple):
    """One message.

    due_us: When it is sent, by the exchange's clock.
    order: Among events of one moment, of all streams of the market.
    body: The data, as JSON. combined: The whole message of a combined stream, where it was recorded
        and so is not to be made anew.
    """

    due_us: int
    order: int
    body: bytes
    combined: bytes | None = None


class Source(Protocol):
    """Something that has events of some streams."""

    def events(self, name: StreamName, from_us: int) -> Iterator[Sequence[Event]] | None:
        """Events of a stream from a moment on, in pieces, in order; None where it has none ever.

        What the iterator does may take time; it is driven from a thread of its own.
        """
