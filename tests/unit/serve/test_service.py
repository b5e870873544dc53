"""What a service keeps: answers in memory within bounds, answers on disk counted until let go."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from lakehouse_ray.serve.formats import Format, Whole
from lakehouse_ray.serve.limits import Limits
from lakehouse_ray.serve.problems import BusyError
from lakehouse_ray.serve.service import AnswerMemory, Service, Source, Stored
from lakehouse_ray.storage.objects import LocalStore


def stored(size: int) -> Stored:
    return Stored(Whole(Format.JSON, 1, size, b"", b"x" * size, None), {})


def test_the_least_lately_used_is_forgotten_first() -> None:
    memory = AnswerMemory(100)
    for name in "abcd":
        memory.put(name, stored(25))
    assert memory.get("a") is not None
    memory.put("e", stored(25))
    assert [name for name in "abcde" if memory.get(name)] == ["a", "c", "d", "e"]
    assert memory.size == 100


def test_what_is_put_twice_counts_once_and_what_is_too_large_not_at_all() -> None:
    memory = AnswerMemory(100)
    memory.put("a", stored(20))
    memory.put("a", stored(25))
    memory.put("b", stored(26))
    assert (memory.size, memory.get("b")) == (25, None)
    nothing = AnswerMemory(0)
    nothing.put("a", stored(1))
    assert nothing.get("a") is None


def on_disk(size: int) -> Whole:
    return Whole(Format.ARROW, 1, size, b"", None, tempfile.SpooledTemporaryFile())


def test_answers_that_wait_on_disk_are_bounded(tmp_path: Path) -> None:
    source = Source(lambda name: None, LocalStore(tmp_path), tmp_path)
    service = Service(source, Limits(answer_bytes_max=100))
    held = [on_disk(100) for _ in range(4)]
    for whole in held:
        service.hold(whole)
    with pytest.raises(BusyError):
        service.hold(on_disk(1))
    del whole
    held.pop()
    service.hold(last := on_disk(100))
    assert last.file is not None
    service.close()
