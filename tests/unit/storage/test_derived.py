"""What is derived from snapshots: made once, bounded, and no question waits in vain."""

from __future__ import annotations

import threading

import pytest

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.storage.kept import Derived


def nothing() -> None:
    pass


def refuse() -> tuple[int, ...]:
    raise AssertionError("it is kept")


def test_it_is_made_once() -> None:
    derived = Derived()
    assert derived.get("a", lambda: (1, 2), nothing) == (1, 2)
    assert derived.get("a", refuse, nothing) == (1, 2)
    assert derived.get(("a", 5), lambda: (3,), nothing) == (3,)


def test_the_least_lately_used_goes_first_and_what_is_too_large_is_not_kept() -> None:
    derived = Derived(items_max=12)  # one for each collection, and its items
    for name in "abc":
        derived.get(name, lambda: (0,) * 3, nothing)
    derived.get("a", refuse, nothing)
    derived.get("d", lambda: (0,) * 3, nothing)
    for name in "acd":
        derived.get(name, refuse, nothing)
    with pytest.raises(AssertionError):
        derived.get("b", refuse, nothing)
    derived.get("large", lambda: (0,) * 12, nothing)
    with pytest.raises(AssertionError):
        derived.get("large", refuse, nothing)
    derived.get("a", refuse, nothing)


def test_equal_questions_wait_for_the_one_that_makes_it() -> None:
    derived = Derived()
    began, go = threading.Event(), threading.Event()
    made, found = [], []

    def make() -> tuple[int, ...]:
        made.append(1)
        began.set()
        assert go.wait(10)
        return (7,)

    threads = [
        threading.Thread(target=lambda: found.append(derived.get("a", make, nothing)))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    assert began.wait(10)
    # Other ones do not wait, and one that is to end does.
    assert derived.get("b", lambda: (8,), nothing) == (8,)

    def stopped() -> None:
        raise UnavailableError("the client has gone")

    with pytest.raises(UnavailableError):
        derived.get("a", refuse, stopped)
    go.set()
    for thread in threads:
        thread.join()
    assert (len(made), found) == (1, [(7,)] * 5)


def test_where_it_fails_the_next_one_makes_it() -> None:
    derived = Derived()
    with pytest.raises(AssertionError):
        derived.get("a", refuse, nothing)
    assert derived.get("a", lambda: (1,), nothing) == (1,)
