"""`lakehouse exchange`: the replica exchange in the foreground, until it is told to stop."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.testing.exchange import Archive, Faults, FolderArchive, ReplicaExchange


def exchange(
    root: Annotated[
        Path | None,
        typer.Option(help="Serve this folder, laid out as data.binance.vision (it holds 'data')."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    host: Annotated[
        str, typer.Option(help="Address to listen at; only loopback keeps it to this machine.")
    ] = "127.0.0.1",
    faults: Annotated[
        Path | None, typer.Option(help="Defects to show: a .toml or .json file of rules.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say where on stdout, as JSON.")] = False,
) -> None:
    """Serve an archive as the exchange does: listings, zips, checksums, and defects on request."""
    if root is None:
        raise InvalidError("nothing to serve", "give --root DIR")
    archive: Archive = FolderArchive(root)
    rules = Faults.load(faults) if faults is not None else Faults()
    stopped = threading.Event()

    def stop(signum: int, frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    with ReplicaExchange(archive, rules, host, port) as server:
        if as_json:
            document = {"url": server.url, "archive": str(root)}
            typer.echo(json.dumps(document, ensure_ascii=False))
            sys.stdout.flush()
        typer.echo(f"serving {root} at {server.url}", err=True)
        stopped.wait()
