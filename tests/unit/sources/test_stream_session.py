"""Connections are replaced before they end, within limits, and what is dead is noticed."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_ray.sources.binance.streams.session import (
    Action,
    ConnectPace,
    Session,
    SessionRules,
    Stalled,
    spread,
)

RULES = SessionRules()


def session(pace: ConnectPace | None = None, rules: SessionRules = RULES) -> Session:
    return Session(rules, pace or ConnectPace(), random.Random(1))


def opened(at_s: float = 0.0) -> Session:
    found = session()
    assert found.due(at_s) == [Action("open", 0)]
    found.opened(0, at_s)
    return found


def kinds(actions: list[Action]) -> list[tuple[str, int]]:
    return [(action.what, action.connection) for action in actions]


def speak(found: Session, number: int, start_s: int, end_s: int, symbol: str = "BTCUSDT") -> None:
    for second in range(start_s, end_s):
        found.heard(number, {symbol: 5}, float(second))


def test_before_its_24_hours_end_a_connection_is_replaced_without_a_moment_in_between() -> None:
    found = opened()
    life = RULES.life_s
    found.heard(0, {"A": 1}, life - 1)
    assert kinds(found.due(life)) == [("open", 1)]
    found.opened(1, life + 1)
    found.heard(0, {"A": 1}, life + 1)
    found.heard(1, {"A": 1}, life + 2)
    # Heard for less than the overlap: both stay.
    assert found.due(life + 2 + RULES.overlap_s - 0.1) == []
    assert kinds(found.due(life + 2 + RULES.overlap_s)) == [("close", 0)]
    found.ended(0, life + 8)
    found.heard(1, {"A": 1}, life + 8)
    assert found.due(life + 8.5) == []
    assert found.up


def test_a_warning_of_the_exchange_replaces_a_connection_at_once() -> None:
    found = opened()
    found.heard(0, {"A": 1}, 9.0)
    found.warned(0)
    assert kinds(found.due(10.0)) == [("open", 1)]


def test_a_connection_that_is_cut_is_opened_again_after_a_random_wait() -> None:
    found = opened()
    waits = []
    for attempt in range(8):
        now = 1000.0 * (attempt + 1)
        found.ended(attempt, now)
        step = 0
        while not (actions := found.due(now + 0.01 * step)):
            step += 1
        waits.append(0.01 * step)
        assert kinds(actions) == [("open", attempt + 1)]
    ceilings = [min(RULES.backoff_max_s, 2**n) for n in range(8)]
    assert all(wait <= ceiling + 0.01 for wait, ceiling in zip(waits, ceilings, strict=True))
    assert len(set(waits)) == len(waits)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32))
def test_however_many_connections_fail_no_limit_is_passed(sessions: int, seed: int) -> None:
    """A mass disconnect: every connection fails as soon as it is opened."""
    pace = ConnectPace(spacing_s=1.0)
    rng = random.Random(seed)
    many = [Session(RULES, pace, rng, first, sessions) for first in range(sessions)]
    opens = []
    for tick in range(3 * 1200):
        now = tick / 3
        for found in many:
            for action in found.due(now):
                assert action.what == "open"
                opens.append(now)
                found.ended(action.connection, now)
    assert opens
    for place, start in enumerate(opens):
        assert sum(1 for time in opens[place:] if time < start + 1) <= 1


def test_a_dead_socket_is_asked_and_then_replaced() -> None:
    found = opened()
    found.heard(0, {"A": 1}, 1.0)
    assert kinds(found.due(21.0)) == [("ping", 0)]
    assert kinds(found.due(41.0)) == [("ping", 0)]
    assert kinds(found.due(61.0))[0] == ("open", 1)


def test_a_quiet_connection_whose_pings_are_answered_stays() -> None:
    found = opened()
    for second in range(1, 600):
        for action in found.due(float(second)):
            assert action.what == "ping"
            found.heard(0, {}, second + 0.1)


def test_an_exchange_that_asks_to_be_left_alone_is_left_alone() -> None:
    found = session()
    found.due(0.0)
    found.ended(0, 0.0, leave_alone_s=120.0)
    assert all(not found.due(float(second)) for second in range(120))
    assert kinds(found.due(120.0)) == [("open", 1)]


def test_a_symbol_that_spoke_often_and_stopped_costs_its_connection_once() -> None:
    found = opened()
    speak(found, 0, 0, 60)
    for second in range(60, 69):
        found.heard(0, {"ETHUSDT": 1}, float(second))
        assert found.due(float(second)) == []
    found.heard(0, {"ETHUSDT": 1}, 69.0)
    (action,) = found.due(69.0)
    assert (action.what, action.connection) == ("open", 1)
    assert "BTCUSDT" in action.why
    found.opened(1, 70.0)
    for second in range(70, 200):
        found.heard(1, {"ETHUSDT": 1}, float(second))
        # It has stopped trading: no connection brings it back.
        assert all(a.what == "close" for a in found.due(float(second)))
        if second == 76:
            found.ended(0, 76.0)


def stalled(other: str = "") -> tuple[Session, float]:
    """A connection on which BTCUSDT has stopped, and the next one; when it was heard last."""
    found = opened()
    speak(found, 0, 0, 60)
    if other:
        speak(found, 0, 60, 70, other)
    silent_s = 59 + RULES.stall_s
    assert kinds(found.due(silent_s)) == [("open", 1)]
    found.opened(1, silent_s + 1)
    return found, silent_s + 2


def test_what_a_connection_did_not_hear_while_it_was_open_is_known_by_the_next_one() -> None:
    found, now_s = stalled()
    # A pong, and a symbol that says for the first time what the silent one could have had, too.
    assert found.heard(1, {}, now_s) is None
    assert found.heard(1, {"RARE": 1}, now_s) is None
    assert found.heard(1, {"BTCUSDT": 1}, now_s + 1) == Stalled(59.0, frozenset({"RARE"}))
    assert found.heard(1, {"BTCUSDT": 1}, now_s + 2) is None


def test_symbols_that_were_heard_meanwhile_have_missed_nothing() -> None:
    found, now_s = stalled(other="ETHUSDT")
    assert found.heard(1, {"BTCUSDT": 1}, now_s) == Stalled(59.0, frozenset({"ETHUSDT"}))


def test_a_symbol_that_paused_and_goes_on_has_missed_nothing() -> None:
    found, now_s = stalled()
    assert found.heard(0, {"BTCUSDT": 1}, now_s) is None
    assert found.heard(1, {"BTCUSDT": 1}, now_s) is None


def test_a_socket_that_is_dead_has_missed_what_the_next_one_hears() -> None:
    found = opened()
    found.heard(0, {"SELDOM": 1}, 5.0)
    assert ("open", 1) in kinds(found.due(5.0 + RULES.silence_s))
    found.opened(1, 66.0)
    assert found.heard(1, {"OTHER": 1}, 67.0) == Stalled(5.0, frozenset())


def test_what_nobody_listened_to_is_not_told_twice() -> None:
    """The silent one has ended before the next is open: who opens it says so."""
    found = opened()
    speak(found, 0, 0, 60)
    assert kinds(found.due(70.0)) == [("open", 1)]
    found.ended(0, 70.5)
    assert not found.up
    found.opened(1, 71.0)
    assert found.heard(1, {"BTCUSDT": 1}, 72.0) is None


def test_a_symbol_that_seldom_speaks_may_be_silent() -> None:
    found = opened()
    for second in range(0, 600, 20):
        found.heard(0, {"QUIET": 1}, float(second))
        assert found.due(second + 0.5) == []
        assert all(a.what == "ping" for a in found.due(second + 15.0))


def test_a_replacement_that_fails_leaves_the_old_one_open() -> None:
    found = opened()
    found.heard(0, {"A": 1}, 9.0)
    found.warned(0)
    assert kinds(found.due(10.0)) == [("open", 1)]
    found.ended(1, 11.0)
    assert found.up
    found.heard(0, {"A": 1}, 14.0)
    assert kinds(found.due(15.0)) == [("open", 2)]


@given(
    st.lists(st.tuples(st.sampled_from("ABCDEFG"), st.uuids().map(str)), max_size=60, unique=True),
    st.integers(1, 9),
)
def test_streams_are_spread_over_connections_within_the_limit(
    names: list[tuple[str, str]], limit: int
) -> None:
    connections = spread(names, limit)
    assert sorted(name for streams in connections for name in streams) == sorted(
        n for _, n in names
    )
    assert all(1 <= len(streams) <= limit for streams in connections)
