"""The logs of instruments and of the listing, read as states that hold from one time to another."""

from __future__ import annotations

from lakehouse_ray.model.instruments import (
    INSTRUMENT_STATES,
    INSTRUMENTS,
    LISTING_SIGHTINGS,
    STATE_COLUMNS,
    WHOLE_LISTING,
)
from lakehouse_ray.model.lake import OBJECT_LOG
from lakehouse_ray.model.table import Table

_STATE = ", ".join(column.name for column in STATE_COLUMNS)
_CHANGED = ", ".join(
    f"CASE WHEN {name} IS DISTINCT FROM lag({name}) OVER symbols THEN '{name}' END"
    for name in ("present", *(column.name for column in STATE_COLUMNS))
)

# Two runs at once may write a state twice, and one that was late may write one that is no change any
# more: what equals the state before it is no state of its own.
_STATES = f"""
SELECT * FROM {INSTRUMENT_STATES.name}
WINDOW seen AS (PARTITION BY market, symbol ORDER BY observed_at, source_version)
QUALIFY digest IS DISTINCT FROM lag(digest) OVER seen
     OR present IS DISTINCT FROM lag(present) OVER seen
"""

# Answers that were read, each time that they were seen again.
_ANSWERS = f"""
SELECT market, seen_at FROM {OBJECT_LOG.name}
WHERE dataset = '{INSTRUMENTS}' AND unit_id <> 'build' AND version IN (
    SELECT version FROM {OBJECT_LOG.name} WHERE dataset = '{INSTRUMENTS}' AND state = 'built'
)
"""

_INSTRUMENT_LOG = f"""
WITH states AS ({_STATES}), answers AS ({_ANSWERS}), log AS (
    SELECT *, lead(observed_at) OVER symbols AS valid_to,
           lag(observed_at) OVER symbols IS NULL AS is_first,
           nullif(concat_ws(',', {_CHANGED}), '') AS differing
    FROM states WINDOW symbols AS (PARTITION BY market, symbol ORDER BY observed_at, source_version)
)
SELECT l.market, l.symbol, l.observed_at AS valid_from, l.valid_to,
       greatest(l.observed_at, a.seen_at) AS seen_until, l.present, {_STATE},
       CASE WHEN is_first THEN NULL ELSE coalesce(differing, 'raw') END AS changed,
       l.raw, l.source_key, l.source_version
FROM log l ASOF LEFT JOIN answers a
ON a.market = l.market AND a.seen_at < coalesce(l.valid_to, TIMESTAMPTZ '2200-01-01 00:00:00+00')
"""

# A state begins another listing of its ticker where the exchange's own words say so: the assets are
# others, a contract is on board since after an earlier one traded under this name, or the symbol was
# away. A contract that was away and came back with its own onboard date is the same.
_BEGINS = """
before_base IS NULL
OR base_asset IS DISTINCT FROM before_base OR quote_asset IS DISTINCT FROM before_quote
OR (onboard_date > before_from AND onboard_date IS DISTINCT FROM before_onboard
    AND before_status = 'TRADING')
OR (was_away AND (onboard_date IS NULL OR onboard_date IS DISTINCT FROM before_onboard))
"""

_INSTRUMENTS = f"""
WITH log AS ({_INSTRUMENT_LOG}), away AS (
    SELECT *, coalesce(NOT lag(present) OVER symbols, false) AS was_away
    FROM log WINDOW symbols AS (PARTITION BY market, symbol ORDER BY valid_from)
), shown AS (
    SELECT *, lag(base_asset) OVER symbols AS before_base, lag(quote_asset) OVER symbols
           AS before_quote, lag(valid_from) OVER symbols AS before_from, lag(onboard_date)
           OVER symbols AS before_onboard, lag(status) OVER symbols AS before_status
    FROM away WHERE present
    WINDOW symbols AS (PARTITION BY market, symbol ORDER BY valid_from)
), numbered AS (
    SELECT *, count(*) FILTER (WHERE {_BEGINS}) OVER (
        PARTITION BY market, symbol ORDER BY valid_from
    ) AS listing
    FROM shown
)
SELECT market, symbol, listing, min(valid_from) OVER whole AS first_seen,
       seen_until AS last_seen, valid_to AS gone_at, valid_from AS state_since, {_STATE}, raw,
       source_key, source_version
FROM numbered
WINDOW whole AS (PARTITION BY market, symbol, listing)
QUALIFY row_number() OVER (PARTITION BY market, symbol, listing ORDER BY valid_from DESC) = 1
"""

_LISTING_LOG = f"""
WITH looks AS (
    SELECT market, dataset, seen_at FROM {LISTING_SIGHTINGS.name}
    WHERE symbol = '{WHOLE_LISTING}'
), flips AS (
    SELECT * FROM {LISTING_SIGHTINGS.name} WHERE symbol <> '{WHOLE_LISTING}'
    QUALIFY present IS DISTINCT FROM lag(present) OVER (
        PARTITION BY market, dataset, symbol ORDER BY seen_at, present
    )
), spans AS (
    SELECT *, lead(seen_at) OVER (
        PARTITION BY market, dataset, symbol ORDER BY seen_at, present
    ) AS gone_at FROM flips
)
SELECT s.market, s.dataset, s.symbol, s.seen_at AS first_seen,
       greatest(s.seen_at, l.seen_at) AS last_seen, s.gone_at, s.url
FROM spans s ASOF LEFT JOIN looks l
ON l.market = s.market AND l.dataset = s.dataset
   AND l.seen_at < coalesce(s.gone_at, TIMESTAMPTZ '2200-01-01 00:00:00+00')
WHERE s.present
"""


def instrument_views() -> list[tuple[str, str, tuple[Table, ...], str]]:
    """Name, documentation, tables and SELECT of each."""
    return [
        (
            "silver.instruments",
            "The last state of each listing of each symbol, by exchangeInfo: a ticker that was used "
            "again has several, numbered in `listing`.",
            (INSTRUMENT_STATES, OBJECT_LOG),
            _INSTRUMENTS,
        ),
        (
            "silver.instrument_log",
            "Every state of each symbol in exchangeInfo: first seen at `valid_from`, last seen at "
            "`seen_until`, not so any more at `valid_to`; `changed` names what is new.",
            (INSTRUMENT_STATES, OBJECT_LOG),
            _INSTRUMENT_LOG,
        ),
        (
            "silver.listing_log",
            "From when to when each symbol was seen in the archive's listing of a data set.",
            (LISTING_SIGHTINGS,),
            _LISTING_LOG,
        ),
    ]
