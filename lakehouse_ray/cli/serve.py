"""`lakehouse serve`: questions over HTTP, until it is told to stop."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from lakehouse_ray.cli import endings
from lakehouse_ray.cli.options import (
    AddressOption,
    DebugOption,
    HomeOption,
    JsonOption,
    QuietOption,
    settings_of,
)
from lakehouse_ray.cli.output import note_empty
from lakehouse_ray.errors import InvalidError


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen at. [default: 127.0.0.1, this machine alone]")
    ] = "",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="0: a free one. [default: 8080]")
    ] = None,
    no_ray: Annotated[
        bool, typer.Option("--no-ray", help="In this one process: starts at once, does not grow.")
    ] = False,
    print_config: Annotated[
        bool,
        typer.Option(
            "--print-config", help="Only print what `serve deploy` and a RayService take."
        ),
    ] = False,
    address: AddressOption = "",
    home: HomeOption = "",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Answer questions over HTTP: rows, indicators, gaps, coverage, quality, in five formats.

    Example: lakehouse serve --port 8080, and then
    curl 'http://127.0.0.1:8080/v1/klines?symbol=BTCUSDT&interval=1m&start=2024-01-05&end=2024-01-06'
    """
    # Loaded when they are needed: help and usage errors are quick.
    import yaml  # type: ignore[import-untyped]

    from lakehouse_ray.assembly.reader import Reader
    from lakehouse_ray.serve.configuration import serve_config
    from lakehouse_ray.serve.server import check_address, listening, run_here, url_of

    given: dict[str, Any] = {"host": host} if host else {}
    if port is not None:
        given["port"] = port
    if no_ray and address:
        raise InvalidError("--no-ray and --address exclude each other", "give one")
    settings = settings_of(home=home, address=address, serve=given)
    if print_config:
        document = serve_config(settings)
        typer.echo(json.dumps(document) if json_ else yaml.safe_dump(document, sort_keys=False))
        return endings.OK
    check_address(settings)
    if not quiet and not Reader(settings).exists:
        note_empty(settings.home)

    def ready(url: str, dashboard_url: str = "") -> None:
        if json_:
            typer.echo(json.dumps({"url": url, "dashboard_url": dashboard_url}))
        typer.echo(f"serving {settings.home} at {url}", err=True)
        if dashboard_url:
            typer.echo(f"Ray's dashboard: {dashboard_url}", err=True)

    port_found = settings.serve.port
    if no_ray or not settings.ray.address or port_found == 0:
        with listening(settings.serve.host, settings.serve.port) as found:
            url = url_of(found)
            port_found = urlsplit(url).port or port_found
            if no_ray:
                ready(url)
                run_here(settings, found)
                return endings.OK
    from lakehouse_ray.serve.deploy import run_on_ray

    # The proxy opens the port by itself; it was free a moment ago. On a cluster it may be open
    # already, by the Ray Serve that runs there.
    run_on_ray(settings, port_found, ready)
    return endings.OK
