"""Recorded CSV files of the exchange, laid out as its archive has them: monthly zips."""

from __future__ import annotations

import hashlib
import zipfile
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

RECORDED = Path(__file__).parents[2].parent / "shared/data/recorded/csv"


def write_monthly(root: Path, files: Iterable[Path], interval: str = "1h") -> int:
    """Cut files of spot bars, each of one symbol, into monthly zips below `root`; rows written.

    Lines stay as they are. A month that several files hold is theirs together, in their order.
    """
    months: dict[tuple[str, str], list[str]] = defaultdict(list)
    for file in files:
        symbol = file.name.partition("-")[0]
        for line in file.read_text().splitlines():
            time = int(line.partition(",")[0])
            moment = datetime.fromtimestamp(time // (1_000_000 if time > 10**14 else 1000), UTC)
            months[symbol, f"{moment:%Y-%m}"].append(line)
    for (symbol, month), lines in months.items():
        folder = f"data/spot/monthly/klines/{symbol}/{interval}"
        publish(root, f"{folder}/{symbol}-{interval}-{month}.zip", lines)
    return sum(map(len, months.values()))


def publish(root: Path, key: str, lines: Iterable[str]) -> None:
    """Write a zip with the lines of its CSV, and the CHECKSUM beside it."""
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{path.stem}.csv", "".join(f"{line}\n" for line in lines))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.CHECKSUM").write_text(f"{digest}  {path.name}\n")
