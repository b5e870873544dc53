"""When something is done to a running ingestion: a point in time, or the middle of a commit."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path

from support.commands import Command

# Where the metadata of each table comes to lie, below the lake's root.
COMMITS = {
    "silver": "tables/silver/klines_fine/metadata",
    "quarantine": "tables/silver/quarantine_log/metadata",
    "ledger": "tables/bronze/object_log/metadata",
}


@dataclass(frozen=True)
class Moment:
    """share: Of the time that work takes, from its first task; below 0: of the time before it.

    commit: Instead, while this table's snapshot number `number` is written: its manifest list is
        there, the catalog may or may not know of it.
    """

    share: float = 0.0
    commit: str = ""
    number: int = 0

    def __str__(self) -> str:
        if self.commit:
            return f"in {self.commit} commit {self.number}"
        return f"at {self.share:.0%} of the work" if self.share >= 0 else "before work begins"

    def await_in(self, command: Command, home: Path, start_s: float, work_s: float) -> None:
        """Wait for the moment; returns early where the command ends before it comes.

        start_s, work_s: What an undisturbed run takes until workers are up, and from there.
        """
        if self.share < 0:
            time.sleep(max(0.0, start_s * (1 + self.share)))
            return
        command.wait_for_work()
        if not self.commit:
            time.sleep(self.share * work_s)
            return
        folder = home / "data" / COMMITS[self.commit]
        while command.process.poll() is None:
            if len(list(folder.glob("snap-*.avro"))) >= self.number:
                return
            time.sleep(0.0005)


def draw(rng: random.Random, number: int, commits: int) -> Moment:
    """Every third moment is in a commit, every seventh before work begins."""
    if number % 7 == 6:
        return Moment(share=-rng.uniform(0.05, 0.9))
    if number % 3 == 1:
        table = ("silver", "ledger", "silver", "quarantine")[number // 3 % 4]
        return Moment(
            commit=table, number=1 if table == "quarantine" else rng.randrange(1, commits)
        )
    return Moment(share=rng.uniform(0.02, 0.98))
