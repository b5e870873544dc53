"""Circles of objects are looked for when there is a moment, and not before it is time."""

from __future__ import annotations

import gc
import weakref

from support.ticking import TickingClock

from lakehouse_ray.runtime.collection import RareCollection


class Circle:
    def __init__(self) -> None:
        self.own = self


def test_circles_go_at_a_moment_once_it_is_time_and_by_themselves_afterwards() -> None:
    clock = TickingClock()
    assert gc.isenabled()
    with RareCollection(clock, 10.0) as collection:
        circle = weakref.ref(Circle())
        # Of a generation that would be full many times over.
        assert len([[] for _ in range(100_000)]) == 100_000
        collection.moment()
        assert circle() is not None
        clock.sleep(10.0)
        collection.moment()
        assert circle() is None
        later = weakref.ref(Circle())
        collection.moment()
        assert later() is not None
    assert gc.isenabled()
    gc.collect()
    assert later() is None
