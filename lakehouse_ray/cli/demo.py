"""`lakehouse demo`: the whole way, offline, in a folder that is thrown away."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.cli import endings
from lakehouse_ray.cli.options import DebugOption, JsonOption, settings_of
from lakehouse_ray.cli.table import aligned
from lakehouse_ray.model.datasets.registry import find_dataset
from lakehouse_ray.model.timespan import format_time
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.pipeline.report import IngestReport
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import Faults, ReplicaExchange, Rule, SyntheticArchive

_SYMBOLS = ("BTCUSDT", "ETHUSDT", "币安人生USDT")
_START, _END = date(2024, 5, 1), date(2024, 6, 16)
_CORRUPT = "*/ETHUSDT-1m-2024-06-03.zip"
_BAD_ROWS = "*/BTCUSDT-1m-2024-06-07.zip"
_REPUBLISHED = "*/BTCUSDT-1m-2024-06-05.zip"
_DAY = ("2024-06-05", "2024-06-06")

_ANSWER = """
select symbol, strftime(time_bucket(interval '1 month', open_time), '%Y-%m') as month,
  count(*) as minutes, round(arg_min(open, open_time), 2) as open, round(max(high), 2) as high,
  round(min(low), 2) as low, round(arg_max(close, open_time), 2) as close,
  round(sum(quote_volume) / sum(volume), 2) as vwap
from silver.klines where market = 'spot' and interval = '1m' group by all order by symbol, month
"""
_REFUSED = """
select reason, regexp_extract(source_key, '[^/]+$') as file, line, detail
from silver.quarantine order by file, line
"""
_DAY_SQL = f"""
select count(*) as minutes, round(sum(volume), 3) as volume, round(max(high), 2) as high,
  any_value(source_version) as version
from silver.klines where symbol = 'BTCUSDT' and interval = '1m'
  and open_time >= '{_DAY[0]}' and open_time < '{_DAY[1]}'
"""
_VERSIONS = """
select version, size, strftime(first_seen, '%H:%M:%S') as first_seen, current
from bronze.objects where key like '%BTCUSDT-1m-2024-06-05.zip' order by version
"""


@dataclass
class _Story:
    """What is told: at once for people, at the end for machines."""

    as_json: bool
    document: dict[str, Any] = field(default_factory=lambda: {"v": 1})

    def say(self, *lines: str) -> None:
        if not self.as_json:
            typer.echo("\n".join(lines))

    def table(self, name: str, lake: Lake, query: str, as_of: str | None = None) -> list[Any]:
        with lake.sql(query, as_of=as_of) as result:
            columns, rows = result.columns, [list(row.values()) for row in result.rows()]
        self.document[name] = {"columns": columns, "rows": rows}
        self.say(*(f"   {line}" for line in aligned(columns, rows)))
        return rows

    def report(self, name: str, report: IngestReport) -> None:
        self.document[name] = report.as_dict()
        where = "in this process" if report.executor == "local" else f"{report.actors} Ray workers"
        self.say(
            f"   {report.files} files in, {report.rows:,} new rows, {report.rows_replaced:,} "
            f"replaced, {report.skipped} skipped; {report.quarantined} files and "
            f"{report.rows_quarantined} rows refused",
            f"   {report.csv_bytes / 1e6:.1f} MB of CSV in {report.work_seconds:.1f} s ({where})",
        )


def demo(
    keep: Annotated[
        str, typer.Option(help="Keep the lake in this folder, to ask it more questions.")
    ] = "",
    local: Annotated[bool, typer.Option("--local", help="Without Ray, in this process.")] = False,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Start a replica exchange with a synthetic market, bring its archive to bronze and silver on
    a local Ray, show what was refused and why, what a re-published file changed, and an answer.

    Needs no network, no settings and no arguments.
    """
    story = _Story(json_)
    started_s = time.monotonic()
    with _home(keep) as home, _exchange() as exchange:
        story.say(
            f"1. A replica exchange at {exchange.url}: {', '.join(_SYMBOLS)}, 1m bars from {_START}",
            f"   to {_END} as monthly and daily zips. One is corrupt, one holds a damaged row, one lacks",
            "   the end of its day.",
        )
        settings = settings_of(
            home=str(home),
            binance={"archive_url": exchange.url},
            compute={"local_bytes_max": 1 << 40 if local else 0},
        )
        writer, lake = Writer(settings), Reader(settings).lake
        request = IngestRequest(Selection(find_dataset("klines"), "spot", "1m"))
        story.say("", "2. lakehouse ingest --market spot --dataset klines --interval 1m")
        story.report("first", ingest(writer, request))
        story.say("   What was refused, and why (silver.quarantine):")
        story.table("refused", lake, _REFUSED)
        before = format_time(writer.clock.now_us())
        writer.clock.sleep(0.01)

        story.say(
            "", "3. A day that was published with a hole is published again; the same command again"
        )
        again = settings.model_copy(
            update={"compute": settings.compute.model_copy(update={"local_bytes_max": 1 << 40})}
        )
        story.report("second", ingest(Writer(again), request))
        story.say("   The day as it is now, and as it was before (time travel):")
        story.table("day_now", lake, _DAY_SQL)
        story.table("day_before", lake, _DAY_SQL, as_of=before)
        story.say("   Bronze keeps both versions, byte for byte (bronze.objects):")
        story.table("versions", lake, _VERSIONS)

        story.say("", "4. An answer from the tables: month bars and VWAP of every symbol")
        story.table("answer", lake, _ANSWER)
        seconds = time.monotonic() - started_s
        story.document["seconds"] = round(seconds, 1)
        story.say("", f"Done in {seconds:.1f} s. Next: lakehouse ingest --help")
        if keep:
            story.say(f'LAKEHOUSE_HOME={home} lakehouse sql "select * from silver.klines"')
    if json_:
        typer.echo(json.dumps(story.document, default=str))
    return endings.OK


@contextmanager
def _home(keep: str) -> Iterator[Path]:
    if keep:
        yield Path(keep)
        return
    with tempfile.TemporaryDirectory(prefix="lakehouse-demo-") as folder:
        yield Path(folder)


def _exchange() -> ReplicaExchange:
    archive = SyntheticArchive(
        seed=2024, symbols=_SYMBOLS, markets=("spot",), start=_START, end=_END
    )
    return ReplicaExchange(
        archive,
        Faults(
            (
                Rule(_CORRUPT, "corrupt_zip"),
                Rule(_BAD_ROWS, "untyped_cell"),
                # Once it was fetched it is published again, with all rows.
                Rule(_REPUBLISHED, "republished", params={"first": "missing_rows", "after": 1}),
            )
        ),
    )
