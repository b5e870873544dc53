"""`lakehouse ingest --dataset instruments`: exchangeInfo and the archive's symbols."""

from __future__ import annotations

import json

import typer

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.cli import endings
from lakehouse_ray.model.venue import parse_market
from lakehouse_ray.pipeline.instruments import exchange_info_address, ingest_instruments


def instruments(writer: Writer, market: str, *, dry_run: bool, as_json: bool) -> int:
    """Ingest what the exchange says of the symbols of a market; returns the exit code."""
    chosen = parse_market(market)
    if dry_run:
        urls = [exchange_info_address(writer, chosen), writer.settings.binance.listing_url]
        document = {"market": chosen, "dataset": "instruments", "files": 1, "urls": urls}
        shown = json.dumps(document) if as_json else "would ask\n  " + "\n  ".join(urls)
        typer.echo(shown)
        return endings.OK
    report = ingest_instruments(writer, chosen)
    if as_json:
        typer.echo(json.dumps(report.as_dict()))
    else:
        what = "a new answer" if report.files else "the answer says what the last one said"
        lines = [
            f"{chosen} instruments: {what}, {report.rows:,} changes of symbols and listings",
            f"  transferred  {report.bytes / 1e6:,.1f} MB in {report.seconds:.1f} s",
        ]
        if report.partial:
            lines.append(
                f"  refused      {report.quarantined:,} answers, {report.rows_quarantined:,} records"
            )
            lines += [f"    {e['reason']}: {e['detail']}" for e in report.examples[:5]]
            lines.append('  ask why: lakehouse sql "select * from silver.quarantine"')
        typer.echo("\n".join(lines))
    return endings.PARTIAL if report.partial else endings.OK
