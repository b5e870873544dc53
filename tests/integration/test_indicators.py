"""Indicators asked of a lake: by the SDK and by the command, over bars that the real ingestion wrote."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal
from support.talib_bars import difference, reference

import lakehouse_ray as lh
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.cli.app import dispatch
from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.indicators.compute import compute
from lakehouse_ray.kernels.indicators.registry import parse_names
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.query import indicators as query_module
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.settings import Settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import Faults, ReplicaExchange, Rule, SyntheticArchive

pytestmark = pytest.mark.integration

START, END = date(2024, 6, 29), date(2024, 7, 4)
HOLE = datetime(2024, 7, 2, tzinfo=UTC)
NAMES = [
    "sma_20", "ema_20", "rsi_14", "macd_12_26_9", "bbands_20_2", "stoch_14_3_3", "adx_14", "obv",
    "kama_30", "mfi_14",
]  # fmt: skip
OUTPUTS = [output for request in parse_names(NAMES) for output in request.outputs]
Capture = pytest.CaptureFixture[bytes]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A lake of two symbols; a day of the second one is refused, which leaves a gap."""
    home = tmp_path_factory.mktemp("indicators") / "home"
    archive = SyntheticArchive(
        4, ["BTCUSDT", "ETHUSDT"], ("spot",), START, END, trades_per_minute=2
    )
    faults = Faults((Rule("*/ETHUSDT-1m-2024-07-02.zip", "corrupt_zip"),))
    with ReplicaExchange(archive, faults) as exchange:
        writer = Writer(
            Settings(
                home=home,
                binance={"archive_url": exchange.url},
                compute={"local_bytes_max": 1 << 40},
            )
        )
        for interval in ("1m", "1h"):
            ingest(writer, IngestRequest(Selection(KLINES, "spot", interval)))
        yield home


@pytest.fixture
def lake(home: Path) -> Lake:
    return lh.connect(home)


def test_bars_come_with_a_column_per_output_that_talib_would_give(lake: Lake) -> None:
    found = lake.indicators("BTCUSDT", "1m", NAMES, "2024-06-30", "2024-07-02").collect()
    bars = lake.klines("BTCUSDT", "1m", "2024-06-30", "2024-07-02").collect()
    assert found.columns == [*bars.columns, *OUTPUTS]
    assert_frame_equal(found.select(bars.columns), bars)
    for name in NAMES:
        for column, expected in zip(
            parse_names(name)[0].outputs, reference(name, bars), strict=True
        ):
            assert found[column].null_count() == np.isnan(expected).sum()
            assert difference(found[column].to_numpy(), expected) < 1e-9


def test_values_after_a_hole_in_the_lake_know_nothing_of_those_before(lake: Lake) -> None:
    found = lake.indicators("ETHUSDT", "1m", NAMES).collect()
    before = found.filter(pl.col("open_time") < HOLE)
    after = found.filter(pl.col("open_time") >= HOLE)
    assert after["open_time"][0] == HOLE + timedelta(days=1)
    alone = lake.indicators("ETHUSDT", "1m", NAMES, HOLE).collect()
    assert_frame_equal(after, alone)
    assert before["sma_20"].null_count() == after["sma_20"].null_count() == 19


def test_a_warmup_computes_on_earlier_bars_and_leaves_them_away(lake: Lake) -> None:
    start = datetime(2024, 7, 1, 12, tzinfo=UTC)
    found = lake.indicators("BTCUSDT", "1m", NAMES, start, "2024-07-02", warmup=300).collect()
    earlier = lake.klines("BTCUSDT", "1m", start - timedelta(minutes=300), "2024-07-02").collect()
    expected, _ = compute(earlier, NAMES, "1m")
    assert_frame_equal(found, expected[300:])
    assert found["open_time"][0] == start
    assert sum(found.select(OUTPUTS).null_count().row(0)) == 0
    cold = lake.indicators("BTCUSDT", "1m", "sma_20", start, "2024-07-02").collect()
    assert cold["sma_20"].null_count() == 19


def test_a_warmup_reaches_neither_across_a_gap_nor_before_the_first_bar(lake: Lake) -> None:
    day = lake.indicators("ETHUSDT", "1m", "sma_20", "2024-07-03", warmup=2_000).collect()
    assert day["sma_20"].null_count() == 19
    first = lake.indicators("ETHUSDT", "1h", "sma_20", "2024-06-29T03:00", warmup=50).collect()
    assert first["sma_20"].null_count() == 16


def test_a_warmup_of_calendar_months_counts_months() -> None:
    def us(year: int, month: int, day: int) -> int:
        return int(datetime(year, month, day, tzinfo=UTC).timestamp()) * 1_000_000

    assert query_module.earlier(us(2024, 3, 1), "1mo", 2) == us(2024, 1, 1)
    assert query_module.earlier(us(2024, 3, 15), "1mo", 2) == us(2024, 2, 1)
    assert query_module.earlier(us(2024, 3, 1), "1mo", 0) == us(2024, 3, 1)
    assert query_module.earlier(us(2024, 3, 1), "1w", 2) == us(2024, 2, 16)
    assert query_module.earlier(us(2024, 3, 1), "1mo", 9_999) == 0
    assert query_module.earlier(us(2024, 3, 1), "1d", 99_999) == 0


def test_batches_do_not_show(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = lake.indicators("ETHUSDT", "1m", NAMES, "2024-06-30", warmup=100)
    whole = lazy.collect()
    monkeypatch.setattr(query_module, "BATCH_ROWS", 777)
    small = lazy.collect()
    for column in OUTPUTS:
        assert difference(small[column].to_numpy(), whole[column].to_numpy()) < 1e-12
    assert_frame_equal(small, whole, rel_tol=1e-12)


def test_lazy_reads_push_down_and_change_nothing(lake: Lake) -> None:
    lazy = lake.indicators("BTCUSDT", "1m", NAMES, "2024-06-30", "2024-07-02")
    eager = lazy.collect()
    assert lazy.collect_schema() == eager.schema
    strong = pl.col("rsi_14") > 60
    assert_frame_equal(
        lazy.filter(strong).select("open_time", "macd_signal_12_26_9").head(7).collect(),
        eager.filter(strong).select("open_time", "macd_signal_12_26_9").head(7),
    )
    late = pl.col("open_time") >= datetime(2024, 7, 1, tzinfo=UTC)
    assert_frame_equal(
        lazy.filter(late).select("sma_20").collect(), eager.filter(late).select("sma_20")
    )
    assert_frame_equal(lazy.select("close", "trades").collect(), eager.select("close", "trades"))
    assert_frame_equal(lazy.tail(3).collect(), eager.tail(3))
    assert lazy.select(pl.len()).collect().item() == eager.height


def test_nothing_stored_gives_an_empty_frame_with_all_columns(lake: Lake) -> None:
    nothing = lake.indicators("NONEUSDT", "1m", NAMES).collect()
    assert nothing.height == 0
    assert nothing.columns[-len(OUTPUTS) :] == OUTPUTS


def test_an_indicator_as_of_an_earlier_time_is_that_of_the_bars_of_then(lake: Lake) -> None:
    before = datetime(2020, 1, 1, tzinfo=UTC)
    assert lake.indicators("BTCUSDT", "1m", "sma_20", as_of=before).collect().is_empty()
    now = datetime.now(UTC)
    then = lake.indicators("BTCUSDT", "1m", "sma_20", as_of=now).collect()
    assert_frame_equal(then, lake.indicators("BTCUSDT", "1m", "sma_20").collect())


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ("smaa_20", {}, "unknown indicator"),
        ("macd_26_12_9", {}, "fast must be smaller"),
        ([], {}, "no indicator"),
        ("sma_20", {"warmup": 10}, "warmup needs a start"),
        ("sma_20", {"start": "2024-07", "warmup": -1}, "cannot be -1"),
        ("sma_20", {"start": "2024-07", "end": "2024-06", "warmup": 90_000}, "start before"),
        ("sma_20", {"market": "moon"}, "unknown market"),
    ],
)
def test_a_wrong_question_is_refused_before_anything_is_read(
    lake: Lake, names: str | list[str], options: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidError, match=message):
        lake.indicators("BTCUSDT", "1m", names, **options)  # type: ignore[arg-type]


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAKEHOUSE_HOME", str(home))
    return tmp_path


ASKED = ("get", "ETHUSDT", "--interval", "1m", "--start", "2024-07-01T20:00", "--end",
         "2024-07-03T02:00", "--indicators", "sma_20, macd", "--warmup", "100")  # fmt: skip


def asked(capture: Capture, *arguments: str) -> tuple[int, bytes, str]:
    capture.readouterr()
    code = dispatch(list(arguments))
    out, err = capture.readouterr()
    return code, out, err.decode()


def test_the_command_writes_every_format(here: Path, lake: Lake, capfdbinary: Capture) -> None:
    wanted = lake.indicators(
        "ETHUSDT", "1m", ["sma_20", "macd"], "2024-07-01T20:00", "2024-07-03T02:00", warmup=100
    ).collect()
    assert wanted.height == 4 * 60 + 2 * 60
    assert wanted["sma_20"].null_count() == 19

    def output(form: str) -> bytes:
        code, out, err = asked(capfdbinary, *ASKED, "--output", form)
        assert code == 0, err
        return out

    def parsed(frame: pl.DataFrame) -> pl.DataFrame:
        times = pl.col("open_time", "close_time").str.to_datetime("%+", time_zone="UTC")
        # No row is marked, so text says nothing of the type.
        return frame.with_columns(times.dt.cast_time_unit("us"), pl.col("flags").cast(pl.String))

    assert_frame_equal(pl.read_parquet(io.BytesIO(output("parquet"))), wanted)
    arrow = pl.from_arrow(pa.ipc.open_stream(output("arrow")).read_all())
    assert isinstance(arrow, pl.DataFrame)
    assert_frame_equal(arrow, wanted)
    assert_frame_equal(
        parsed(pl.read_csv(io.BytesIO(output("csv")), infer_schema_length=None)), wanted
    )
    ndjson = pl.read_ndjson(io.BytesIO(output("ndjson")), infer_schema_length=None)
    assert_frame_equal(parsed(ndjson), wanted)
    document = json.loads(output("json"))
    assert [column["name"] for column in document["columns"]] == wanted.columns
    assert document["columns"][-1] == {"name": "macd_hist_12_26_9", "type": "DOUBLE"}
    rows = pl.DataFrame(document["rows"], infer_schema_length=None)
    assert_frame_equal(parsed(rows), wanted)
    assert len(output("table").decode().splitlines()) == wanted.height + 2


def test_a_file_has_the_columns_types_of_bars_alone(here: Path, capfdbinary: Capture) -> None:
    plain, more = here / "bars.parquet", here / "more.parquet"
    question = ("get", "BTCUSDT", "--interval", "1h")
    assert asked(capfdbinary, *question, "--out", str(plain))[0] == 0
    assert asked(capfdbinary, *question, "--indicators", "rsi", "--out", str(more))[0] == 0
    schema = pq.read_schema(more)
    assert schema.names[-1] == "rsi_14"
    assert schema.remove(len(schema) - 1).equals(pq.read_schema(plain))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--indicators", "smaa_20"), "did you mean"),
        (("--indicators", "sma_0"), "1 to 100,000"),
        (("--indicators", "sma_20", "--warmup", "5"), "warmup needs a start"),
        (("--warmup", "5"), "--warmup is for indicators"),
        (("--indicators", "sma_20", "--dataset", "aggTrades"), "indicators are of klines"),
        (("--indicators", "sma_20", "--start", "2025"), "in this range"),
    ],
)
def test_the_command_says_what_is_wrong_and_writes_nothing(
    here: Path, capfdbinary: Capture, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = asked(capfdbinary, "get", "BTCUSDT", "--interval", "1m", *arguments)
    assert code not in (0, 1)
    assert out == b""
    assert said in err.replace("\n", " ")


def test_the_command_names_the_symbol_it_may_have_meant(here: Path, capfdbinary: Capture) -> None:
    code, out, err = asked(
        capfdbinary, "get", "BTCUSDC", "--interval", "1m", "--indicators", "sma_20"
    )
    assert (code, out) == (4, b"")
    assert "did you mean BTCUSDT" in err.replace("\n", " ")


def test_the_command_without_an_interval_says_so(here: Path, capfdbinary: Capture) -> None:
    code, _, err = asked(capfdbinary, "get", "BTCUSDT", "--indicators", "sma_20")
    assert code == 2
    assert "needs an interval" in err
