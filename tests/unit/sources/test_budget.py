from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.ticking import TickingClock

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.venue import Market
from lakehouse_ray.sources.budget import Budget, Limit, Memory, Seen

MINUTE_S = 60.0
WEIGHT_MAX = 240
REQUESTS_MAX = 100
LIMITS: dict[Market, tuple[Limit, ...]] = {
    "um": (
        Limit("weight", WEIGHT_MAX, MINUTE_S),
        Limit("requests", REQUESTS_MAX, 300.0),
        Limit("funding", 10, 300.0),
    ),
    "spot": (Limit("weight", 1000, MINUTE_S),),
}


def budget(clock: TickingClock, **options: float) -> Budget:
    return Budget(LIMITS, clock, **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Step:
    """pause_s: Before the request. arrives, answered: Seconds after its grant."""

    pause_s: float
    weight: int
    arrives_s: float
    answered_s: float
    lost: bool


steps = st.builds(
    lambda pause, weight, arrives, more, lost: Step(pause, weight, arrives, arrives + more, lost),
    st.floats(0, 20),
    st.integers(1, 60),
    st.floats(0, 8),
    st.floats(0, 8),
    st.booleans(),
)


def windows_total(arrivals: list[tuple[float, int]], window_s: float) -> int:
    """The most that any window holds; one that begins with an arrival is always among the fullest."""
    return max(
        (sum(w for at, w in arrivals if begin <= at < begin + window_s) for begin, _ in arrivals),
        default=0,
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, min_size=1, max_size=60), st.floats(0, 60))
def test_no_window_of_the_exchange_holds_more_than_four_fifths(
    plan: list[Step], start_s: float
) -> None:
    """Whatever the delay of each request, and though some are never settled."""
    clock = TickingClock(round((1_700_000_000 + start_s) * 1e6))
    account = budget(clock, lease_s=20.0)
    arrivals: list[tuple[float, int]] = []
    open_answers: list[tuple[float, str]] = []
    for number, step in enumerate(plan):
        ticket = str(number)
        clock.sleep(step.pause_s)
        while True:
            for due, other in sorted(open_answers):
                if due <= clock.monotonic_s():
                    account.settle(other, "um", Seen())
                    open_answers.remove((due, other))
            grant = account.ask(ticket, "um", {"weight": step.weight, "requests": 1})
            if grant.granted:
                break
            clock.sleep(max(0.001, grant.wait_s))
        now_s = clock.monotonic_s()
        arrivals.append((now_s + step.arrives_s, step.weight))
        if not step.lost:
            open_answers.append((now_s + step.answered_s, ticket))
    assert windows_total(arrivals, MINUTE_S) <= 0.8 * WEIGHT_MAX
    by_minute = Counter[int]()
    for at_s, weight in arrivals:
        by_minute[int(at_s // MINUTE_S)] += weight
    assert max(by_minute.values()) <= 0.8 * WEIGHT_MAX
    assert windows_total([(at, 1) for at, _ in arrivals], 300.0) <= 0.8 * REQUESTS_MAX


def drive(account: Budget, clock: TickingClock, ticket: str, costs: dict[str, int]) -> float:
    """Wait for a grant; the time of it."""
    while not (grant := account.ask(ticket, "um", costs)).granted:
        clock.sleep(grant.wait_s)
    return clock.monotonic_s()


def test_alone_it_uses_what_is_allowed_to_the_last() -> None:
    clock = TickingClock(1_700_000_040_000_000)
    account = budget(clock)
    times = []
    minute_use = Counter[int]()
    for number in range(96 * 3):
        at_s = drive(account, clock, str(number), {"weight": 2})
        times.append((at_s, 2))
        minute_use[int(at_s // 60)] += 2
        account.settle(str(number), "um", Seen(minute_use[int(at_s // 60)], int(at_s) * 1_000_000))
    assert windows_total(times, MINUTE_S) == 192
    # Three windows, each full, and nothing lost between them.
    assert times[-1][0] - times[0][0] < 2 * MINUTE_S + 1


def test_what_others_used_is_learned_from_the_exchanges_count() -> None:
    clock = TickingClock(1_700_000_050_000_000)
    account = budget(clock)
    assert account.ask("a", "um", {"weight": 2}).granted
    account.settle("a", "um", Seen(used_weight=152, server_us=clock.now_us()))
    assert account.used("um")["weight"] == (152, 192)
    assert account.ask("b", "um", {"weight": 40}).granted
    refused = account.ask("c", "um", {"weight": 2})
    assert not refused.granted
    assert 0 < refused.wait_s <= 30
    # Told again, it is no news.
    account.settle("b", "um", Seen(used_weight=192, server_us=clock.now_us()))
    assert account.used("um")["weight"] == (192, 192)
    clock.sleep(61.0)
    assert account.ask("c", "um", {"weight": 2}).granted


def test_an_answer_of_just_after_the_minute_may_count_the_one_before() -> None:
    clock = TickingClock(1_700_000_039_000_000)
    account = budget(clock)
    for number in range(10):
        assert account.ask(str(number), "um", {"weight": 10}).granted
        account.settle(str(number), "um", Seen(10 * number + 10, clock.now_us()))
    clock.sleep(2.0)  # 1_700_000_040 begins a minute
    assert account.ask("next", "um", {"weight": 2}).granted
    account.settle("next", "um", Seen(used_weight=102, server_us=clock.now_us()))
    assert account.used("um")["weight"] == (102, 192)


@given(st.floats(1, 600), st.booleans())
def test_nothing_is_granted_while_the_exchange_wants_quiet(quiet_s: float, banned: bool) -> None:
    clock = TickingClock()
    account = budget(clock)
    assert account.ask("a", "um", {"weight": 1}).granted
    account.settle("a", "um", Seen(quiet_s=quiet_s, banned=banned))
    until_s = clock.monotonic_s() + quiet_s
    other = account.ask("other", "spot", {"weight": 1})
    assert other.granted is not banned  # a ban is of the address
    while not (grant := account.ask("b", "um", {"weight": 1})).granted:
        clock.sleep(min(7.0, grant.wait_s))
    assert clock.monotonic_s() >= until_s - 1e-5
    assert clock.monotonic_s() <= until_s + 1.0


def test_a_ban_and_the_last_minute_outlive_the_process() -> None:
    clock = TickingClock()
    first = budget(clock)
    assert first.ask("a", "um", {"weight": 100}).granted
    first.settle("a", "um", Seen())
    assert first.ask("b", "um", {"weight": 50}).granted  # under way as the process ends
    assert first.ask("c", "spot", {"weight": 1}).granted
    first.settle("c", "spot", Seen(quiet_s=20.0, banned=True))
    memory = first.memory()

    clock.sleep(5.0)
    second = budget(clock)
    second.remember(memory)
    assert second.blocked_s("um") == pytest.approx(15.0)
    assert second.used("um")["weight"] == (150, 192)
    clock.sleep(16.0)
    assert not second.ask("d", "um", {"weight": 43}).granted
    assert second.ask("e", "spot", {"weight": 100}).granted


def test_after_a_restart_what_may_not_have_been_told_is_charged_too() -> None:
    clock = TickingClock()
    account = budget(clock)
    account.remember(Memory(), slack_share=0.05)
    assert account.used("um")["weight"] == (9, 192)


def test_a_clock_put_back_makes_nothing_free() -> None:
    clock = TickingClock()
    account = budget(clock)
    account.remember(Memory({"um": {"weight": [(clock.now_us() + 3600_000_000, 192)]}}))
    assert not account.ask("a", "um", {"weight": 1}).granted
    clock.sleep(61.0)
    assert account.ask("a", "um", {"weight": 1}).granted


def test_who_came_first_is_served_first() -> None:
    clock = TickingClock()
    account = budget(clock)
    assert account.ask("a", "um", {"weight": 150}).granted
    account.settle("a", "um", Seen())
    assert not account.ask("large", "um", {"weight": 100}).granted
    # It would fit, and would keep the large one waiting for ever if many came.
    assert not account.ask("small", "um", {"weight": 40}).granted
    clock.sleep(40.0)
    assert not account.ask("large", "um", {"weight": 100}).granted
    assert not account.ask("small", "um", {"weight": 40}).granted
    clock.sleep(21.0)
    assert not account.ask("later", "um", {"weight": 100}).granted
    assert account.ask("small", "um", {"weight": 40}).granted
    assert account.ask("large", "um", {"weight": 100}).granted


def test_who_waits_for_another_limit_holds_up_nobody() -> None:
    clock = TickingClock()
    account = budget(clock)
    for number in range(8):
        assert account.ask(f"f{number}", "um", {"funding": 1}).granted
    assert not account.ask("f8", "um", {"funding": 1}).granted
    assert account.ask("bars", "um", {"weight": 192}).granted


def test_who_went_away_loses_its_turn() -> None:
    clock = TickingClock()
    account = budget(clock)
    assert account.ask("a", "um", {"weight": 192}).granted
    assert not account.ask("gone", "um", {"weight": 192}).granted
    account.give_back("a")
    assert not account.ask("b", "um", {"weight": 1}).granted
    clock.sleep(61.0)
    assert account.ask("b", "um", {"weight": 1}).granted


def test_waiters_are_bounded_and_none_is_lost() -> None:
    clock = TickingClock()
    account = budget(clock, waiting_max=2)
    assert account.ask("a", "um", {"weight": 192}).granted
    for name in "bcd":
        assert not account.ask(name, "um", {"weight": 1}).granted
    account.settle("a", "um", Seen())
    granted: set[str] = set()
    while len(granted) < 3:
        clock.sleep(1.0)
        granted |= {name for name in "bcd" if account.ask(name, "um", {"weight": 1}).granted}


def test_a_request_that_could_never_be_sent_is_refused() -> None:
    account = budget(TickingClock())
    with pytest.raises(InvalidError, match="193 weight is more than the 192"):
        account.ask("a", "um", {"weight": 193})
    with pytest.raises(InvalidError, match="spot"):
        account.ask("a", "spot", {"funding": 1})


def test_a_lease_that_ended_is_charged_from_its_end() -> None:
    clock = TickingClock()
    account = budget(clock, lease_s=30.0)
    assert account.ask("a", "um", {"weight": 192}).granted
    clock.sleep(89.0)
    assert not account.ask("b", "um", {"weight": 1}).granted
    clock.sleep(2.0)
    assert account.ask("b", "um", {"weight": 1}).granted
    account.settle("a", "um", Seen(quiet_s=10.0))  # late, and still heard
    assert account.blocked_s("um") == pytest.approx(10.0)
