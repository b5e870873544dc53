"""`lakehouse exchange`: the replica exchange in the foreground, until it is told to stop."""

from __future__ import annotations

import json
import signal
import threading
from datetime import date
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.timespan import format_time, parse_time
from lakehouse_ray.testing.exchange import (
    Archive,
    Faults,
    FolderArchive,
    RateLimits,
    Recording,
    ReplayClock,
    ReplicaExchange,
    RestAnswers,
    SyntheticArchive,
    made_of,
    recorded,
)
from lakehouse_ray.testing.exchange.synthetic import DEFAULT_END, DEFAULT_START
from lakehouse_ray.testing.exchange.universe import MARKETS

_MARKETS = ",".join(MARKETS)
_BEFORE_US = 1_000_000
_START, _END = DEFAULT_START.isoformat(), DEFAULT_END.isoformat()


def exchange(
    root: Annotated[
        Path | None,
        typer.Option(help="Serve this folder, laid out as data.binance.vision (it holds 'data')."),
    ] = None,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Serve a deterministic market made on the fly.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    host: Annotated[
        str, typer.Option(help="Address to listen at; only loopback keeps it to this machine.")
    ] = "127.0.0.1",
    faults: Annotated[
        Path | None, typer.Option(help="Defects to show: a .toml or .json file of rules.")
    ] = None,
    rest: Annotated[
        Path | None,
        typer.Option(help="Answer exchangeInfo of REST from this recording, or folder of some."),
    ] = None,
    rest_root: Annotated[
        Path | None,
        typer.Option(
            help="Let REST tell what this folder has, while the bucket serves --root: days that the "
            "bucket lacks are days that REST fills."
        ),
    ] = None,
    ban_s: Annotated[
        float, typer.Option(min=0, help="How long the first ban lasts, in seconds.")
    ] = RateLimits.ban_s,
    recorded_streams: Annotated[
        list[Path] | None,
        typer.Option(
            "--recorded",
            help="Play this recording of websocket frames, or folder of some; may be given again.",
        ),
    ] = None,
    at: Annotated[
        str,
        typer.Option(
            help="What time it is there when it starts, such as 2024-05-01T12:00. Without it, that "
            "of the first recorded frame, else now."
        ),
    ] = "",
    speed: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds of the exchange in one of ours; 0: its clock stands still until told.",
        ),
    ] = 1.0,
    symbols: Annotated[
        str,
        typer.Option(help="Synthetic: A,B,C, or how many per market; one of each kind if empty."),
    ] = "",
    markets: Annotated[str, typer.Option(help="Synthetic: which markets.")] = _MARKETS,
    start: Annotated[str, typer.Option(help="Synthetic: first day (or month).")] = _START,
    end: Annotated[str, typer.Option(help="Synthetic: the day after the last one.")] = _END,
    rest_end: Annotated[
        str,
        typer.Option(
            help="Synthetic: up to which day REST and websockets know the market, where the bucket "
            "ends before."
        ),
    ] = "",
    seed: Annotated[int, typer.Option(help="Synthetic: another seed, another market.")] = 0,
    trades_per_minute: Annotated[
        int, typer.Option(min=1, help="Synthetic: at most this many, per symbol.")
    ] = 4,
    as_json: Annotated[
        bool, typer.Option("--json", help="Say on stdout, as one JSON document, where it answers.")
    ] = False,
) -> None:
    """Serve an archive as the exchange does: listings, zips, checksums, REST, websockets, and defects
    on request.

    Examples: lakehouse exchange --synthetic --symbols BTCUSDT --at 2024-05-01T12:00 --speed 60

    lakehouse exchange --root DIR --recorded frames.gz --speed 0
    """
    if (root is None) != synthetic:
        raise InvalidError("there must be one archive to serve", "give --root DIR or --synthetic")
    rules = Faults.load(faults) if faults is not None else Faults()
    archive: Archive
    told: Archive | None = FolderArchive(rest_root) if rest_root is not None else None
    answered = recorded(rest) if rest is not None else RestAnswers()
    if root is not None:
        archive, what = FolderArchive(root), str(root)
    else:
        archive = SyntheticArchive(
            seed,
            _symbols(symbols),
            _listed(markets),
            _day("--start", start),
            _day("--end", end),
            trades_per_minute=trades_per_minute,
        )
        what = f"a synthetic market of {len(archive.instruments)} symbols"
        last = _day("--rest-end", rest_end) if rest_end else _day("--end", end)
        if rest_end:
            told = archive.until(last)
        if rest is None:
            answered = made_of(archive.instruments, last)
    recording = Recording(recorded_streams) if recorded_streams else None
    clock = ReplayClock(_first_moment(at, recording), speed)
    stopped = threading.Event()

    def stop(signum: int, frame: FrameType | None) -> None:
        stopped.set()

    # Before the server starts, so that who reads its address can stop it at once.
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    served = ReplicaExchange(
        archive, rules, host, port, rest=answered, limits=RateLimits(ban_s=ban_s),
        rest_archive=told, recording=recording, clock=clock,
    )  # fmt: skip
    with served as server:
        if as_json:
            typer.echo(json.dumps({"url": server.url, "serving": what}, ensure_ascii=False))
        typer.echo(f"serving {what} at {server.url}", err=True)
        if at or recording is not None or speed != 1:
            moment = format_time(clock.now_us())
            typer.echo(f"it is {moment} there, at {speed:g} times our speed", err=True)
        stopped.wait()


def _first_moment(at: str, recording: Recording | None) -> int | None:
    if at:
        return parse_time(at)
    # A little before, so that who connects at once misses nothing at a moderate speed.
    return None if recording is None else recording.span_us[0] - _BEFORE_US


def _symbols(text: str) -> list[str] | int | None:
    if text.isascii() and text.isdigit():
        return int(text)
    return _listed(text) or None


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _day(option: str, text: str) -> date:
    try:
        return date.fromisoformat(f"{text}-01" if len(text) == len("2024-01") else text)
    except ValueError as error:
        raise InvalidError(f"{option} is {text!r}: give a day such as 2024-01-05") from error
