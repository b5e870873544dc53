from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.ticking import TickingClock

from lakehouse_ray.bronze.budget import KeptBudget
from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.model.venue import Market
from lakehouse_ray.sources.budget import Limit, Seen
from lakehouse_ray.storage.objects import LocalStore, ObjectStore

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


def shared(home: Path, clock: TickingClock, store: ObjectStore | None = None) -> KeptBudget:
    """The account of one of several processes of a machine."""
    return KeptBudget(
        LIMITS, store or LocalStore(home / "lake"), clock, exchange="aaaaaaaa", share=0.8,
        machine=home / "limits" / "aaaaaaaa.json",
    )  # fmt: skip


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


@pytest.mark.parametrize("minutes", [7, -7])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_machine_whose_clock_is_wrong_honours_a_ban_that_another_was_told(
    tmp_path: Path, minutes: int, restarted: bool
) -> None:
    """As the exchange counts it: both know by its answers how far their own clocks are off."""
    right = TickingClock(1_700_000_000_000_000)
    wrong = TickingClock(1_700_000_000_000_000 + minutes * 60_000_000)
    home = tmp_path / "wrong"
    store = LocalStore(tmp_path / "lake")
    banned = shared(tmp_path / "right", right, store)
    other = shared(home, wrong, store)
    assert other.ask("a", "um", {"weight": 1}).granted
    other.settle("a", "um", Seen(server_us=right.now))
    assert banned.ask("b", "um", {"weight": 1}).granted
    banned.settle("b", "um", Seen(server_us=right.now, quiet_s=300.0, banned=True))
    if restarted:
        other.close()
        other = shared(home, wrong, store)
    for clock in (right, wrong):
        clock.sleep(290.0)
    assert not other.ask("c", "spot", {"weight": 1}).granted
    for clock in (right, wrong):
        clock.sleep(13.0)
    assert other.ask("d", "spot", {"weight": 1}).granted


def test_a_clock_that_is_ahead_takes_no_ban_from_the_others(tmp_path: Path) -> None:
    right = TickingClock(1_700_000_000_000_000)
    banned = account(tmp_path, right)
    assert banned.ask("a", "um", {"weight": 1}).granted
    banned.settle("a", "um", Seen(quiet_s=300.0, banned=True))
    # It has never asked the exchange: nobody can tell it how wrong it is.
    account(tmp_path, TickingClock(right.now + 3_600_000_000))
    right.sleep(10.0)
    assert not account(tmp_path, right).ask("b", "um", {"weight": 1}).granted


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


def test_processes_of_a_machine_stay_within_the_limits_together(
    tmp_path: Path, clock: TickingClock
) -> None:
    many = [shared(tmp_path, clock) for _ in range(4)]
    granted = 0
    for turn in range(220):
        one = many[turn % 4]
        if one.ask(str(turn), "um", {"weight": 10}).granted:
            granted += 10
            one.settle(str(turn), "um", Seen())
    assert granted == CAP
    assert all(one.used("um")["weight"] == (CAP, CAP) for one in many)
    clock.sleep(60.2)
    # One that comes later, after one that was killed, begins with what they left, and no slack.
    assert spend(many[0], 30) == 300
    del many[0]
    assert spend(shared(tmp_path, clock), 1000) == CAP - 300


def test_what_a_killed_process_had_under_way_is_charged_until_its_lease_ends(
    tmp_path: Path, clock: TickingClock
) -> None:
    first = shared(tmp_path, clock)
    assert first.ask("a", "um", {"weight": 1000}).granted
    del first
    clock.sleep(61.0)
    assert spend(shared(tmp_path, clock), 1000) == CAP - 1000
    clock.sleep(140.0 + 61.0)
    assert spend(shared(tmp_path, clock), 1000) == CAP


def test_a_ban_that_one_process_learns_stops_all_of_the_machine_at_once(
    tmp_path: Path, clock: TickingClock
) -> None:
    first, second = shared(tmp_path, clock), shared(tmp_path, clock)
    assert first.ask("a", "um", {"weight": 1}).granted
    first.settle("a", "um", Seen(quiet_s=300.0, banned=True))
    for one in (second, shared(tmp_path, clock), account(tmp_path / "lake", clock)):
        assert one.ask("b", "spot", {"weight": 1}).quiet_s == pytest.approx(300.0)
    clock.sleep(300.1)
    assert second.ask("c", "spot", {"weight": 1}).granted


def test_who_waited_first_is_served_first_whatever_its_process(
    tmp_path: Path, clock: TickingClock
) -> None:
    first, second = shared(tmp_path, clock), shared(tmp_path, clock)
    assert spend(first, 1000) == CAP
    for _ in range(2):
        assert not first.ask("large", "um", {"weight": 1500}).granted
        clock.sleep(30.1)
    assert not second.ask("later", "um", {"weight": 500}).granted
    assert first.ask("large", "um", {"weight": 1500}).granted


@pytest.mark.parametrize("text", [b"", b"null", b"{}", b'{"at_s": 1, "state": {"windows": 1}}'])
def test_a_machine_file_that_is_none_is_replaced_by_what_the_lake_knows(
    tmp_path: Path, clock: TickingClock, text: bytes
) -> None:
    first = shared(tmp_path, clock)
    assert spend(first, 30) == 300
    first.close()
    (tmp_path / "limits" / "aaaaaaaa.json").write_bytes(text)
    assert spend(shared(tmp_path, clock), 1000) == CAP - 300


def test_after_a_new_start_of_the_machine_the_lake_tells(
    tmp_path: Path, clock: TickingClock
) -> None:
    class Rebooted(TickingClock):
        def monotonic_s(self) -> float:
            return self.now / 1e6 - 1_700_000_000

    assert spend(shared(tmp_path, clock), 30) == 300
    granted = spend(shared(tmp_path, Rebooted(clock.now)), 1000)
    assert CAP - 300 - 2 * SLACK <= granted <= CAP - 300


def test_a_lake_that_is_away_keeps_no_process_of_the_machine_from_asking(
    tmp_path: Path, clock: TickingClock
) -> None:
    class Away(LocalStore):
        def put(self, path: str, data: bytes) -> None:
            raise UnavailableError("no answer")

        def walk(self, folder: str) -> Iterator[tuple[str, int]]:
            raise UnavailableError("no answer")

    first = shared(tmp_path, clock)
    assert spend(first, 1) == 10
    away = shared(tmp_path, clock, Away(tmp_path / "lake"))
    clock.sleep(6.0)
    assert spend(away, 1000) == CAP - 10
    with pytest.raises(UnavailableError):
        KeptBudget(LIMITS, Away(tmp_path), clock, exchange="aaaaaaaa", share=0.8)


def test_what_a_killed_process_had_granted_counts_from_its_answer_on(
    tmp_path: Path, clock: TickingClock
) -> None:
    """On another machine, where nothing but the lake tells of it."""
    first = account(tmp_path, clock)
    tickets = [f"a{number}" for number in range(6)]
    for ticket in tickets:
        assert first.ask(ticket, "um", {"weight": 300}).granted
    del first  # killed, with six requests on their way
    second = account(tmp_path, clock)
    clock.sleep(50.0)
    for ticket in tickets:
        second.settle(ticket, "um", Seen(), {"weight": 300})
    clock.sleep(30.0)
    # They may have arrived 30 s ago, though they were granted 80 s ago.
    assert spend(second, 1000) <= CAP - 6 * 300
    clock.sleep(61.0)
    assert spend(second, 1000) > CAP - 6 * 300


def test_without_a_home_to_write_to_a_process_keeps_its_own_account(
    tmp_path: Path, clock: TickingClock
) -> None:
    (tmp_path / "home").write_text("a file where a folder is wanted")
    alone = KeptBudget(
        LIMITS, LocalStore(tmp_path / "lake"), clock, exchange="aaaaaaaa", share=0.8,
        machine=tmp_path / "home" / "limits" / "aaaaaaaa.json",
    )  # fmt: skip
    assert spend(alone, 1000) == CAP
