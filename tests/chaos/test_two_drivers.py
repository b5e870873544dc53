"""Two ingestions at the same time on one lake that nobody has made yet."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import KLINES_1M, run, running
from support.lakes import assert_same, read_lake
from support.stage import SYMBOLS, Stage

pytestmark = pytest.mark.chaos


@pytest.mark.slow
@pytest.mark.parametrize("on_ray", [False, True])
def test_two_runs_at_once_leave_what_one_does(
    small_stage: Stage, tmp_path: Path, on_ray: bool
) -> None:
    env = small_stage.environment(tmp_path, on_ray=on_ray, units_per_commit=2)
    most, rest = ",".join(SYMBOLS[:6]), ",".join(SYMBOLS[2:])
    with (
        running("ingest", *KLINES_1M, "--symbols", most, env=env) as one,
        running("ingest", *KLINES_1M, "--symbols", rest, env=env) as other,
    ):
        for command in (one, other):
            code = command.wait()
            assert code == small_stage.code, command.said()
            assert "failed 0 files" in command.said()
    found = read_lake(tmp_path)
    assert_same(found, small_stage.contents)
    code, said = run("ingest", *KLINES_1M, env=small_stage.environment(tmp_path, on_ray=False))
    assert code == 0, said
    assert read_lake(tmp_path).snapshots == found.snapshots
