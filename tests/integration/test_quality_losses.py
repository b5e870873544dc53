"""Assessments of a lake that lost files, that are told to stop, and that are made twice at once."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from support.bars import BarLake, bars
from support.commands import MANY_BYTES, environment, running
from support.failing import FailingCommitter, FailingWriter
from support.findings import assert_same_findings, findings, runs_shown
from support.in_process import run_here
from support.restored import Restored

from lakehouse_ray.clock import SystemClock
from lakehouse_ray.model.timespan import DAY_US
from lakehouse_ray.pipeline.quality_assessment import AssessmentRequest, assess

pytestmark = pytest.mark.integration

SYMBOLS = ("AAA", "BBB", "CCC")


class Ahead(SystemClock):
    """Of a machine that is a day ahead."""

    def now_us(self) -> int:
        return super().now_us() + DAY_US


def fill(home: Path) -> None:
    for symbol in SYMBOLS:  # a file each
        BarLake(home).put(bars(symbol, "2024-05-20", 10))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Restored:
    return Restored(tmp_path_factory.mktemp("filled"), fill)


@pytest.fixture
def lake(filled: Restored) -> BarLake:
    return BarLake(filled.again())


def settings(lake: BarLake, *, on_ray: bool = False) -> dict[str, str]:
    bytes_max = 0 if on_ray else MANY_BYTES
    return environment(HOME=lake.home, COMPUTE__LOCAL_BYTES_MAX=bytes_max)


def file_of(lake: BarLake, symbol: str) -> Path:
    files = lake.files("silver.klines_coarse").items()
    (path,) = [path for path, names in files if names == [symbol]]
    return Path(path)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100 : len(data) // 2] = bytes(len(data) // 2 - 100)
    path.write_bytes(data)


@pytest.mark.parametrize("loss", [Path.unlink, damage])
def test_a_symbol_whose_file_is_lost_is_told_and_the_others_are_assessed(
    lake: BarLake, loss: object
) -> None:
    path = file_of(lake, "BBB")
    loss(path)  # type: ignore[operator]
    # Why hours of the others are missing cannot be told while rows of BBB at that time are lost.
    lake.put(bars("DDD", "2024-05-20", 10, holes=0))
    done = run_here("quality", "--json", env=settings(lake))
    assert (done.returncode, done.stderr) == (3, "")
    report = json.loads(done.stdout)["run"]
    failed = {one["series"]: one for one in report["examples"]}
    assert set(failed) == {"spot klines 1h AAA", "spot klines 1h BBB", "spot klines 1h CCC"}
    assert (report["series"], report["assessed"], report["failed"]) == (4, 1, 3)
    assert all(one["reason"] == "UnavailableError" for one in failed.values())
    assert path.name in failed["spot klines 1h BBB"]["detail"]
    again = run_here("quality", env=settings(lake))
    assert again.returncode == 3
    assert "3 FAILED" in again.stdout + again.stderr
    assert set(findings(lake.home)["gold.quality"]["symbol"]) == {"DDD"}


def test_series_without_holes_do_not_mind_that_the_file_of_another_is_lost(tmp_path: Path) -> None:
    lake = BarLake(tmp_path)
    for symbol in SYMBOLS:
        lake.put(bars(symbol, "2024-05-20", 4, holes=0))
    assert assess(lake.writer(), AssessmentRequest()).assessed == 3
    before = findings(lake.home)["gold.quality"].filter(symbol="BBB")
    file_of(lake, "BBB").unlink()
    report = assess(lake.writer(), AssessmentRequest(again=True))
    assert (report.assessed, report.failed, report.current) == (2, 1, 0)
    # What was known of the lost one stays.
    assert findings(lake.home)["gold.quality"].filter(symbol="BBB").equals(before)


def test_bars_are_not_assessed_without_the_finer_bars_that_they_are_held_against(
    tmp_path: Path,
) -> None:
    lake = BarLake(tmp_path)
    for symbol in SYMBOLS:
        lake.put(bars(symbol, "2024-05-20", 4, holes=0))
    lake.put(bars("AAA", "2024-05-20", 4, interval="1m", holes=0))
    for path in lake.files("silver.klines_fine"):
        Path(path).unlink()
    report = assess(lake.writer(), AssessmentRequest())
    assert (report.series, report.assessed, report.failed) == (4, 2, 2)
    assert {one["series"] for one in report.examples} == {
        "spot klines 1m AAA", "spot klines 1h AAA",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("number", "on_ray"),
    [
        (signal.SIGINT, False),
        (signal.SIGTERM, True),
        pytest.param(signal.SIGTERM, False, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, True, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_told_to_stop_says_so_by_its_code_and_the_next_completes_it(
    tmp_path: Path, number: signal.Signals, on_ray: bool
) -> None:
    lake = BarLake(tmp_path)
    lake.put(*(bars(symbol, "2024-01-01", 120) for symbol in "ABCDEF"))
    with running("quality", env=settings(lake, on_ray=on_ray)) as command:
        command.wait_for_work()
        command.offspring(lambda _: True)
        (os.killpg if number == signal.SIGINT else os.kill)(command.process.pid, number)
        code = command.wait(120)
        assert code == 128 + number, command.said()
        assert "Traceback" not in command.said()
        assert command.leftovers(60) == []
    assert assess(lake.writer(), AssessmentRequest()).failed == 0
    assert set(findings(lake.home)["gold.assessments"]["symbol"]) == set("ABCDEF")


def test_of_two_assessments_at_once_each_series_shows_one(lake: BarLake) -> None:
    """The other runs from beginning to end right before the last commit of the first."""
    others: list[str] = []

    def overtake() -> None:
        others.append(assess(lake.writer(), AssessmentRequest()).run_id)

    writer = lake.writer(kind=FailingWriter)
    object.__setattr__(
        writer, "around",
        {"gold.assessment_log": lambda inner: FailingCommitter(inner, 1, before=overtake)},
    )  # fmt: skip
    first = assess(writer, AssessmentRequest())
    alone = BarLake(lake.home.parent / "alone")
    fill(alone.home)
    assess(alone.writer(), AssessmentRequest())
    shown = findings(lake.home)
    assert shown["gold.assessments"]["run_id"].is_in([first.run_id, *others]).all()
    assert shown["gold.assessments"]["number"].to_list() == [1, 1, 1]
    assert_same_findings(lake.home, alone.home)
    assert runs_shown(lake.home).height == len(SYMBOLS)
    # Nothing is left to do, and what comes after counts on.
    assert assess(lake.writer(), AssessmentRequest()).assessed == 0
    assess(lake.writer(), AssessmentRequest(again=True))
    assert findings(lake.home)["gold.assessments"]["number"].to_list() == [2, 2, 2]


def test_the_latest_assessment_is_the_latest_whatever_the_clocks_say(lake: BarLake) -> None:
    first = lake.writer()
    ahead = lake.writer()
    object.__setattr__(ahead, "clock", Ahead())
    assess(ahead, AssessmentRequest())
    report = assess(first, AssessmentRequest(again=True))
    assert set(findings(lake.home)["gold.assessments"]["run_id"]) == {report.run_id}
