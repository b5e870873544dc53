"""What this process and its children have used."""

from __future__ import annotations

import contextlib
import resource
import sys

import psutil  # type: ignore[import-untyped]


def cpu_seconds() -> float:
    """CPU seconds of this process and all its living children, user and system."""
    own = psutil.Process()
    total = 0.0
    for process in [own, *own.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def rss_bytes_max() -> int:
    """The most memory this process has had resident."""
    # Linux hands a parent's peak on to its children in getrusage, but not here.
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
