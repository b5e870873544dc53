"""What a fold of live rows did."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from lakehouse_ray.model.timespan import format_time
from lakehouse_ray.pipeline.row_merging import RowsMerged


@dataclass
class FoldReport:
    """What a fold did.

    until_us: Files that end before it were folded. run_id: As in the snapshots that it made.
    rows: Live rows that were read; `merged` says what became of them.
    files: Dropped from hot tables. files_left: Those that stay, since they go beyond the moment.
    unreadable: Files that could not be read, and why: they stay too.
    """

    until_us: int
    run_id: str = ""
    rows: int = 0
    files: int = 0
    files_left: int = 0
    merged: RowsMerged = field(default_factory=RowsMerged)
    unreadable: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def partial(self) -> bool:
        """Live rows that are due are still in their hot table."""
        return bool(self.unreadable)

    def as_dict(self) -> dict[str, object]:
        """For `--json`: stable names."""
        told = asdict(self)
        return {"until": format_time(told.pop("until_us")), **told}
