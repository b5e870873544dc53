"""Moments as people give them to the SDK."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.timespan import parse_time, to_us

# ISO text (`2024-01`, `2024-01-05T12:00`), a day, an aware datetime; None: not given.
When = str | date | datetime | None


def micro(moment: str | date | datetime) -> int:
    """UTC microseconds of a moment; of a month or a day, its first. Raises InvalidError."""
    if isinstance(moment, str):
        return parse_time(moment)
    if not isinstance(moment, datetime):
        return to_us(datetime.combine(moment, time(), UTC))
    if moment.tzinfo is None:
        raise InvalidError(
            f"{moment} has no time zone", "datetime(…, tzinfo=UTC), or ISO text such as 2024-01-05"
        )
    return to_us(moment)
