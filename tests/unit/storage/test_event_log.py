from __future__ import annotations

from pathlib import Path

import pytest
from support.ticking import TickingClock

from lakehouse_ray.model.schedules import RUN_LOG
from lakehouse_ray.model.timespan import parse_time
from lakehouse_ray.storage.catalog import CatalogAccess, TableCatalog
from lakehouse_ray.storage.committer import Committer
from lakehouse_ray.storage.event_log import EventLog
from lakehouse_ray.storage.objects import LocalStore

LATE_US, EARLY_US = parse_time("2024-03-01T00:00:01"), parse_time("2024-02-29T23:59:59")


@pytest.fixture
def access(tmp_path: Path) -> CatalogAccess:
    return CatalogAccess(f"sqlite:///{tmp_path}/catalog.db", str(tmp_path / "data"), {})


def event_log(access: CatalogAccess, name: str) -> EventLog:
    store = LocalStore(Path(access.warehouse))
    return EventLog(
        RUN_LOG, TableCatalog(access), store, Committer(access, RUN_LOG, name, clock=TickingClock())
    )


def row(name: str, at_us: int) -> dict[str, object]:
    return {
        "schedule": name, "state": "requested", "at": at_us, "runner": "me", "epoch": 0,
        "sequence": 0,
    }  # fmt: skip


def names(log: EventLog) -> list[str]:
    return log.read().rows["schedule"].to_list()


def test_what_was_added_is_read_by_everybody_in_the_order_of_time(access: CatalogAccess) -> None:
    a, b = event_log(access, "a"), event_log(access, "b")
    assert names(a) == []
    # Two months are two partitions, and one step all the same.
    assert a.add([row("late", LATE_US), row("early", EARLY_US)], a.read())
    assert names(a) == names(b) == ["early", "late"]
    assert len(a.read().files) == 2


def test_who_has_not_seen_all_of_it_adds_nothing_and_leaves_no_file(access: CatalogAccess) -> None:
    a, b = event_log(access, "a"), event_log(access, "b")
    seen = b.read()
    assert a.add([row("first", EARLY_US)], a.read())
    assert not b.add([row("second", LATE_US)], seen)
    assert names(b) == ["first"]
    assert b.add([row("second", LATE_US)], b.read())
    assert names(a) == ["first", "second"]
    assert len(list(Path(access.warehouse).rglob("*.parquet"))) == 2


def test_who_decides_nothing_by_it_may_add_whatever_is_there(access: CatalogAccess) -> None:
    a, b = event_log(access, "a"), event_log(access, "b")
    seen = a.read()
    assert b.add([row("asked", EARLY_US)], None)
    assert b.add([row("asked again", LATE_US)], None)
    assert not a.add([row("first", LATE_US)], seen)
