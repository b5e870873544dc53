"""One lease, several processes with clocks of their own, over a real catalog."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from support.ticking import TickingClock

from lakehouse_ray.model.schedules import LEASE
from lakehouse_ray.storage.catalog import CatalogAccess, TableCatalog
from lakehouse_ray.storage.lease import Lease, LeaseState

LEASE_S = 10.0


@pytest.fixture
def access(tmp_path: Path) -> CatalogAccess:
    return CatalogAccess(f"sqlite:///{tmp_path}/catalog.db", str(tmp_path / "data"), {})


def lease(access: CatalogAccess, name: str, clock: TickingClock) -> Lease:
    return Lease(TableCatalog(access), LEASE, name, LEASE_S, clock)


def test_one_has_it_and_others_do_not(access: CatalogAccess) -> None:
    a, b = lease(access, "a", TickingClock()), lease(access, "b", TickingClock())
    assert a.state() == LeaseState()
    assert a.keep()
    assert not b.keep()
    assert (a.epoch, b.epoch) == (1, None)
    assert a.state().holder == "a"


def test_it_is_taken_over_when_its_holder_has_been_silent_by_the_others_own_clock(
    access: CatalogAccess,
) -> None:
    # Their clocks are decades apart: only how far each has gone counts.
    mine, other = TickingClock(0), TickingClock(1_800_000_000_000_000)
    a, b = lease(access, "a", mine), lease(access, "b", other)
    assert a.keep()
    assert not b.keep()
    other.sleep(LEASE_S - 0.1)
    assert a.keep()
    assert not b.keep()
    other.sleep(LEASE_S - 0.1)
    assert not b.keep()
    other.sleep(0.2)
    assert b.keep()
    assert b.epoch == 2
    assert not a.keep()
    assert a.epoch is None


def test_its_holder_stops_acting_before_anybody_can_take_over(access: CatalogAccess) -> None:
    clock = TickingClock()
    a = lease(access, "a", clock)
    assert a.keep()
    clock.sleep(LEASE_S * 0.5)
    assert a.epoch == 1
    clock.sleep(LEASE_S * 0.2)
    assert a.epoch is None
    # Nobody took it meanwhile: it goes on.
    assert a.keep()
    assert a.epoch == 1


def test_what_is_given_back_can_be_taken_at_once(access: CatalogAccess) -> None:
    a, b = lease(access, "a", TickingClock()), lease(access, "b", TickingClock())
    assert a.keep()
    assert not b.keep()
    a.give_back()
    assert a.epoch is None
    assert b.keep()
    assert b.epoch == 2


def test_of_many_that_want_it_at_once_one_gets_it(access: CatalogAccess) -> None:
    everybody = [lease(access, f"p{i}", TickingClock()) for i in range(6)]
    got: list[bool] = []
    threads = [threading.Thread(target=lambda one=one: got.append(one.keep())) for one in everybody]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False] * 5 + [True]


def test_keeping_it_leaves_no_files_behind(access: CatalogAccess) -> None:
    a = lease(access, "a", TickingClock())
    for _ in range(40):
        assert a.keep()
    files = list(Path(access.warehouse).rglob("*.json"))
    assert len(files) < 25
