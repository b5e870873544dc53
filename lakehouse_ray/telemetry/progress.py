"""How far a run is: as a line of what it says, and read from such a line again."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_LINE = re.compile(r"([\d,]{1,24}) of ([\d,]{1,24}) ([a-z]+), (.*)", re.ASCII)


@dataclass(frozen=True)
class Progress:
    """done, total: Of `what`, such as files. note: What has come of it so far."""

    done: int
    total: int
    what: str
    note: str

    def __str__(self) -> str:
        return f"{self.done:,} of {self.total:,} {self.what}, {self.note}"


def last_progress(lines: Iterable[str]) -> Progress | None:
    """What the last such line among others says."""
    found = None
    for line in lines:
        if (match := _LINE.fullmatch(line.rstrip("\r\n"))) is not None:
            done, total = (int(part.replace(",", "") or 0) for part in match.group(1, 2))
            found = Progress(done, total, match[3], match[4])
    return found
