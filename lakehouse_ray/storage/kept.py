"""What is known of a store's files, kept from question to question."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sized
from typing import TypeVar, cast

from lakehouse_ray.storage.footers import KeptFooters
from lakehouse_ray.storage.manifests import Manifests
from lakehouse_ray.storage.objects import ObjectStore
from lakehouse_ray.storage.pages import CheckedFiles

T = TypeVar("T", bound=Sized)

# Some 2 kB each: what is told of a ticker, in a few Python objects.
ITEMS_MAX = 30_000
_LOOK_EVERY_S = 0.1


class KeptFiles:
    """Manifests and footers, and what was derived from rows; each bounded. For several threads.


    checked: Files whose pages were found right. None: nobody looks at them before DuckDB reads.
    """

    def __init__(self, store: ObjectStore, *, verify_files: bool = False) -> None:
        self.store = store
        self.checked = CheckedFiles(store) if verify_files else None
        self.manifests = Manifests()
        self.footers = KeptFooters(store)
        self.derived = Derived()

    def place(self, path: str) -> str:
        """From a file's name in a table to where it is in the store's file system."""
        return self.store.locate(path.removeprefix("file://").removeprefix(f"{self.store.root}/"))


class Derived:
    """Collections derived from snapshots of tables, the least lately used forgotten first.

    A snapshot does not change, so they are never stale. For several threads.
    """

    def __init__(self, items_max: int = ITEMS_MAX) -> None:
        self._items_max = items_max
        self._items = 0
        self._kept: OrderedDict[Hashable, Sized] = OrderedDict()
        self._in_the_making: set[Hashable] = set()
        self._changed = threading.Condition()

    def get(self, key: Hashable, make: Callable[[], T], check: Callable[[], None]) -> T:
        """Return what is kept under a key, or make it. Nobody may change it.

        key: Names the snapshots too. make: Runs in one thread at a time for a key.
        check: Called while another thread makes it; raises what this question was stopped for.
        """
        with self._changed:
            while key not in self._kept and key in self._in_the_making:
                self._changed.wait(_LOOK_EVERY_S)
                check()
            if key in self._kept:
                self._kept.move_to_end(key)
                return cast("T", self._kept[key])
            self._in_the_making.add(key)
        try:
            made = make()
        except BaseException:
            # Whoever waits for it tries by itself.
            self._settle(key, None)
            raise
        self._settle(key, made)
        return made

    def _settle(self, key: Hashable, made: Sized | None) -> None:
        with self._changed:
            self._in_the_making.discard(key)
            if made is not None and len(made) + 1 <= self._items_max:
                self._kept[key] = made
                self._items += len(made) + 1
                while self._items > self._items_max:
                    _, old = self._kept.popitem(last=False)
                    self._items -= len(old) + 1
            self._changed.notify_all()
