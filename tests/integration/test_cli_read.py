"""The reading commands as people and scripts call them: what is on stdout, and how they end."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal
from support.forked import completed, popen

import lakehouse_ray as lh
from lakehouse_ray.cli.app import COMMANDS, dispatch
from lakehouse_ray.testing.exchange import Faults, ReplicaExchange, Rule, SyntheticArchive

pytestmark = pytest.mark.integration

START, END = date(2024, 6, 29), date(2024, 7, 3)
QUERY = (
    "select symbol, open_time, open, close, volume, trades, close_time from silver.klines "
    "where interval = '1h' order by symbol, open_time"
)
Capture = pytest.CaptureFixture[bytes]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    archive = SyntheticArchive(
        4, ["BTCUSDT", "ETHUSDT"], ("spot",), START, END, trades_per_minute=1
    )
    faults = Faults((Rule("*/ETHUSDT-1h-2024-07-02.zip", "corrupt_zip"),))
    with ReplicaExchange(archive, faults) as exchange:
        yield exchange.url


@pytest.fixture(scope="module")
def home(url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake made by the command itself; one file of it is refused."""
    home = tmp_path_factory.mktemp("cli") / "home"
    ended = lakehouse(home, "ingest", "--market", "spot", "--dataset", "klines", "--interval",
                      "1h", "--json", url=url)  # fmt: skip
    assert ended.returncode == 3
    assert json.loads(ended.stdout)["quarantined"] == 1
    return home


def environment(home: Path, url: str = "") -> dict[str, str]:
    own = {"LAKEHOUSE_HOME": str(home)} | ({"LAKEHOUSE_BINANCE__ARCHIVE_URL": url} if url else {})
    return {k: v for k, v in os.environ.items() if not k.startswith("LAKEHOUSE_")} | own


def lakehouse(
    home: Path, *arguments: str, url: str = "", text: str = ""
) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own."""
    return completed(*arguments, env=environment(home, url), input=text.encode())


@pytest.fixture
def here(home: Path, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Commands run in this process, in a folder without settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAKEHOUSE_HOME", str(home))
    monkeypatch.setenv("LAKEHOUSE_BINANCE__ARCHIVE_URL", url)
    return home


def run(
    capture: Capture, monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, bytes, str]:
    monkeypatch.setattr(sys, "argv", ["lakehouse", *arguments])
    capture.readouterr()
    code = dispatch(list(arguments))
    out, err = capture.readouterr()
    return code, out, err.decode()


def expected(home: Path) -> pl.DataFrame:
    return lh.connect(home).sql(QUERY).pl()


def parsed(frame: pl.DataFrame) -> pl.DataFrame:
    """Times from their texts."""
    times = pl.col("open_time", "close_time").str.to_datetime("%+", time_zone="UTC")
    return frame.with_columns(times.dt.cast_time_unit("us"))


def test_every_format_reads_back_as_the_same_rows(
    here: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def output(form: str) -> bytes:
        code, out, _ = run(capfdbinary, monkeypatch, "sql", QUERY, "--output", form)
        assert code == 0
        return out

    wanted = expected(here)
    assert wanted.height == 96 * 2 - 24
    assert_frame_equal(parsed(pl.read_ndjson(io.BytesIO(output("ndjson")))), wanted)
    assert_frame_equal(parsed(pl.read_csv(io.BytesIO(output("csv")))), wanted)
    assert_frame_equal(pl.read_parquet(io.BytesIO(output("parquet"))), wanted)
    arrow = pl.from_arrow(pa.ipc.open_stream(output("arrow")).read_all())
    assert isinstance(arrow, pl.DataFrame)
    assert_frame_equal(arrow, wanted)
    document = json.loads(output("json"))
    assert document["v"] == 1
    assert [column["name"] for column in document["columns"]] == wanted.columns
    assert_frame_equal(parsed(pl.DataFrame(document["rows"])), wanted)
    assert len(output("table").decode().splitlines()) == wanted.height + 2


def test_a_file_appears_when_it_is_complete(
    here: Path, tmp_path: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bars.parquet"
    assert run(capfdbinary, monkeypatch, "sql", QUERY, "--out", str(out)) == (0, b"", "")
    assert pq.read_metadata(out).num_rows == expected(here).height
    broken = "select case when i = 900000 then 'x'::int else 1 end from range(1000000) t(i)"
    code, _, err = run(capfdbinary, monkeypatch, "sql", broken, "--out", str(tmp_path / "b.csv"))
    assert code == 2
    assert "Could not convert" in err
    assert [path.name for path in tmp_path.iterdir()] == ["bars.parquet"]


def test_binary_rows_do_not_go_to_a_terminal(
    here: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, out, err = run(capfdbinary, monkeypatch, "sql", "select 1", "-o", "parquet")
    assert (code, out) == (2, b"")
    assert "terminal" in err


def test_a_terminal_gets_the_first_rows_and_the_number_of_the_others(
    here: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = "select i from range(250000) t(i)"
    _, out, err = run(capfdbinary, monkeypatch, "sql", query, "--rows", "3")
    assert len(out.splitlines()) == 5
    assert "249,997 more" in err
    # In a process of its own: what a Ray of earlier tests says is not the command's.
    quiet = lakehouse(here, "sql", query, "-q")
    assert len(quiet.stdout.splitlines()) == 250_002
    assert quiet.stderr == b""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("sql", "selec 1"), 2, "syntax error"),
        (("sql", "select * from silver.klins"), 2, "did you mean silver.klines"),
        (("sql", "select clos from silver.klines"), 2, "close"),
        (("sql",), 2, "Missing argument"),
        (("sql", "select 1", "--as-of", "soon"), 2, "not a time"),
        (("sql", "select 1 from silver.klines", "--as-of", "1234567"), 4, "snapshot 1234567"),
        (("sql", "select 1", "--json", "-o", "csv"), 2, "exclude each other"),
        (("get", "BTCUSDT"), 2, "needs an interval"),
        (("get", "BTCUSD", "--interval", "1h"), 4, "did you mean BTCUSDT"),
        (("get", "XYZ", "--interval", "1h"), 4, "stored are BTCUSDT, ETHUSDT"),
        (("get", "BTCUSDT", "--interval", "1m"), 4, "lakehouse ingest --market spot"),
        (("get", "BTCUSDT", "--interval", "1h", "--start", "2025"), 4, "2024-07-02T23:00:00Z"),
        (("get", "BTCUSDT", "--interval", "1h", "--market", "sopt"), 2, "spot, um, cm"),
        (("get", "BTCUSDT", "--dataset", "kline"), 2, "did you mean klines"),
        (("config", "shwo"), 2, "shwo"),
        (("gett",), 2, "did you mean get"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)  # fmt: skip
def test_mistakes_end_with_their_code_and_a_way_on(
    here: Path,
    capfdbinary: Capture,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    ended, out, err = run(capfdbinary, monkeypatch, *arguments)
    assert ended == code
    assert said in err
    assert "Traceback" not in err
    if "--json" not in arguments:
        assert out == b""
        ended, out, _ = run(capfdbinary, monkeypatch, *arguments, "--json")
        assert ended == code
        if arguments[0] in COMMANDS:
            assert json.loads(out)["error"]["code"] == code


def test_get_prints_a_half_open_range_in_order(
    here: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(
        capfdbinary, monkeypatch, "get", "BTCUSDT", "--interval", "1h", "--start",
        "2024-06-30T22:00", "--end", "2024-07-01T02:00", "-o", "ndjson",
    )  # fmt: skip
    assert code == 0
    times = [json.loads(line)["open_time"] for line in out.splitlines()]
    assert times == [
        "2024-06-30T22:00:00Z",
        "2024-06-30T23:00:00Z",
        "2024-07-01T00:00:00Z",
        "2024-07-01T01:00:00Z",
    ]


def test_an_empty_lake_answers_and_says_that_it_is_empty(tmp_path: Path) -> None:
    ended = lakehouse(
        tmp_path / "none",
        "sql",
        "-",
        "-o",
        "ndjson",
        text="select count(*) n from silver.agg_trades",
    )
    assert (ended.returncode, ended.stdout) == (0, b'{"n":0}\n')
    assert b"there is no lake" in ended.stderr
    assert not (tmp_path / "none").exists()


def test_a_reader_that_has_seen_enough_is_no_error(home: Path) -> None:
    command = Path(sys.executable).with_name("lakehouse")
    process = subprocess.Popen(
        [command, "sql", "from range(10000000)", "-o", "ndjson"],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b'{"range":0}\n'
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def test_datasets_counts_what_is_stored(
    here: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(capfdbinary, monkeypatch, "datasets", "--json")
    assert code == 0
    document = json.loads(out)
    by_name = {entry["dataset"]: entry for entry in document["datasets"]}
    (stored,) = by_name["klines"]["stored"]
    wanted = expected(here)
    assert (stored["market"], stored["interval"]) == ("spot", "1h")
    assert (stored["symbols"], stored["rows"]) == (2, wanted.height)
    assert (stored["first"], stored["last"]) == ("2024-06-29T00:00:00Z", "2024-07-02T23:00:00Z")
    assert by_name["trades"]["stored"] == []
    (table,) = [t for t in document["tables"] if t["table"] == "silver.klines_coarse"]
    assert table["snapshot_id"] in [snapshot["id"] for snapshot in table["latest"]]
    for form, read in (
        ("ndjson", pl.read_ndjson),
        ("csv", pl.read_csv),
        ("parquet", pl.read_parquet),
        ("arrow", pl.read_ipc_stream),
    ):
        code, out, _ = run(capfdbinary, monkeypatch, "datasets", "--output", form)
        assert code == 0
        assert read(out).select("dataset", "rows", "bytes").rows() == [
            ("klines", stored["rows"], stored["bytes"])
        ]
    code, out, _ = run(capfdbinary, monkeypatch, "datasets")
    assert ["klines", "spot", "1h", "2"] in [line.split()[:4] for line in out.decode().splitlines()]


def test_verify_ends_with_3_where_something_is_wrong(
    here: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(capfdbinary, monkeypatch, "verify", "--deep")
    assert (code, out.splitlines()[-1]) == (0, b"all is well")
    bronze = sorted((here / "data/bronze").rglob("*.zip"))[0]
    aside = bronze.with_suffix(".aside")
    bronze.rename(aside)
    try:
        code, out, _ = run(capfdbinary, monkeypatch, "verify", "--json")
    finally:
        aside.rename(bronze)
    assert code == 3
    document = json.loads(out)
    assert not document["ok"]
    (problem,) = [f for f in document["findings"] if f["severity"] == "problem"]
    assert problem["check"] == "object_missing"
    assert problem["examples"] == [str(bronze.relative_to(here / "data"))]
    assert problem["mend"]


def findings(out: bytes) -> dict[str, dict[str, Any]]:
    return {finding["check"]: finding for finding in json.loads(out)["findings"]}


def test_doctor_says_what_is_wrong_and_how_to_mend_it(
    here: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(capfdbinary, monkeypatch, "doctor", "--json")
    found = findings(out)
    assert code == 0, out
    assert found.keys() >= {
        "python", "libraries", "ray", "ray token", "ports", "shm", "open files", "memory", "home",
        "store", "catalog", "archive", "listing", "clock",
    }  # fmt: skip
    monkeypatch.setenv("LAKEHOUSE_BINANCE__ARCHIVE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("RAY_AUTH_MODE", "tokn")
    monkeypatch.setenv("LAKEHOUSE_STORAGE__ROOT", "/proc/nowhere")
    code, out, _ = run(capfdbinary, monkeypatch, "doctor", "--json")
    found = findings(out)
    assert code == 1
    for check in ("archive", "listing", "ray token", "store"):
        assert found[check]["status"] == "problem"
        assert found[check]["mend"]
    assert "clock" not in found
    code, out, _ = run(capfdbinary, monkeypatch, "doctor")
    assert b"-> check network" in out


def test_config_says_where_each_value_came_from_and_keeps_secrets(
    here: Path, tmp_path: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lakehouse.toml").write_text('[log]\nlevel = "info"\n')
    monkeypatch.setenv("LAKEHOUSE_STORAGE__S3__SECRET_ACCESS_KEY", "hushhush")
    monkeypatch.setenv("LAKEHOUSE_CATALOG__URI", "postgresql://me:hushhush@db/lake")
    code, out, _ = run(capfdbinary, monkeypatch, "config", "show", "--json")
    assert code == 0
    assert b"hushhush" not in out
    rows = {row["name"]: row for row in json.loads(out)["settings"]}
    assert rows["log.level"]["value"] == "info"
    assert rows["log.level"]["origin"] == "lakehouse.toml"
    assert rows["home"]["origin"] == "environment LAKEHOUSE_HOME"
    assert rows["ray.address"]["origin"] == "default"
    assert rows["catalog.uri"]["value"] == "postgresql://me:***@db/lake"
    _, out, _ = run(capfdbinary, monkeypatch, "config", "show", "--home", "/elsewhere")
    assert b"command line" in out
    assert b"hushhush" not in out


def test_help_loads_no_engine(home: Path) -> None:
    program = (
        "import sys\n"
        "from lakehouse_ray.cli.app import dispatch\n"
        "codes = [dispatch([name, '--help']) for name in {names}]\n"
        "heavy = {{'ray', 'polars', 'duckdb', 'pyarrow', 'pyiceberg'}} & sys.modules.keys()\n"
        "sys.exit(f'{{codes}} {{heavy}}' if any(codes) or heavy else 0)\n"
    ).format(names=["sql", "get", "datasets", "verify", "doctor", "config"])
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


def test_importing_the_package_loads_nothing() -> None:
    program = (
        "import sys\nimport lakehouse_ray as lh\n"
        "assert not {'polars', 'pydantic', 'duckdb'} & sys.modules.keys()\n"
        "assert set(lh.__all__) <= set(dir(lh))\n"
        "assert all(getattr(lh, name).__name__ == name for name in lh.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


COUNTS = "select count(*) from range(100000000000) a(i) where sin(i) > 2"
PRINTS = "from range(100000000000)"


@pytest.mark.parametrize(
    ("query", "number", "code"),
    [
        (COUNTS, signal.SIGINT, 130),
        (PRINTS, signal.SIGTERM, 143),
        pytest.param(COUNTS, signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(PRINTS, signal.SIGINT, 130, marks=pytest.mark.slow),
    ],
)
def test_a_statement_ends_when_it_is_told_to(
    home: Path, query: str, number: int, code: int
) -> None:
    command = Path(sys.executable).with_name("lakehouse")
    process = subprocess.Popen(
        [command, "sql", query, "-o", "ndjson"],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A test run in the background is born deaf to it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    if query.startswith("from"):
        assert process.stdout is not None
        process.stdout.readline()
    else:  # nothing tells when it has begun
        time.sleep(5)
    process.send_signal(number)
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code
    assert b"Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        # Typer prints, a table, a document, and rows as they come, with and without a file's end.
        ("--help",),
        ("gaps",),
        ("datasets", "--json"),
        ("sql", "select * from range(10000000)", "--output", "csv"),
        ("sql", "select * from range(10000000)", "--output", "parquet"),
        *(
            pytest.param(line, marks=pytest.mark.slow)
            for line in (
                ("gaps", "--help"),
                ("gaps", "--json"),
                ("coverage",),
                ("datasets",),
                ("config", "show"),
                ("doctor",),
                ("verify", "--json"),
                ("quality", "--json"),
                ("get", "BTCUSDT", "--market", "spot", "--interval", "1h", "--output", "ndjson"),
            )
        ),
    ],
    ids=" ".join,
)
def test_a_reader_that_leaves_ends_a_command_quietly(
    home: Path, arguments: tuple[str, ...]
) -> None:
    with popen(
        *arguments, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.close()
        said = command.stderr.read().decode()
        assert command.wait(60) == 0, said
    for word in ("Traceback", "Exception", "rror"):
        assert word not in said


def test_both_outputs_may_be_left(home: Path) -> None:
    pipe = (
        f"{Path(sys.executable).with_name('lakehouse')} sql 'select 1 from range(9000000)' -o csv"
    )
    done = subprocess.run(
        ["bash", "-c", f"{pipe} 2>&1 | head -1; echo ${{PIPESTATUS[0]}}"],
        env=environment(home), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == ["1", "0"]
    assert done.stderr == ""


def test_a_connection_that_breaks_is_no_reader_that_left(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("lakehouse_ray.cli.datasets.settings_of", broken)
    assert dispatch(["datasets"]) == 1
    assert "unexpected BrokenPipeError" in capfd.readouterr().err
