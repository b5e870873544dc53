"""One local Ray for all integration tests: starting it takes longer than most of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lakehouse_ray.runtime.pool import default_worker_env
from lakehouse_ray.runtime.session import RaySession, connect


@pytest.fixture(scope="session")
def ray_session() -> Iterator[RaySession]:
    """An own Ray of two CPUs. Code under test that calls `connect` is given this one."""
    # Every 10 s by itself: tests of metrics would wait for it.
    env = {**default_worker_env(1), "RAY_metrics_report_interval_ms": "2000"}
    with connect("local", num_cpus=2, worker_env=env) as session:
        yield session
