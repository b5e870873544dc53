"""The replica exchange: data.binance.vision on loopback, with every known defect on a switch.

It shares no code with the readers it tests.
"""

from lakehouse_ray.testing.exchange.api.limits import RateLimits
from lakehouse_ray.testing.exchange.archive import Archive, Blob, FolderArchive, Head, walk
from lakehouse_ray.testing.exchange.faults import FAULTS, Faults, Rule
from lakehouse_ray.testing.exchange.history import History, Row, Series
from lakehouse_ray.testing.exchange.market import Instrument
from lakehouse_ray.testing.exchange.materialise import Written, write_archive
from lakehouse_ray.testing.exchange.replay_clock import ReplayClock
from lakehouse_ray.testing.exchange.rest import RestAnswers, made_of, recorded
from lakehouse_ray.testing.exchange.server import ReplicaExchange
from lakehouse_ray.testing.exchange.streams import LIMITS, Recording, StreamLimits
from lakehouse_ray.testing.exchange.synthetic import SyntheticArchive

__all__ = [
    "FAULTS",
    "LIMITS",
    "Archive",
    "Blob",
    "Faults",
    "FolderArchive",
    "Head",
    "History",
    "Instrument",
    "RateLimits",
    "Recording",
    "ReplayClock",
    "ReplicaExchange",
    "RestAnswers",
    "Row",
    "Rule",
    "Series",
    "StreamLimits",
    "SyntheticArchive",
    "Written",
    "made_of",
    "recorded",
    "walk",
    "write_archive",
]
