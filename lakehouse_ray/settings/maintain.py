"""Settings of maintenance: what is small, and how long what is no longer current is kept."""

from __future__ import annotations

from pydantic import Field

from lakehouse_ray.settings.section import Section


class MaintainSettings(Section):
    """What is written together; how long old snapshots and files of nobody are kept."""

    small_file_bytes: int = Field(
        32 << 20, ge=1 << 10, description="Data files below this are small."
    )
    small_files_min: int = Field(
        8, ge=2, description="So many small files of a partition are written together."
    )
    compact_bytes_max: int = Field(
        256 << 20, ge=1 << 20, description="Of small files that are written together at once."
    )
    manifests_max: int = Field(
        50, ge=1, description="More manifests of a table than this are written together."
    )
    snapshot_age_days: float = Field(
        7.0, ge=0, description="Snapshots that were current within so many days are kept."
    )
    snapshots_min: int = Field(
        10, ge=1, description="So many of the latest snapshots of a table are kept, however old."
    )
    daily_snapshots_days: int = Field(
        90, ge=0, description="For so many days the last snapshot of each day (UTC) is kept, too."
    )
    reader_age_s: float = Field(
        3600.0,
        ge=3600,
        # Half of the shortest age of a file that is swept: see `storage.retention.still_read`.
        le=43_200,
        description="What a reader opened within this time may still be read: such snapshots do not "
        "expire, and files of snapshots that have expired since stay.",
    )
    orphan_age_hours: float = Field(
        48.0,
        gt=24,
        description="Files that no snapshot speaks of are removed once they are older: a run may "
        "still commit younger ones.",
    )
