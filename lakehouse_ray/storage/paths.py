"""Where each thing of the lake lives, relative to its root. The one place that spells a path.

bronze/<venue>/<key of the object, without .zip>@<sha256>.zip
bronze/<venue>/<api|fapi|dapi>/<route>@<sha256>.json        answers of REST
bronze/<venue>/stream/<market>/<day>/<capture>@<sha256>.frames.gz   frames of websockets
tables/<schema>/<table>/{data,metadata}/…       kept by the table format
cache/answers/<key>                             large answers of the service, given again
tmp/                                            written aside, then moved
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lakehouse_ray.errors import InvalidError

TABLES = "tables"
BRONZE = "bronze"
# Nothing of the lake: may be removed at any time.
ANSWERS = "cache/answers"

_SHA256 = re.compile(r"[0-9a-f]{64}")
# Unicode symbols are real (币安人生USDT); separators, dots alone and control characters are not.
_SEGMENT = re.compile(r"(?!\.{1,2}$)[^/\\\x00-\x1f\x7f@]{1,200}")
_ANSWER = re.compile(r"[0-9a-f]{32,64}", re.ASCII)
_VENUE = re.compile(r"[a-z0-9_]{1,32}")
# Routes of REST; no key of the archive begins so.
_ROUTE = re.compile(r"[fd]?api/[A-Za-z0-9/]{1,150}")
_CAPTURE = re.compile(r"stream/[a-z]{2,10}/[0-9]{4}-[0-9]{2}-[0-9]{2}/[a-z0-9-]{1,80}", re.ASCII)


def marker_path(run_id: str) -> str:
    """Where a run leaves something for its workers to see."""
    return f"tmp/run-{run_id}"


def answer_path(key: str) -> str:
    """Where an answer of the service is kept. key: Hexadecimal.

    Raises InvalidError for anything else.
    """
    if not _ANSWER.fullmatch(key):
        raise InvalidError(f"not the key of an answer: {key!r}")
    return f"{ANSWERS}/{key}"


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

    key: Of a zip of the archive, the route of an answer of REST, or the name of a segment of frames
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
        if not any(
            (self.key.endswith(".zip"), _ROUTE.fullmatch(self.key), _CAPTURE.fullmatch(self.key))
        ):
            raise InvalidError(f"no key of a zip, no route and no capture: {self.key!r}")

    def __str__(self) -> str:
        stem, suffix = self.key, ".json"
        if self.key.endswith(".zip"):
            stem, suffix = self.key[: -len(".zip")], ".zip"
        elif _CAPTURE.fullmatch(self.key):
            suffix = ".frames.gz"
        return f"{BRONZE}/{self.venue}/{stem}@{self.sha256}{suffix}"

    @classmethod
    def parse(cls, path: str) -> BronzePath:
        schema, _, rest = path.partition("/")
        venue, _, tail = rest.partition("/")
        stem, _, name = tail.rpartition("@")
        sha256, dot, suffix = name.partition(".")
        if schema != BRONZE or dot + suffix not in (".zip", ".json", ".frames.gz"):
            raise InvalidError(f"not a path of bronze: {path!r}")
        found = cls(venue, f"{stem}.zip" if suffix == "zip" else stem, sha256)
        if str(found) != path:
            raise InvalidError(f"not a path of bronze: {path!r}")
        return found
