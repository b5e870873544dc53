"""Settings of what REST brings: how much of the exchange's limits is used, and how work is cut."""

from __future__ import annotations

from pydantic import Field

from lakehouse_ray.settings.section import Section


class UpdateSettings(Section):
    """Gaps and the latest rows, filled by REST."""

    limit_share: float = Field(
        0.8, gt=0, le=1, description="Part of each limit of the exchange that is used at most."
    )
    spot_weight_max: int = Field(6000, ge=50, description="Weight a minute that spot allows.")
    um_weight_max: int = Field(2400, ge=50, description="The same of USD-M futures.")
    cm_weight_max: int = Field(2400, ge=50, description="The same of COIN-M futures.")
    requests_in_flight: int = Field(8, ge=1, le=64, description="Requests at once, per worker.")
    request_timeout_s: float = Field(
        20.0, gt=0, le=300, description="One request without any byte for so long fails."
    )
    attempts_max: int = Field(
        6,
        ge=1,
        le=100,
        description="Times a request is sent that fails or is answered with nonsense.",
    )
    quiet_max_s: float = Field(
        3600.0,
        ge=0,
        description="The longest quiet that is waited for where the exchange asks for it; a longer "
        "ban ends the run, which goes on when it is run again.",
    )
    unit_requests_max: int = Field(
        100, ge=1, description="Requests a unit of work may hold; a longer fill is cut by time."
    )
    units_per_commit: int = Field(8, ge=1, description="Finished units that share one snapshot.")
    refused_again_s: float = Field(
        86_400.0,
        ge=0,
        description="A series that the exchange refused is asked for again after so long.",
    )
    absent_again_s: float = Field(
        86_400.0,
        ge=0,
        description="A range of which the exchange told no row is asked for again until it is older.",
    )
