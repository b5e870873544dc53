"""Settings of live rows."""

from __future__ import annotations

from pydantic import Field

from lakehouse_ray.settings.section import Section


class HotSettings(Section):
    """Live rows, and when they are folded into the main tables."""

    settle_s: float = Field(
        300.0,
        ge=0,
        description="Live rows of an hour are folded into the main tables so long after its end: "
        "late ones are then mostly there.",
    )
    batch_rows: int = Field(
        500_000, ge=1_000, description="Live rows folded at a time, and in memory together."
    )
    fold: bool = Field(
        True,
        description="A capture folds the hours that are over meanwhile, beside its workers.",
    )
    snapshots_kept_s: float = Field(
        600.0,
        ge=60,
        description="Older snapshots of hot tables are given up. Reads as of before see what the main "
        "tables had then; pages of an answer that is older are asked for anew.",
    )
