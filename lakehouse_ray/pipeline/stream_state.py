"""What a capture worker knows of its past, in its spool's folder: written aside, then moved."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.silver.stream_segment import CaptureState
from lakehouse_ray.silver.stream_series import SeriesState

_STATE = "state.json"


@dataclass
class WorkerState:
    """capture: What the next segment has to know.

    unlogged: Rows of the ledger that are not committed yet; plain values.
    saved_us: When it was written.
    """

    capture: CaptureState = field(default_factory=CaptureState)
    unlogged: list[dict[str, Any]] = field(default_factory=list)
    saved_us: int = 0


def load_state(folder: Path) -> WorkerState:
    """Read the state in a folder; a new one where there is none.

    Raises BadDataError where it cannot be read: the next segment cannot be told from a repetition.
    """
    try:
        data = (folder / _STATE).read_bytes()
    except FileNotFoundError:
        return WorkerState()
    try:
        return msgspec.json.decode(data, type=WorkerState)
    except msgspec.MsgspecError as error:
        raise BadDataError(
            "SPOOL_CORRUPT", f"{folder / _STATE} is no state of a capture: {error}"
        ) from error


def save_state(folder: Path, state: WorkerState) -> None:
    """Replace the state in a folder; after a crash it is the old or the new one."""
    aside = folder / f"{_STATE}.new"
    with aside.open("wb") as file:
        file.write(msgspec.json.encode(state))
        file.flush()
        os.fsync(file.fileno())
    aside.rename(folder / _STATE)


def inherit_series(state: WorkerState, root: Path, folder: Path) -> None:
    """Take over what other folders of a market know of series that this one does not.

    So a series goes on where it was, whichever worker has it this time. Of several the latest.
    """
    found: dict[str, tuple[int, SeriesState]] = {}
    for other in sorted(path.parent for path in root.glob(f"*/{_STATE}")):
        if other == folder:
            continue
        theirs = load_state(other)
        for name, series in theirs.capture.series.items():
            if name not in found or found[name][0] < theirs.saved_us:
                found[name] = theirs.saved_us, series
    for name, (saved_us, series) in found.items():
        if name not in state.capture.series or saved_us > state.saved_us:
            state.capture.series[name] = series
