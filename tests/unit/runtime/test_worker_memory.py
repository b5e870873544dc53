"""What is freed stays at hand; circles of objects are looked for when there is a moment, not before it is time."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
import weakref

import pytest
from support.ticking import TickingClock

from lakehouse_ray.runtime.memory import RareCollection


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


# Of more than the 32 MiB up to which glibc learns to keep buffers by itself.
_FAULTS = """
import resource, sys
from lakehouse_ray.runtime.memory import keep_freed_memory
if "keep" in sys.argv:
    assert keep_freed_memory()
for _ in range(4):
    bytearray(b"x") * (40 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    bytearray(b"x") * (40 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other systems keep it or do not")
def test_what_was_freed_is_not_faulted_in_again() -> None:
    faults = {
        how: int(subprocess.check_output([sys.executable, "-c", _FAULTS, how]))
        for how in ("keep", "-")
    }
    assert faults["-"] > 1_000
    assert faults["keep"] < faults["-"] / 10
