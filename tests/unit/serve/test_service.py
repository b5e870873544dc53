"""What a service keeps: answers on disk, counted until they are let go."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from lakehouse_ray.serve.formats import Format, Whole
from lakehouse_ray.serve.limits import Limits
from lakehouse_ray.serve.problems import BusyError
from lakehouse_ray.serve.service import Service, Source
from lakehouse_ray.storage.objects import LocalStore


def on_disk(size: int) -> Whole:
    return Whole(Format.ARROW, 1, size, b"", None, tempfile.SpooledTemporaryFile())


def test_answers_that_wait_on_disk_are_bounded(tmp_path: Path) -> None:
    source = Source(lambda name: None, lambda names: {}, LocalStore(tmp_path), tmp_path)
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
