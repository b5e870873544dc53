"""Two stages for all tests: making them takes longer than most."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import date

import pytest
from support.commands import KLINES_1M, run, running, serve
from support.lakes import Contents, read_lake
from support.stage import FAULTS, SYMBOLS, Stage, write


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Eight symbols, two months and ten days: nine seconds of work on two cores."""
    folder = tmp_path_factory.mktemp("stage")
    write(folder / "archive", SYMBOLS, date(2024, 12, 1), date(2025, 2, 11))
    with serve(folder / "archive", FAULTS) as url:
        empty = Stage(url, 0, Contents({}, {}, {}))
        env = empty.environment(folder / "home", on_ray=True)
        with running("ingest", *KLINES_1M, env=env) as command:
            command.wait_for_work()
            start_s = time.monotonic() - command.started_s
            code = command.wait()
        assert code == 3, command.said()
        yield Stage(url, code, read_lake(folder / "home"), start_s)


@pytest.fixture(scope="session")
def small_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Eight symbols, a month of twelve days and ten days more."""
    folder = tmp_path_factory.mktemp("small")
    write(folder / "archive", SYMBOLS, date(2025, 1, 20), date(2025, 2, 11))
    with serve(folder / "archive", FAULTS) as url:
        empty = Stage(url, 0, Contents({}, {}, {}))
        env = empty.environment(folder / "home", on_ray=False)
        code, said = run("ingest", *KLINES_1M, env=env)
        assert code == 3, said
        yield Stage(url, code, read_lake(folder / "home"))
