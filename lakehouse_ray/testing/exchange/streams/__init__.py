"""The exchange's websocket: its protocol and its limits, played from recordings and from rows.

Messages have the fields, the order and the number texts of frames recorded from the exchange.
"""

from lakehouse_ray.testing.exchange.streams.book import RecordedBooks
from lakehouse_ray.testing.exchange.streams.hub import Streams, asked_for
from lakehouse_ray.testing.exchange.streams.limits import LIMITS, StreamLimits
from lakehouse_ray.testing.exchange.streams.recorded import Recording
from lakehouse_ray.testing.exchange.streams.sources import sources_of

__all__ = [
    "LIMITS",
    "RecordedBooks",
    "Recording",
    "StreamLimits",
    "Streams",
    "asked_for",
    "sources_of",
]
