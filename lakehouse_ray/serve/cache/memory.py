"""Answers in the memory of this process."""

from __future__ import annotations

from collections import OrderedDict

from lakehouse_ray.serve.cache.level import Counts
from lakehouse_ray.serve.cache.stored import Written

# Of an answer beside its body: key, objects, places in tables.
_BESIDE_BYTES = 1 << 10


class AnswerMemory:
    """Answers by their key, the least lately used forgotten first. For one event loop.

    A key names the question and the versions of its tables, so what is found is never stale.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._kept: OrderedDict[str, Written] = OrderedDict()
        self.size = 0
        self.counts = Counts()

    def get(self, key: str) -> Written | None:
        found = self._kept.get(key)
        if found is None:
            self.counts.misses += 1
            return None
        self.counts.hits += 1
        self.counts.read_bytes += found.whole.size
        self._kept.move_to_end(key)
        return found

    def put(self, key: str, answer: Written) -> None:
        """Keep an answer, if it is in memory and is not most of what there may be."""
        size = _size(answer)
        if answer.whole.data is None or size > self._bytes_max // 4:
            return
        if key in self._kept:
            self.size -= _size(self._kept.pop(key))
        self._kept[key] = answer
        self.size += size
        self.counts.written_bytes += answer.whole.size
        while self.size > self._bytes_max:
            _, old = self._kept.popitem(last=False)
            self.size -= _size(old)


def _size(answer: Written) -> int:
    return answer.whole.size + len(answer.following or "") + _BESIDE_BYTES
