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
    """share: Of an undisturbed run's commits of silver, so that a busy machine shifts nothing; from
        there it waits `pause_s`. Below 0: of the time before work begins.

    commit: Instead, while this table's snapshot number `number` is written: its manifest list is
        there, the catalog may or may not know of it.
    """

    share: float = 0.0
    pause_s: float = 0.0
    commit: str = ""
    number: int = 0

    def __str__(self) -> str:
        if self.commit:
            return f"in {self.commit} commit {self.number}"
        return f"at {self.share:.0%} of the work" if self.share >= 0 else "before work begins"

    def await_in(self, command: Command, home: Path, start_s: float, commits: int) -> None:
        """Wait for the moment; returns early where the command ends before it comes.

        start_s, commits: What an undisturbed run takes until workers are up, and makes then.
        """
        if self.share < 0:
            time.sleep(max(0.0, start_s * (1 + self.share)))
            return
        command.wait_for_work()
        number = self.number if self.commit else int(self.share * commits)
        folder = home / "data" / COMMITS[self.commit or "silver"]
        while len(list(folder.glob("snap-*.avro"))) < number and command.process.poll() is None:
            time.sleep(0.0005)
        time.sleep(self.pause_s)


def draw(rng: random.Random, number: int, commits: int) -> Moment:
    """Every third moment is in a commit, every seventh before work begins."""
    if number % 7 == 6:
        return Moment(share=-rng.uniform(0.05, 0.9))
    if number % 3 == 1:
        table = ("silver", "ledger", "silver", "quarantine")[number // 3 % 4]
        return Moment(
            commit=table, number=1 if table == "quarantine" else rng.randrange(1, commits)
        )
    return Moment(share=rng.uniform(0, 0.98), pause_s=rng.uniform(0, 0.2))
