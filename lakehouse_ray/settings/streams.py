"""Settings of the capture of streams."""

from __future__ import annotations

from pydantic import Field

from lakehouse_ray.settings.section import Section


class StreamSettings(Section):
    """Capture of the exchange's websocket."""

    workers: int = Field(
        1, ge=1, le=64, description="Processes that capture; symbols are spread over them."
    )
    streams_per_connection: int = Field(
        200, ge=1, le=1024, description="The exchange allows 1,024; fewer lose less at once."
    )
    connect_spacing_s: float = Field(
        1.0, ge=0.05, le=60, description="Between two connections of this address, all workers."
    )
    connects_per_5min: int = Field(
        300,
        ge=2,
        description="What the exchange allows an address in 5 minutes; `update.limit_share` of it is "
        "used.",
    )
    connection_life_h: float = Field(
        23.0, gt=0, lt=24, description="Age at which a connection is replaced; it may be 24 hours."
    )
    overlap_s: float = Field(
        5.0,
        ge=0,
        le=600,
        description="How long the next one is heard before the old one is closed.",
    )
    silence_s: float = Field(
        60.0, gt=1, description="A connection of which nothing was heard for so long is replaced."
    )
    stall_s: float = Field(
        10.0, gt=0, description="So is one on which an active symbol says nothing for so long."
    )
    reorder_ms: int = Field(
        500,
        ge=0,
        le=60_000,
        description="How long messages wait for those before them; then a gap.",
    )
    commit_interval_s: float = Field(
        1.0, ge=0.1, le=300, description="How often rows become visible, if commits keep up."
    )
    fill_gaps: bool = Field(
        True, description="Ask REST for gaps as they are found; else `lakehouse update` does."
    )
    fill_after_s: float = Field(
        3.0, ge=0, le=3600, description="From when a gap was found until REST is asked for it."
    )
    spool_folder: str = Field(
        "", description="Where frames wait for their commit. Empty: `$LAKEHOUSE_HOME/spool`."
    )
    spool_bytes_max: int = Field(
        8 << 30, ge=1 << 20, description="Beyond this frames are lost, and the loss is marked."
    )
    book_levels: int = Field(10, ge=1, le=100, description="Levels of a book kept as rows.")
    book_every_ms: int = Field(1000, ge=10, description="How often.")
    microseconds: bool = Field(
        True, description="Ask spot for times in microseconds, as its archive has them."
    )
