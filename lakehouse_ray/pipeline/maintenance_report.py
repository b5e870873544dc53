"""What maintenance did, or would do, and who is told meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from lakehouse_ray.pipeline.fold_report import FoldReport

# Files and reasons that are named, of each table.
EXAMPLES_MAX = 20


@dataclass
class TableReport:
    """What became of one table.

    compacted, compacted_bytes: Files written together. written, written_bytes: What they became; in a
        plan it is not known. overtaken: Times that another writer was first.
    manifests: It had before. manifests_left: It has now; in a plan about.
    snapshots: It had before. expired: Of these went.
    orphans, orphan_bytes: Files that nothing speaks of, and went. young, young_bytes: Those that may
        still be committed, and stay.
    failed: What could not be done, and why; the rest was.
    """

    table: str
    compacted: int = 0
    compacted_bytes: int = 0
    written: int = 0
    written_bytes: int = 0
    overtaken: int = 0
    manifests: int = 0
    manifests_left: int = 0
    snapshots: int = 0
    expired: int = 0
    orphans: int = 0
    orphan_bytes: int = 0
    young: int = 0
    young_bytes: int = 0
    first_orphans: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@dataclass
class MaintenanceReport:
    """All tables. dry_run: Nothing was changed; figures say what would be.

    folded: What became of live rows of closed hours. failed: What could not be done of no single table.
    """

    dry_run: bool = False
    run_id: str = ""
    seconds: float = 0.0
    folded: FoldReport | None = None
    failed: list[str] = field(default_factory=list)
    tables: list[TableReport] = field(default_factory=list)

    @property
    def partial(self) -> bool:
        return bool(self.failed) or any(table.failed for table in self.tables)

    def total(self, name: str) -> int:
        return sum(getattr(table, name) for table in self.tables)

    def as_dict(self) -> dict[str, object]:
        """For `--json`: stable names."""
        sums = (
            "compacted", "compacted_bytes", "written", "written_bytes", "overtaken", "snapshots",
            "expired", "orphans", "orphan_bytes", "young", "young_bytes",
        )  # fmt: skip
        return {
            "v": 1,
            "dry_run": self.dry_run,
            "run_id": self.run_id,
            "seconds": round(self.seconds, 3),
            **{name: self.total(name) for name in sums},
            "folded": None if self.folded is None else self.folded.as_dict(),
            "failed": self.failed,
            "tables": [vars(table) for table in self.tables],
        }


class MaintenanceObserver(Protocol):
    """Who is told how maintenance goes on."""

    def planned(self, tables: int) -> None:
        """So many tables are looked after."""

    def table(self, name: str, step: str) -> None:
        """This is done now."""

    def advanced(self, report: MaintenanceReport) -> None:
        """One more table is done with."""


class SilentMaintenance:
    """Tells nobody."""

    def planned(self, tables: int) -> None: ...

    def table(self, name: str, step: str) -> None: ...

    def advanced(self, report: MaintenanceReport) -> None: ...
