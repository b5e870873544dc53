"""What is new in an answer of exchangeInfo or in a listing, against what the logs know."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import polars as pl

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.model.instruments import (
    INSTRUMENT_STATES,
    INSTRUMENTS,
    LISTING_SIGHTINGS,
    STATE_COLUMNS,
    WHOLE_LISTING,
)
from lakehouse_ray.model.venue import Market
from lakehouse_ray.sources.source import BadRecord, ExchangeInfo
from lakehouse_ray.storage.ledger import plain_rows

# In place of a symbol that a record does not tell.
UNNAMED = "?"
# A listing of which nothing has changed is noted again after so long, as sightings of objects are.
LISTING_AGE_US = 24 * 3600 * 1_000_000
# What is read of `silver.instrument_states` to compare with.
KNOWN_STATES = ("symbol", "observed_at", "present", "digest")
KNOWN_SIGHTINGS = ("symbol", "present", "seen_at")


def latest_digests(known: pl.DataFrame, before_us: int) -> dict[str, str | None]:
    """The digest of each symbol's last state that was observed by then; None: it was absent.

    known: `KNOWN_STATES` of one market, times in microseconds.
    """
    latest = (
        known.filter(pl.col("observed_at") <= before_us)
        .sort("observed_at", maintain_order=True)
        .group_by("symbol", maintain_order=True)
        .last()
    )
    return {
        symbol: digest if present else None
        for symbol, present, digest in latest.select("symbol", "present", "digest").iter_rows()
    }


def new_states(
    market: Market,
    info: ExchangeInfo,
    known: Mapping[str, str | None],
    *,
    observed_us: int,
    source_key: str,
    source_version: str,
) -> pl.DataFrame:
    """Rows of `silver.instrument_states` for what an answer changes, absences among them.

    known: `latest_digests`.
    """
    rows: list[dict[str, object]] = []
    common = {
        "market": market,
        "observed_at": observed_us,
        "source": "rest",
        "source_key": source_key,
        "source_version": source_version,
    }
    for symbol, state in info.states.items():
        if symbol in known and known[symbol] == state.digest:
            continue
        record = state.record
        typed = {column.name: getattr(record, column.name) for column in STATE_COLUMNS}
        rows.append(
            {**common, "symbol": symbol, "present": True, "raw": state.raw,
             "digest": state.digest, **typed}
        )  # fmt: skip
    if not info.nameless:
        for symbol, digest in known.items():
            gone = symbol not in info.states and symbol not in info.doubtful
            if gone and digest is not None:
                rows.append({**common, "symbol": symbol, "present": False})
    return plain_rows(INSTRUMENT_STATES, rows)


def refused_records(
    market: Market,
    refused: Iterable[BadRecord],
    *,
    now_us: int,
    source_key: str,
    source_version: str,
    run_id: str,
) -> list[dict[str, object]]:
    """Rows of the quarantine log for records of an answer."""
    common = _refusal(market, source_key, source_version, run_id, now_us)
    return [
        {**common, "symbol": row.symbol or UNNAMED, "line": row.line, "reason": row.reason,
         "detail": row.detail[:1000], "raw": row.raw}
        for row in refused
    ]  # fmt: skip


def refused_answer(
    market: Market,
    error: BadDataError,
    *,
    now_us: int,
    source_key: str,
    source_version: str,
    run_id: str,
) -> dict[str, object]:
    """A row of the quarantine log for an answer that is none."""
    common = _refusal(market, source_key, source_version, run_id, now_us)
    return {**common, "symbol": UNNAMED, "reason": error.reason, "detail": error.detail[:1000]}


def _refusal(
    market: Market, source_key: str, source_version: str, run_id: str, now_us: int
) -> dict[str, object]:
    return {
        "market": market,
        "dataset": INSTRUMENTS,
        "source": "rest",
        "source_key": source_key,
        "source_version": source_version,
        "run_id": run_id,
        "quarantined_at": now_us,
    }


def new_sightings(
    market: Market,
    dataset: str,
    listed: Collection[str],
    known: pl.DataFrame,
    *,
    seen_us: int,
    url: str,
    run_id: str,
) -> pl.DataFrame:
    """Rows of `silver.listing_sightings` for what a listing changes.

    known: `KNOWN_SIGHTINGS` of the data set in this market, times in microseconds.

    A listing without any symbol where there were some tells nothing: it is not believed.
    """
    latest = known.sort("seen_at", maintain_order=True).group_by("symbol").last()
    before = {
        symbol
        for symbol, present in latest.select("symbol", "present").iter_rows()
        if present and symbol != WHOLE_LISTING
    }
    now = set(listed)
    if not now:
        return plain_rows(LISTING_SIGHTINGS, [])
    noted_us = known.filter(symbol=WHOLE_LISTING)["seen_at"].max()
    old = not isinstance(noted_us, int) or noted_us < seen_us - LISTING_AGE_US
    changes = [(symbol, True) for symbol in sorted(now - before)]
    changes += [(symbol, False) for symbol in sorted(before - now)]
    if not changes and not old:
        return plain_rows(LISTING_SIGHTINGS, [])
    common = {"market": market, "dataset": dataset, "seen_at": seen_us, "url": url}
    rows: list[dict[str, object]] = [
        {**common, "symbol": symbol, "present": present, "run_id": run_id}
        for symbol, present in [*changes, (WHOLE_LISTING, True)]
    ]
    rows[-1]["symbols"] = len(now)
    return plain_rows(LISTING_SIGHTINGS, rows)
