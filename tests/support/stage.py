"""An archive on disk, served by a process of its own, and what an undisturbed run makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from support.commands import MANY_BYTES, environment
from support.lakes import Contents

from lakehouse_ray.testing.exchange import SyntheticArchive, write_archive

SYMBOLS = ["ADAUSDT", "BNBUSDT", "BTCUSDT", "DOGEUSDT", "ETHUSDT", "LTCUSDT", "SOLUSDT", "XRPUSDT"]

# A month that is refused as a whole, so that its days are read instead, and a day with a bad row.
FAULTS = """
seed = 7
[[rules]]
match = "*/BTCUSDT-1m-2025-01.zip"
fault = "corrupt_zip"
[[rules]]
match = "*/ETHUSDT-1m-2025-02-03.zip"
fault = "untyped_cell"
"""


@dataclass(frozen=True)
class Stage:
    """An archive that is served, and an undisturbed run on it.

    code: How that run ended. start_s: What it took until workers were up.
    commits: Snapshots it made of silver.
    """

    url: str
    code: int
    contents: Contents
    start_s: float = 0.0

    @property
    def commits(self) -> int:
        return len(self.contents.snapshots["silver.klines_fine"])

    def environment(self, home: Path, *, on_ray: bool, units_per_commit: int = 1) -> dict[str, str]:
        """Settings that cut the work into many units and commits."""
        return environment(
            HOME=home,
            BINANCE__ARCHIVE_URL=self.url,
            COMPUTE__LOCAL_BYTES_MAX=0 if on_ray else MANY_BYTES,
            INGEST__UNIT_BYTES_MAX=1 << 16,
            INGEST__UNITS_PER_COMMIT=units_per_commit,
            # A refused object is left alone from the next run on, which then has nothing to do.
            INGEST__QUARANTINE_ATTEMPTS_MAX=1,
        )


def write(folder: Path, symbols: list[str], start: date, end: date) -> None:
    archive = SyntheticArchive(7, symbols, ["spot"], start, end, trades_per_minute=1)
    for freq in ("monthly", "daily"):
        write_archive(archive, folder, f"data/spot/{freq}/klines/", "*-1m-*")
