from __future__ import annotations

from pathlib import Path

import pytest
from support.ticking import TickingClock

from lakehouse_ray.bronze.budget import KeptBudget
from lakehouse_ray.model.venue import Market
from lakehouse_ray.sources.budget import Limit, Seen
from lakehouse_ray.storage.objects import LocalStore

LIMITS: dict[Market, tuple[Limit, ...]] = {
    "um": (Limit("weight", 2400, 60.0),),
    "spot": (Limit("weight", 6000, 60.0),),
}
CAP = 1920
# What a process may have granted that its file does not tell.
SLACK = 96


@pytest.fixture
def clock() -> TickingClock:
    return TickingClock()


def account(folder: Path, clock: TickingClock, exchange: str = "aaaaaaaa") -> KeptBudget:
    return KeptBudget(LIMITS, LocalStore(folder), clock, exchange=exchange, share=0.8)


def spend(kept: KeptBudget, requests: int, weight: int = 10) -> int:
    granted = 0
    for number in range(requests):
        ticket = f"{id(kept)} {number}"
        if not kept.ask(ticket, "um", {"weight": weight}).granted:
            break
        granted += weight
        kept.settle(ticket, "um", Seen())
    return granted


def test_a_ban_outlives_the_process_that_was_told(tmp_path: Path, clock: TickingClock) -> None:
    first = account(tmp_path, clock)
    assert first.ask("a", "spot", {"weight": 2}).granted
    first.settle("a", "spot", Seen(quiet_s=7200.0, banned=True))
    del first  # killed: no close
    clock.sleep(60.0)
    second = account(tmp_path, clock)
    refused = second.ask("b", "um", {"weight": 1})
    assert not refused.granted
    assert refused.quiet_s == pytest.approx(7140.0)
    clock.sleep(7141.0)
    assert second.ask("b", "um", {"weight": 1}).granted


def test_a_ban_is_heard_of_by_processes_that_run(tmp_path: Path, clock: TickingClock) -> None:
    first, second = account(tmp_path, clock), account(tmp_path, clock)
    other = account(tmp_path, clock, exchange="bbbbbbbb")
    assert first.ask("a", "um", {"weight": 1}).granted
    first.settle("a", "um", Seen(quiet_s=300.0, banned=True))
    clock.sleep(5.1)
    assert not second.ask("b", "spot", {"weight": 1}).granted
    assert other.ask("c", "spot", {"weight": 1}).granted


def test_a_successor_grants_nothing_twice_within_the_minute(
    tmp_path: Path, clock: TickingClock
) -> None:
    """Killed after any number of requests."""
    for killed_after in (1, 5, 60, 150):
        folder = tmp_path / str(killed_after)
        before = spend(account(folder, clock), killed_after)
        after = spend(account(folder, clock), 1000)
        assert before == killed_after * 10
        assert before + after <= CAP
        # What a kill costs is the part that need not have been told, and no more.
        if before > SLACK:
            assert before + after >= CAP - 2 * SLACK - 10


def test_who_closes_leaves_the_rest_to_its_successor(tmp_path: Path, clock: TickingClock) -> None:
    first = account(tmp_path, clock)
    assert spend(first, 30) == 300
    first.close()
    assert spend(account(tmp_path, clock), 1000) == CAP - 300


def test_old_accounts_count_no_more_and_are_removed(tmp_path: Path, clock: TickingClock) -> None:
    spend(account(tmp_path, clock), 30)
    clock.sleep(8 * 24 * 3600.0)
    assert spend(account(tmp_path, clock), 1000) == CAP
    clock.sleep(1.0)
    assert len(list((tmp_path / "limits" / "aaaaaaaa").iterdir())) == 1


def test_a_file_that_is_none_is_passed_over(tmp_path: Path, clock: TickingClock) -> None:
    folder = tmp_path / "limits" / "aaaaaaaa"
    folder.mkdir(parents=True)
    for number, text in enumerate((b"", b"null", b"{}", b'{"spent":{"um":1},"blocked":{}}')):
        (folder / f"{number:032x}.json").write_bytes(text)
    assert spend(account(tmp_path, clock), 1000) == CAP
