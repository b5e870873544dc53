"""What a follower was told, as a table that is kept in step by its events alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lakehouse_ray.query.follow import Follower
from lakehouse_ray.query.live_events import LiveEvent

# What a row is known by beside its source, which changes without news.
NOT_VALUES = ("source", "source_key", "source_version", "flags")


def told_now(follower: Follower) -> list[LiveEvent]:
    """Everything there is to tell for now."""
    found: list[LiveEvent] = []
    while (step := follower.look()) is not None:
        for batch in follower.tell(step):
            found += batch
    return found


class Mirror:
    """Rows by their key. Each event must fit what is there."""

    def __init__(self, *key: str) -> None:
        self._key = key
        self.rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.seq = 0

    def apply(self, events: Iterable[LiveEvent]) -> None:
        for event in events:
            assert event.seq == self.seq + 1
            self.seq = event.seq
            row = event.row or event.was
            assert row is not None
            key = tuple(row[name] for name in self._key)
            if event.was is not None:
                assert _values(event.was) == _values(self.rows[key])
            else:
                assert key not in self.rows, f"{event.kind} {event.cause} of {key} is told again"
            if event.row is None:
                del self.rows[key]
            else:
                self.rows[key] = dict(event.row)

    def values(self) -> list[dict[str, Any]]:
        return [_values(self.rows[key]) for key in sorted(self.rows)]


def values_of(rows: Iterable[dict[str, Any]], *key: str) -> list[dict[str, Any]]:
    return [_values(row) for row in sorted(rows, key=lambda row: [row[name] for name in key])]


def _values(row: Any) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in NOT_VALUES}
