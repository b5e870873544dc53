"""Faults of a market made by hand, through the exchange, the ingestion and the assessment: each is
found, on its days, for what it is, and scored as by hand.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from support.bars import bars
from support.commands import MANY_BYTES, environment
from support.in_process import run_here
from support.recorded import publish

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.pipeline.assessment_report import AssessmentReport
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.pipeline.quality_assessment import AssessmentRequest, assess
from lakehouse_ray.settings import Settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import Faults, FolderArchive, ReplicaExchange, Rule

pytestmark = pytest.mark.integration

# A month as one file (of AUSDT only), then days of eight symbols.
MONTH, FIRST, DAYS = date(2024, 4, 1), date(2024, 5, 1), 8
SYMBOLS = tuple(f"{letter}USDT" for letter in "ABCDEFGH")
USUAL_DELAY_HOURS = 10
# Of the day DUSDT of the 5th ten days pass, of that of the 7th forty: it was made anew.
LATE = {("DUSDT", 5): 240, ("DUSDT", 7): 960}
NO_FILE = {("HUSDT", 4)}
DAMAGED = {("BUSDT", 3): "corrupt_zip", ("CUSDT", 4): "wrong_checksum"}
# Hours, as `hour_of` spells them.
REFUSED_HOURS = {"04-10 05", "04-10 06", "04-20 23", "05-02 01", "05-02 02", "05-02 03"}


def hour_of(time: datetime) -> str:
    return f"{time:%m-%d %H}"


def is_missing(symbol: str, hour: str) -> bool:
    """Hours that no file has, though the file of that time may be there."""
    return (
        "05-06 10" <= hour < "05-06 13"  # nobody has them
        or (symbol == "EUSDT" and "05-07 05" <= hour < "05-07 08")
        # The ticker goes to another asset.
        or (symbol == "FUSDT" and "05-02 18" <= hour < "05-05 12")
        or (symbol == "GUSDT" and hour >= "05-05 12")
    )


def lines_of(symbol: str, start: date, days: int) -> list[str]:
    lines = []
    first = midnight(start)
    walk = bars(symbol, str(MONTH), 30 + DAYS, holes=0)
    span = pl.col("open_time").is_between(first, first + timedelta(days), closed="left")
    for bar in walk.filter(span).iter_rows(named=True):
        time = bar["open_time"]
        if is_missing(symbol, hour_of(time)):
            continue
        ms = int(time.timestamp() * 1000)
        prices = ",".join(f"{bar[name]:.8f}" for name in ("open", "high", "low", "close"))
        mean = (bar["open"] + bar["close"]) / 2
        bad = symbol == "AUSDT" and hour_of(time) in REFUSED_HOURS
        volume = "many" if bad else "10"
        lines.append(
            f"{ms},{prices},{volume},{ms + 3_599_999},{10 * mean:.8f},100,4,{4 * mean:.8f},0"
        )
    return lines


def put(root: Path, key: str, lines: Iterable[str], modified: datetime) -> None:
    publish(root, key, lines)
    for path in (root / key, root / f"{key}.CHECKSUM"):
        os.utime(path, (modified.timestamp(), modified.timestamp()))


def midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def write_market(root: Path) -> None:
    usual = timedelta(hours=USUAL_DELAY_HOURS)
    month = lines_of("AUSDT", MONTH, 30)
    put(
        root,
        "data/spot/monthly/klines/AUSDT/1h/AUSDT-1h-2024-04.zip",
        month,
        midnight(FIRST) + usual,
    )
    for symbol in SYMBOLS:
        for number in range(1, DAYS + 1):
            day = FIRST + timedelta(number - 1)
            lines = lines_of(symbol, day, 1)
            if not lines or (symbol, number) in NO_FILE:
                continue
            late = timedelta(hours=LATE.get((symbol, number), USUAL_DELAY_HOURS))
            key = f"data/spot/daily/klines/{symbol}/1h/{symbol}-1h-{day}.zip"
            put(root, key, lines, midnight(day) + timedelta(1) + late)


RULES = tuple(
    Rule(f"*/{symbol}-1h-2024-05-{day:02}.zip", fault) for (symbol, day), fault in DAMAGED.items()
)


@dataclass(frozen=True)
class Assessed:
    home: Path
    report: AssessmentReport

    def ask(self, query: str) -> pl.DataFrame:
        with Reader(writer(self.home).settings).lake.sql(query) as result:
            return result.pl()

    def day(self, symbol: str, month: int, day: int) -> dict[str, object]:
        found = self.ask(
            f"select * from gold.quality where symbol = '{symbol}' and day = "
            f"timestamptz '2024-{month:02}-{day:02} 00:00:00+00'"
        )
        assert found.height == 1, (symbol, month, day)
        return found.row(0, named=True)


def writer(home: Path, url: str = "http://127.0.0.1:1") -> Writer:
    return Writer(
        Settings(home=home, binance={"archive_url": url}, compute={"local_bytes_max": 1 << 40})
    )


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Assessed:
    root, home = tmp_path_factory.mktemp("archive"), tmp_path_factory.mktemp("lake") / "home"
    write_market(root)
    with ReplicaExchange(FolderArchive(root), Faults(RULES)) as exchange:
        report = ingest(writer(home, exchange.url), IngestRequest(Selection(KLINES, "spot", "1h")))
    assert report.quarantined == len(DAMAGED), report.examples
    assert report.rows_quarantined == len(REFUSED_HOURS)
    return Assessed(home, assess(writer(home), AssessmentRequest()))


def test_every_gap_is_found_once_and_named_for_what_it_is(lake: Assessed) -> None:
    assert (lake.report.series, lake.report.assessed, lake.report.failed) == (8, 8, 0)
    found = lake.ask(
        "select symbol, strftime(start_time, '%m-%d %H'), strftime(end_time, '%m-%d %H'), missing, "
        "cause from silver.gaps order by all"
    )
    # Its own three hours are part of the time in which the ticker of FUSDT was nobody's; GUSDT is
    # gone by then.
    outage = [(s, "05-06 10", "05-06 13", 3, "outage") for s in SYMBOLS if s != "GUSDT"]
    assert found.rows() == sorted(
        [
            *outage,
            ("AUSDT", "04-10 05", "04-10 07", 2, "own_loss"),
            ("AUSDT", "04-20 23", "04-21 00", 1, "own_loss"),
            ("AUSDT", "05-02 01", "05-02 04", 3, "own_loss"),
            ("BUSDT", "05-03 00", "05-04 00", 24, "own_loss"),
            ("CUSDT", "05-04 00", "05-05 00", 24, "own_loss"),
            ("EUSDT", "05-07 05", "05-07 08", 3, "halted"),
            ("FUSDT", "05-02 18", "05-05 12", 66, "halted"),
            ("HUSDT", "05-04 00", "05-05 00", 24, "unknown"),
        ]
    )


def test_lines_that_were_refused_count_on_the_day_of_each_line(lake: Assessed) -> None:
    found = lake.ask(
        "select symbol, month(day), day(day), rows_quarantined from gold.quality "
        "where rows_quarantined > 0 order by all"
    )
    # The month's file says no day, its lines do.
    assert found.rows() == [("AUSDT", 4, 10, 2), ("AUSDT", 4, 20, 1), ("AUSDT", 5, 2, 3)]


def test_a_file_that_was_refused_costs_its_day_and_no_other(lake: Assessed) -> None:
    for symbol, number in DAMAGED:
        for day in range(1, DAYS + 1):
            row = lake.day(symbol, 5, day)
            if day == number:
                assert (row["rows"], row["rows_expected"], row["score"]) == (0, 24, 0.0)
                assert row["codes"] == "OWN_LOSS"
            elif day != 6:  # of the outage
                assert (row["score"], row["codes"]) == (1.0, None)


def test_a_late_publication_is_told_with_its_delay_and_one_made_anew_with_none(
    lake: Assessed,
) -> None:
    late = lake.day("DUSDT", 5, 5)
    assert (late["delay_hours"], late["codes"]) == (240.0, "LATE")
    assert late["score"] == pytest.approx(1 - 0.10 * (240 - 48) / (720 - 48))
    assert "240" in str(late["reasons"])
    anew = lake.day("DUSDT", 5, 7)
    assert (anew["delay_hours"], anew["timeliness"], anew["score"]) == (None, None, 1.0)
    assert lake.day("DUSDT", 5, 4)["delay_hours"] == USUAL_DELAY_HOURS
    # Each day of a month's file waited for the month's end: ten hours after that it was there.
    assert lake.day("AUSDT", 4, 1)["delay_hours"] == USUAL_DELAY_HOURS


def test_scores_are_those_of_the_formula(lake: Assessed) -> None:
    refused = lake.day("AUSDT", 5, 2)
    assert refused["score"] == pytest.approx((1 - 3 / 24) * (1 - 0.45 * 3 / 24))
    outage = lake.day("BUSDT", 5, 6)
    assert (outage["codes"], outage["score"]) == ("OUTAGE", pytest.approx(1 - 0.1 * 3 / 24))
    halted = lake.day("EUSDT", 5, 7)
    assert (halted["codes"], halted["score"]) == ("HALTED", pytest.approx(1 - 0.1 * 3 / 24))
    nobody = lake.day("FUSDT", 5, 3)
    assert (nobody["rows"], nobody["codes"]) == (0, "HALTED")
    assert nobody["score"] == pytest.approx(0.9)
    hole = lake.day("HUSDT", 5, 4)
    assert (hole["rows"], hole["codes"], hole["score"]) == (0, "UNKNOWN", 0.0)


def test_all_other_days_are_without_fault(lake: Assessed) -> None:
    fine = lake.ask(
        "select count(*) filter (score = 1 and codes is null), count(*) from gold.quality"
    ).row(0)
    # 30 days of a month and 8 of eight symbols; GUSDT has three less, the days after its end are
    # no days of it.
    every = 30 + 8 * 8 - 3
    outage, refused, late, halted, absent = 7, 3, 1, 1 + 4, 3
    assert fine == (every - outage - refused - late - halted - absent, every)


def test_a_symbol_that_ended_is_no_worse_for_it(lake: Assessed) -> None:
    assert lake.day("GUSDT", 5, 5)["score"] == 1.0
    later = Reader(writer(lake.home).settings).lake.gaps(
        "spot", "klines", "GUSDT", "1h", "2024-05-06", "2024-05-08"
    )
    assert later["cause"].to_list() == ["delisted"]


def settings(home: Path) -> dict[str, str]:
    return environment(HOME=home, COMPUTE__LOCAL_BYTES_MAX=MANY_BYTES)


def command(home: Path, *arguments: str) -> tuple[int, str]:
    done = run_here("quality", *arguments, env=settings(home))
    return done.returncode, done.stderr + done.stdout


def test_the_command_names_the_worst_days_and_what_to_do(lake: Assessed) -> None:
    done = run_here("quality", "--json", env=settings(lake.home))
    assert (done.returncode, done.stderr) == (5, "")
    told = json.loads(done.stdout)
    assert (told["run"]["current"], told["run"]["assessed"]) == (8, 0)
    worst = {(day["symbol"], day["day"][:10], day["codes"]) for day in told["worst_days"][:3]}
    assert worst == {
        ("BUSDT", "2024-05-03", "OWN_LOSS"),
        ("CUSDT", "2024-05-04", "OWN_LOSS"),
        ("HUSDT", "2024-05-04", "UNKNOWN"),
    }
    todo = {(one["action"], one["symbol"], one["start"][:10]) for one in told["recommendations"]}
    assert todo >= {
        ("fetch_again", "BUSDT", "2024-05-03"),
        ("fetch_again", "CUSDT", "2024-05-04"),
        ("fetch_again", "AUSDT", "2024-04-10"),
        ("fetch", "HUSDT", "2024-05-04"),
    }
    assert not {symbol for _, symbol, _ in todo} & {"DUSDT", "EUSDT", "FUSDT", "GUSDT"}


def test_questions_about_what_is_not_there_end_with_their_own_code(
    lake: Assessed, tmp_path: Path
) -> None:
    code, said = command(lake.home, "--symbols", "BUSD", "--json")
    assert code == 4
    assert "did you mean BUSDT" in said
    empty = tmp_path / "empty"
    writer(empty).catalog.open(KLINES.table("1h"))
    for home in (tmp_path / "nowhere", empty):
        code, said = command(home)
        assert (code, "nothing is stored yet" in said) == (4, True)
    code, said = command(lake.home, "--market", "um")
    assert (code, "nothing of um is stored" in said) == (4, True)


def test_a_range_without_days_is_an_error_of_its_own(lake: Assessed) -> None:
    code, said = command(lake.home, "--start", "2019-01", "--end", "2019-02", "--json")
    assert code == 4
    assert "no day is scored" in said
