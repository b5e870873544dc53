"""Unit tests start no cluster and wait for nothing, so that all of them run in seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import NoReturn

import pytest
import structlog


@pytest.fixture(autouse=True)
def _no_ray_and_no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise AssertionError("a unit test neither starts Ray nor sleeps: move it, or take a Clock")

    monkeypatch.setattr(time, "sleep", refuse)
    ray = sys.modules.get("ray")
    if ray is not None:  # importing it here would cost every run of the unit tests its seconds
        monkeypatch.setattr(ray, "init", refuse)


@pytest.fixture
def all_events() -> Iterator[None]:
    """Whatever level another test of this process has set."""
    before = structlog.get_config()
    structlog.reset_defaults()
    yield
    structlog.configure(**before)
