"""`lakehouse stream`: the exchange's websocket into bronze and silver, until it is told to stop."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated

import typer

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.cli import endings
from lakehouse_ray.cli.options import (
    AddressOption,
    DebugOption,
    HomeOption,
    JsonOption,
    QuietOption,
    duration_s,
    settings_of,
)
from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.venue import parse_market
from lakehouse_ray.pipeline.stream_capture import CaptureReport, CaptureRequest, capture_streams
from lakehouse_ray.sources.binance.streams.names import Stream, parse_stream

_PROGRESS_S = 1.0


def stream(
    market: Annotated[str, typer.Option(help="spot, um (USD-M) or cm (COIN-M).")],
    symbols: Annotated[str, typer.Option(help="By commas: BTCUSDT,ETHUSDT.")],
    streams: Annotated[
        str,
        typer.Option(
            help="What of each symbol, by commas, as the exchange spells it: kline_1m, aggTrade, "
            "trade, bookTicker, markPrice@1s, forceOrder, depth@100ms."
        ),
    ] = "kline_1m,aggTrade",
    duration: Annotated[
        str, typer.Option(help="Such as 90s, 10m, 24h. Default: until it is told to stop.")
    ] = "",
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: as in the settings.")] = 0,
    address: AddressOption = "",
    home: HomeOption = "",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Capture live rows. Raw frames wait on this machine's disk until their rows are committed.

    Ends by SIGTERM, Ctrl-C or --duration, after it has committed what came.

    Example: lakehouse stream --market um --symbols BTCUSDT,ETHUSDT --streams kline_1m,aggTrade
    """
    section = {"workers": workers} if workers else {}
    writer = Writer(settings_of(home=home, address=address, stream=section))
    request = CaptureRequest(
        parse_market(market), tuple(_streams(market, symbols, streams)), duration_s(duration)
    )
    told = _Progress(enabled=not (json_ or quiet))
    try:
        report = capture_streams(writer, request, told)
    except (SystemExit, KeyboardInterrupt):
        # The usual end: what came is committed, and said.
        if told.report is not None:
            told.end()
            _print(told.report, as_json=json_)
        raise
    told.end()
    _print(report, as_json=json_)
    return endings.OK


def _print(report: CaptureReport, *, as_json: bool) -> None:
    text = json.dumps(report.as_dict()) if as_json else "\n".join(_lines(report))
    print(text, file=sys.stdout, flush=True)  # noqa: T201


def _streams(market: str, symbols: str, kinds: str) -> list[Stream]:
    chosen = parse_market(market)
    names = [name.strip() for name in symbols.split(",") if name.strip()]
    whats = [kind.strip() for kind in kinds.split(",") if kind.strip()]
    if not names or not whats:
        raise InvalidError("no streams are given", "name --symbols and --streams")
    return [
        parse_stream(f"{symbol.lower()}@{what}", chosen)
        for symbol in dict.fromkeys(names)
        for what in dict.fromkeys(whats)
    ]


class _Progress:
    """One line on stderr, rewritten once a second."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled and sys.stderr.isatty()
        self._shown_s = 0.0
        self.report: CaptureReport | None = None

    def __call__(self, report: CaptureReport) -> None:
        self.report = report
        now_s = time.monotonic()
        if not self._enabled or now_s - self._shown_s < _PROGRESS_S:
            return
        self._shown_s = now_s
        status = report.status
        rows = sum(status.tally.rows.values())
        line = (
            f"{report.seconds:,.0f} s  {status.connections}/{status.groups} connections  "
            f"{status.frames:,} frames  {rows:,} rows  {status.tally.gaps:,} gaps  "
            f"{status.pending_bytes / 1e6:.1f} MB waiting"
        )
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)  # noqa: T201

    def end(self) -> None:
        if self._enabled and self.report is not None:
            print(file=sys.stderr)  # noqa: T201


def _lines(report: CaptureReport) -> list[str]:
    status, tally = report.status, report.status.tally
    rows = ", ".join(f"{count:,} {name}" for name, count in sorted(tally.rows.items())) or "none"
    lines = [
        f"{report.market}: {tally.frames:,} frames of {report.streams:,} streams in "
        f"{report.seconds:.1f} s",
        f"  rows         {rows}",
        f"  gaps         {tally.gaps:,}, in which {tally.missing:,} numbers or bars are missing",
        f"  filled       {report.gaps_ended['filled']:,} gaps by {report.rows_filled:,} rows of REST; "
        f"{report.gaps_ended['absent']:,} that it has not either, {report.gaps_open:,} open",
        f"  dropped      {tally.duplicates:,} that came twice",
        f"  connections  {status.opened:,} opened, {status.failed:,} failed; "
        f"{report.replaced:,} workers replaced",
    ]
    if tally.refused:
        lines.append(f"  refused      {tally.refused:,} frames; `lakehouse sql` says why:")
        lines.append('    lakehouse sql "select * from silver.quarantine"')
    if tally.set_aside:
        lines.append(
            f"  SET ASIDE    {tally.set_aside:,} segments, of which no rows could be made; "
            "docs/stream.md says what becomes of them"
        )
    if status.lost:
        lines.append(f"  LOST         {status.lost:,} frames, because the spool had no room")
    return lines
