"""Where each thing of the lake lives, relative to its root. The one place that spells a path.

bronze/<venue>/<key of the object, without .zip>@<sha256>.zip
bronze/<venue>/<api|fapi|dapi>/<route>@<sha256>.json        answers of REST
bronze/<venue>/rest/<market>/<dataset>/<day>@<sha256>.jsonl.gz  many of them, as they came
bronze/<venue>/stream/<market>/<day>/<capture>@<sha256>.frames.gz   frames of websockets
tables/<schema>/<table>/{data,metadata}/…       kept by the table format
limits/<exchange>/<instance>.json               what was asked of an exchange lately, and its bans
jobs/<id>.json                                  what became of a job of a cluster
cache/answers/<key>                             large answers of the service, given again
tmp/                                            written aside, then moved
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.timespan import from_us

TABLES = "tables"
BRONZE = "bronze"
# May be removed where no run asks an exchange and no ban lasts.
LIMITS = "limits"
# Nothing of the lake: may be removed at any time.
ANSWERS = "cache/answers"

_SHA256 = re.compile(r"[0-9a-f]{64}")
# Unicode symbols are real (币安人生USDT); separators, dots alone and control characters are not.
_SEGMENT = re.compile(r"(?!\.{1,2}$)[^/\\\x00-\x1f\x7f@]{1,200}")
_ANSWER = re.compile(r"[0-9a-f]{32,64}", re.ASCII)
_EXCHANGE = re.compile(r"[0-9a-f]{8,64}", re.ASCII)
_MARKER = re.compile(r"tmp/run-([0-9a-f]+-[0-9a-f]+)", re.ASCII)
_JOB = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,119}", re.ASCII)
_VENUE = re.compile(r"[a-z0-9_]{1,32}")
# Routes of REST; no key of the archive begins so.
_ROUTE = re.compile(r"[fd]?api/[A-Za-z0-9/]{1,150}")
_PACK = re.compile(r"rest/[a-z]{2,4}/[A-Za-z]{1,40}/\d{4}-\d{2}-\d{2}", re.ASCII)
_CAPTURE = re.compile(r"stream/[a-z]{2,10}/[0-9]{4}-[0-9]{2}-[0-9]{2}/[a-z0-9-]{1,80}", re.ASCII)
# Of what is no zip, by its key.
_SUFFIXES = ((_ROUTE, ".json"), (_PACK, ".jsonl.gz"), (_CAPTURE, ".frames.gz"))


def table_folder(name: str) -> str:
    """Where the files of a table are. name: `schema.table`."""
    return f"{TABLES}/{name.replace('.', '/')}"


def marker_folder() -> str:
    """Where all runs leave something."""
    return "tmp"


def marker_path(run_id: str) -> str:
    """Where a run leaves something for its workers, and those that come after it, to see."""
    return f"{marker_folder()}/run-{run_id}"


def run_of_marker(path: str) -> str | None:
    """The run that left it; None: something else."""
    found = _MARKER.fullmatch(path)
    return found.group(1) if found else None


def jobs_folder() -> str:
    return "jobs"


def job_path(job_id: str) -> str:
    """Where a job of a cluster leaves what became of it. Raises InvalidError for what is no id."""
    if not _JOB.fullmatch(job_id):
        raise InvalidError(f"not the id of a job: {job_id[:130]!r}")
    return f"{jobs_folder()}/{job_id}.json"


def probe_path(name: str) -> str:
    """Where an object is put for a moment to see when the store says that was. name: Hexadecimal.

    Raises InvalidError for anything else.
    """
    if not _ANSWER.fullmatch(name):
        raise InvalidError(f"not the name of a probe: {name!r}")
    return f"{marker_folder()}/clock-{name}"


def captured_folder(market: str, day_us: int) -> str:
    """Where frames are kept that were captured of a market on a day (UTC)."""
    return f"{BRONZE}/binance/stream/{market}/{from_us(day_us):%Y-%m-%d}"


def sha256_of(path: str) -> str:
    """The hash of an object's bytes, as its path in bronze tells it."""
    return BronzePath.parse(path).sha256


def answer_path(key: str) -> str:
    """Where an answer of the service is kept. key: Hexadecimal.

    Raises InvalidError for anything else.
    """
    if not _ANSWER.fullmatch(key):
        raise InvalidError(f"not the key of an answer: {key!r}")
    return f"{ANSWERS}/{key}"


def budget_folder(exchange: str) -> str:
    """Where the accounts of what was asked of an exchange are. exchange: Hexadecimal."""
    if not _EXCHANGE.fullmatch(exchange):
        raise InvalidError(f"not the name of an exchange: {exchange!r}")
    return f"{LIMITS}/{exchange}"


def budget_path(exchange: str, instance: str) -> str:
    """Where one instance keeps its account. Both hexadecimal."""
    if not _ANSWER.fullmatch(instance):
        raise InvalidError(f"not the name of an instance: {instance!r}")
    return f"{budget_folder(exchange)}/{instance}.json"


def validate_key(key: str) -> str:
    """Return the archive's key if it can name a file below the root.

    Raises InvalidError for one that could lead elsewhere (`..`, absolute, control characters).
    """
    if not all(_SEGMENT.fullmatch(segment) for segment in key.split("/")):
        raise InvalidError(f"not the key of an object: {key!r}")
    return key


@dataclass(frozen=True)
class BronzePath:
    """Where one version of one object is kept, byte for byte.

    key: Of a zip of the archive, the route of an answer of REST, what many answers are of
        (`rest/um/klines/2024-08-08`), or the name of a segment of frames
        (`stream/um/2024-08-08/…`).
    """

    venue: str
    key: str
    sha256: str

    def __post_init__(self) -> None:
        validate_key(self.key)
        if not _VENUE.fullmatch(self.venue):
            raise InvalidError(f"not a venue: {self.venue!r}")
        if not _SHA256.fullmatch(self.sha256):
            raise InvalidError(f"not a sha256: {self.sha256!r}")
        if not self._suffix:
            raise InvalidError(f"no key of a zip, no route, pack or capture: {self.key!r}")

    @property
    def _suffix(self) -> str:
        if self.key.endswith(".zip"):
            return ".zip"
        return next((suffix for kind, suffix in _SUFFIXES if kind.fullmatch(self.key)), "")

    def __str__(self) -> str:
        stem, suffix = self.key.removesuffix(".zip"), self._suffix
        return f"{BRONZE}/{self.venue}/{stem}@{self.sha256}{suffix}"

    @classmethod
    def parse(cls, path: str) -> BronzePath:
        schema, _, rest = path.partition("/")
        venue, _, tail = rest.partition("/")
        stem, _, name = tail.rpartition("@")
        sha256, dot, suffix = name.partition(".")
        if schema != BRONZE or not dot:
            raise InvalidError(f"not a path of bronze: {path!r}")
        found = cls(venue, f"{stem}.zip" if suffix == "zip" else stem, sha256)
        if str(found) != path:
            raise InvalidError(f"not a path of bronze: {path!r}")
        return found
