"""Half-open ranges of time in UTC microseconds, and the ISO spelling people give them in."""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from lakehouse_ray.errors import InvalidError

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ISO = re.compile(
    r"(\d{4})(?:-(\d{2})(?:-(\d{2})(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:\.(\d{1,6}))?)?)?(?:Z|\+00:00)?)?)?"
)


@dataclass(frozen=True, order=True)
class TimeRange:
    """`[start_us, end_us)`. Empty ranges do not exist: start is before end."""

    start_us: int
    end_us: int

    def __post_init__(self) -> None:
        if self.start_us >= self.end_us:
            raise InvalidError(
                f"a range must start before it ends: {format_time(self.start_us)} is not before "
                f"{format_time(self.end_us)}",
                "ranges are half-open, [start, end): --end 2024-02 ends with January",
            )

    def overlaps(self, other: TimeRange) -> bool:
        return self.start_us < other.end_us and other.start_us < self.end_us

    def contains(self, other: TimeRange) -> bool:
        return self.start_us <= other.start_us and other.end_us <= self.end_us

    def __str__(self) -> str:
        return f"[{format_time(self.start_us)}, {format_time(self.end_us)})"


def parse_time(text: str) -> int:
    """Return the microsecond at which `2024`, `2024-01`, `2024-01-05` or `2024-01-05T12:00` begins."""
    match = _ISO.fullmatch(text.strip())
    if match is None:
        raise InvalidError(
            f"not a time: {text!r}", "times are ISO and UTC: 2024-01, 2024-01-05, 2024-01-05T12:00"
        )
    year, month, day, hour, minute, second, fraction = match.groups()
    try:
        moment = datetime(
            int(year), int(month or 1), int(day or 1), int(hour or 0), int(minute or 0),
            int(second or 0), int((fraction or "0").ljust(6, "0")), tzinfo=UTC,
        )  # fmt: skip
    except ValueError as error:
        raise InvalidError(f"not a time: {text!r} ({error})") from error
    return to_us(moment)


def parse_span(start: str, end: str, earliest: str, latest: str) -> TimeRange | None:
    """Return the range of two texts as `parse_time` reads them; None where both are empty.

    earliest, latest: Stand for one that is empty.
    """
    if not start and not end:
        return None
    return TimeRange(parse_time(start or earliest), parse_time(end or latest))


def format_time(us: int) -> str:
    """Return ISO 8601 with Z, with a fraction only where there is one."""
    text = from_us(us).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{us % SECOND_US:06d}Z" if us % SECOND_US else f"{text}Z"


def to_us(moment: datetime) -> int:
    """Microseconds of an aware datetime, exact (no float on the way)."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_us(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)


def day_range(day: date) -> TimeRange:
    start = to_us(datetime(day.year, day.month, day.day, tzinfo=UTC))
    return TimeRange(start, start + DAY_US)


def month_range(year: int, month: int) -> TimeRange:
    start = to_us(datetime(year, month, 1, tzinfo=UTC))
    return TimeRange(start, start + calendar.monthrange(year, month)[1] * DAY_US)


def month_ordinal(us: int) -> int:
    """Months since January 1970: the value of Iceberg's `month` transform."""
    moment = from_us(us)
    return (moment.year - 1970) * 12 + moment.month - 1


def month_of(ordinal: int) -> TimeRange:
    return month_range(1970 + ordinal // 12, ordinal % 12 + 1)


def days_of(span: TimeRange) -> Iterator[date]:
    """Each UTC day that the range touches."""
    first = span.start_us // DAY_US
    day = _EPOCH.date() + timedelta(days=first)
    for i in range(-(-span.end_us // DAY_US) - first):
        yield day + timedelta(days=i)
