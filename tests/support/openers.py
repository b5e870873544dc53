"""What several processes do at one moment: open a lake's table, which nobody has made yet."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from lakehouse_ray.model.datasets.registry import find_dataset
from lakehouse_ray.storage.catalog import CatalogAccess
from lakehouse_ray.storage.committer import Committer


def open_at_once(homes: Sequence[Path], processes: int) -> list[str]:
    """Open one lake after the other in several processes at once; the errors they met."""
    context = multiprocessing.get_context("spawn")
    barrier, errors = context.Barrier(processes), context.SimpleQueue()
    started = [
        context.Process(target=_open, args=(barrier, list(homes), errors)) for _ in range(processes)
    ]
    for process in started:
        process.start()
    met: list[str] = []
    reader = threading.Thread(target=lambda: met.extend(errors.get() for _ in started))
    reader.start()
    for process in started:
        process.join()
    reader.join(10)
    return [line for line in met if line]


def _open(barrier: Barrier, homes: list[Path], errors: Any) -> None:
    said = []
    for home in homes:
        barrier.wait(60)
        access = CatalogAccess(f"sqlite:///{home}/catalog.db", f"{home}/data", {})
        try:
            Committer(access, find_dataset("klines").table("1m"), "run")
        except Exception as error:  # noqa: BLE001 - told to the test
            said.append(repr(error))
    errors.put("\n".join(said))
