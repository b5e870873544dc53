"""Runs as processes of this one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from support.jobs import MemoryJobs

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.runtime.places import ClusterJobs, Ending, LocalProcesses
from lakehouse_ray.telemetry.redaction import Redaction

pytestmark = pytest.mark.integration

FOR_EVER = "import time; print('begun', flush=True); time.sleep(600)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {FOR_EVER}"


@pytest.fixture
def place(tmp_path: Path) -> LocalProcesses:
    return LocalProcesses(
        [sys.executable, "-c"], {"TOLD": "yes"}, tmp_path / "logs", 3, Redaction(["s3cret-word"])
    )


def until(wanted: Callable[[], object]) -> object:
    for _ in range(1000):
        if (found := wanted()) not in (None, False, b"", ""):
            return found
        time.sleep(0.01)
    raise AssertionError("it never came")


def log_of(tmp_path: Path, run_id: str) -> str:
    return (tmp_path / "logs" / f"{run_id}.log").read_text()


def test_how_a_run_ended_is_told_once_with_what_it_said(place: LocalProcesses) -> None:
    place.start("good", ["import os; print(os.environ['TOLD'])"], {})
    assert until(lambda: place.ending("good")) == Ending(0)
    said = (
        "import sys; print('error: no room for s3cret-word\\nhint: free some\\nbye'); sys.exit(75)"
    )
    place.start("bad", [said], {})
    assert until(lambda: place.ending("bad")) == Ending(
        75, "error: no room for ***\nhint: free some"
    )


def test_a_run_that_is_told_to_end_was_not_its_own_end(
    place: LocalProcesses, tmp_path: Path
) -> None:
    place.start("long", [FOR_EVER], {})
    until(lambda: log_of(tmp_path, "long"))
    place.stop("long")
    ending = until(lambda: place.ending("long"))
    assert isinstance(ending, Ending)
    assert (ending.exit_code, ending.lost) == (-15, True)


def test_one_that_does_not_listen_is_ended_with_what_it_started(
    place: LocalProcesses, tmp_path: Path
) -> None:
    place.start("deaf", [DEAF], {})
    until(lambda: log_of(tmp_path, "deaf"))
    place.stop("deaf")
    assert place.ending("deaf") is None
    place.stop("deaf", at_once=True)
    ending = until(lambda: place.ending("deaf"))
    assert isinstance(ending, Ending)
    assert ending.exit_code == -9


def test_a_run_ends_when_its_runner_is_killed(tmp_path: Path) -> None:
    # The runner of this test is a process that starts a run and is then killed at once.
    text = (
        "import sys, time; from pathlib import Path\n"
        "from lakehouse_ray.runtime.places import LocalProcesses\n"
        f"p = LocalProcesses([sys.executable, '-c'], {{}}, Path({str(tmp_path)!r}), 3, str)\n"
        f"p.start('long', [{FOR_EVER!r}], {{}})\n"
        "print(p._running['long'].pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE) as runner:
        assert runner.stdout is not None
        try:
            run = psutil.Process(int(runner.stdout.readline()))
            until(lambda: (tmp_path / "long.log").read_text())
        finally:
            runner.kill()
    run.wait(10)


def test_logs_of_the_latest_runs_are_kept(place: LocalProcesses, tmp_path: Path) -> None:
    for i in range(5):
        place.start(f"run{i}", ["pass"], {})
        until(lambda i=i: place.ending(f"run{i}"))  # type: ignore[misc]
        time.sleep(0.01)
    assert sorted(path.stem for path in (tmp_path / "logs").iterdir()) == ["run2", "run3", "run4"]


def test_what_cannot_be_started_says_so(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    place = LocalProcesses([sys.executable, "-c"], {}, tmp_path / "logs", 3, str)
    with pytest.raises(UnavailableError):
        place.start("one", ["pass"], {})


def test_a_job_is_found_by_its_id_and_started_once() -> None:
    jobs = MemoryJobs()
    place = ClusterJobs(jobs, ["lakehouse"], {"A": "b"}, Redaction(["s3cret-word"]))
    place.start("one", ["build"], {"schedule": "one"})
    place.start("one", ["build"], {"schedule": "one"})
    assert jobs.commands == {"one": ["lakehouse", "build"]}
    assert place.ending("one") is None
    jobs.end("one", "FAILED", exit_code=5, message="poor: s3cret-word")
    assert place.ending("one") == Ending(5, "poor: ***")
    place.start("two", ["build"], {})
    place.stop("two")
    assert place.ending("two") == Ending(None, "", lost=True)
    assert place.ending("unheard of") == Ending(None, "the cluster knows no such job", lost=True)
