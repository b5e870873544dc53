"""`lake.resample` and `lakehouse get --from`: longer bars of what is stored, against DuckDB."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from support.bars import BarLake, bars
from support.commands import environment, run
from support.in_process import run_here

import lakehouse_ray as lh
from lakehouse_ray.errors import InvalidError
from lakehouse_ray.query.lake import Lake

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lake = BarLake(tmp_path_factory.mktemp("lake"))
    quarters = bars("AAA", "2024-05-20", 8, interval="15m", holes=0)
    hole = (
        pl.col("open_time")
        .dt.strftime("%d %H:%M")
        .is_between(pl.lit("22 10:30"), pl.lit("22 11:15"))
    )
    lake.put(quarters.filter(~hole))
    return lake.home


@pytest.fixture
def lake(home: Path) -> Lake:
    return lh.connect(home)


TRUTH = """
select time_bucket(interval '{length}', open_time, interval '{offset}') as open_time,
       arg_min(open, open_time) filter (volume > 0) as open, max(high) filter (volume > 0) as high,
       min(low) filter (volume > 0) as low, arg_max(close, open_time) filter (volume > 0) as close,
       sum(volume) as volume, sum(trades)::bigint as trades, count(*)::int as bars
from silver.klines where symbol = 'AAA' group by 1 having sum(volume) > 0 order by 1
"""


@pytest.mark.parametrize(
    ("interval", "length", "offset"),
    [
        ("1h", "1 hour", "0m"),
        ("4h", "4 hours", "1h"),
        ("1d", "1 day", "8h"),
        ("1h", "1 hour", "45m"),
    ],
)
def test_bars_are_what_duckdb_makes_of_the_finer_ones(
    lake: Lake, interval: str, length: str, offset: str
) -> None:
    spelled = offset.replace("m", " minutes").replace("h", " hours")
    with lake.sql(TRUTH.format(length=length, offset=spelled)) as result:
        truth = result.pl()
    made = lake.resample("AAA", interval, source="15m", offset=offset).collect()
    traded = made.filter(pl.col("volume") > 0).select(truth.columns)
    assert_frame_equal(traded, truth.cast(dict(traded.schema)), rel_tol=1e-12)  # type: ignore[arg-type]


def test_a_range_has_the_bars_that_open_in_it_whole(lake: Lake) -> None:
    every = lake.resample("AAA", "4h", source="15m", offset="1h").collect()
    some = lake.resample(
        "AAA", "4h", "2024-05-21T00:30", "2024-05-23", source="15m", offset="1h"
    ).collect()
    inside = every.filter(
        pl.col("open_time")
        .dt.strftime("%d %H:%M")
        .is_between(pl.lit("21 00:30"), pl.lit("22 23:59"))
    )
    assert some.equals(inside)
    assert some["is_partial"].sum() == 1


def test_several_offsets_come_one_after_the_other_and_policies_stay_with_the_bars(
    lake: Lake,
) -> None:
    made = lake.resample(
        "AAA", "1h", source="15m", offset=["0m", "30m"], partial="drop", empty="carry"
    )
    found = (
        made.select("offset", "partial_policy", "empty_policy").unique().sort("offset").collect()
    )
    assert found.rows() == [("0m", "drop", "carry"), ("30m", "drop", "carry")]
    assert made.filter(pl.col("is_partial") & ~pl.col("is_filled")).collect().is_empty()
    assert made.select("close").head(3).collect().height == 3


def test_months_reach_to_the_end_of_the_last_one(lake: Lake) -> None:
    month = lake.resample("AAA", "1mo", "2024-05", "2024-06", source="15m").collect()
    assert month.select("bars", "is_partial").rows() == [(8 * 96 - 4, True)]


def test_what_cannot_be_made_is_refused_with_what_could(lake: Lake) -> None:
    with pytest.raises(InvalidError) as caught:
        lake.resample("AAA", "1h", source="7m")
    with pytest.raises(InvalidError) as caught:
        lake.resample("AAA", "5m", source="15m")
    assert "1m" in caught.value.hint
    with pytest.raises(InvalidError):
        lake.resample("AAA", "1h", source="15m", offset="7m")
    with pytest.raises(InvalidError):
        lake.resample("AAA", "1h", source="15m", partial="maybe")


def test_the_command_gives_the_same_bars(home: Path, lake: Lake) -> None:
    env = environment(HOME=home)
    code, said = run(
        "get", "AAA", "--interval", "4h", "--from", "15m", "--offset", "0m,1h", "--output", "ndjson",
        env=env,
    )  # fmt: skip
    assert code == 0, said
    told = pl.read_ndjson(io.StringIO(said))
    wanted = lake.resample("AAA", "4h", source="15m", offset="0m,1h").collect()
    assert told["close"].to_list() == wanted["close"].to_list()
    assert told["offset"].to_list() == wanted["offset"].to_list()
    for arguments, answer in (
        (("AAB", "--interval", "4h", "--from", "15m"), 4),
        (("AAA", "--interval", "4h", "--offset", "1h"), 2),
        (("AAA", "--interval", "4h", "--from", "3h"), 2),
        (("AAA", "--interval", "4h", "--from", "15m", "--indicators", "sma_20"), 2),
    ):
        assert run_here("get", *arguments, env=env).returncode == answer, arguments
