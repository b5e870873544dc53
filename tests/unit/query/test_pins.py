"""Which snapshot a read sees, without a catalog: tables are stand-ins with a history."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from lakehouse_ray.errors import InvalidError, NotFoundError
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.timespan import parse_time
from lakehouse_ray.query.pins import pin_tables

FINE, COARSE = KLINES.tables


@dataclass(frozen=True)
class Snapshot:
    snapshot_id: int
    timestamp_ms: int
    parent_snapshot_id: int | None = None

    @property
    def sequence_number(self) -> int:
        return self.snapshot_id % 1000


@dataclass
class History:
    """The part of a table that pins look at."""

    kept: list[Snapshot] = field(default_factory=list)
    properties: dict[str, str] = field(default_factory=dict)

    def current_snapshot(self) -> Snapshot | None:
        return self.kept[-1] if self.kept else None

    def snapshots(self) -> list[Snapshot]:
        return self.kept

    def snapshot_by_id(self, number: int) -> Snapshot | None:
        return next((s for s in self.kept if s.snapshot_id == number), None)

    def snapshot_as_of_timestamp(self, timestamp_ms: int) -> Snapshot | None:
        return next((s for s in reversed(self.kept) if s.timestamp_ms <= timestamp_ms), None)


def ms(text: str) -> int:
    return parse_time(text) // 1000


TABLES: dict[str, Any] = {
    FINE.name: History(
        [
            Snapshot(1001, ms("2024-01-01")),
            Snapshot(1002, ms("2024-01-03"), 1001),
            Snapshot(1003, ms("2024-01-05"), 1002),
        ]
    ),
    COARSE.name: History(
        [Snapshot(2001, ms("2024-01-02")), Snapshot(2002, ms("2024-01-04"), 2001)]
    ),
}


def pinned(as_of: Any = None, tables: dict[str, Any] = TABLES) -> tuple[int | None, ...]:
    pins = pin_tables(tables.get, KLINES.tables, as_of)
    return tuple(pins[table.name].snapshot_id for table in KLINES.tables)


@pytest.mark.parametrize(
    ("as_of", "wanted"),
    [
        (None, (1003, 2002)),
        ("2024-01-03", (1002, 2001)),
        ("2024-01-03T12:00", (1002, 2001)),
        ("2024-01", (1001, None)),
        ("2023", (None, None)),
        (datetime(2024, 1, 4, tzinfo=UTC), (1002, 2002)),
        (1002, (1002, 2001)),
        ("10010", NotFoundError),
        (2002, (1002, 2002)),
        ("never", InvalidError),
        (datetime(2024, 1, 4), InvalidError),  # noqa: DTZ001 - without a zone is the case
    ],
    ids=str,
)
def test_all_tables_are_pinned_to_one_moment(as_of: Any, wanted: Any) -> None:
    if isinstance(wanted, tuple):
        assert pinned(as_of) == wanted
    else:
        with pytest.raises(wanted):
            pinned(as_of)


def test_a_table_that_does_not_exist_has_no_snapshot() -> None:
    assert pinned(tables={}) == (None, None)
    assert pinned("2024", tables={}) == (None, None)


def test_what_has_expired_is_not_taken_for_empty() -> None:
    tables = {**TABLES, FINE.name: History([Snapshot(1003, ms("2024-01-05"), 1002)])}
    with pytest.raises(NotFoundError, match="not kept any more") as caught:
        pinned("2024-01-03", tables)
    assert "2024-01-05T00:00:00Z" in caught.value.hint


def test_a_moment_whose_snapshot_has_expired_is_refused_and_not_answered_by_an_older_one() -> None:
    # 1002 and 1003 are gone, and what expired says until when 1001 was the table.
    kept = [Snapshot(1001, ms("2024-01-01")), Snapshot(1004, ms("2024-01-07"))]
    ended = {"lakehouse.snapshot-ends": f'{{"1001": {ms("2024-01-03")}}}'}
    tables: dict[str, Any] = {FINE.name: History(kept, ended)}

    def seen(moment: str) -> int | None:
        return pin_tables(tables.get, [FINE], moment)[FINE.name].snapshot_id

    assert seen("2024-01-02T23:59") == 1001
    assert seen("2024-01-07") == 1004
    with pytest.raises(NotFoundError, match="not kept any more"):
        seen("2024-01-03")
    with pytest.raises(NotFoundError, match="not kept any more"):
        seen("2024-01-06")


def test_before_the_oldest_kept_snapshot_there_is_no_answer_where_it_was_not_the_first() -> None:
    # Expiry takes away the parent of the oldest that is left.
    tables: dict[str, Any] = {FINE.name: History([Snapshot(1004, ms("2024-01-07"))])}
    with pytest.raises(NotFoundError, match="not kept any more"):
        pin_tables(tables.get, [FINE], "2024-01-06")
