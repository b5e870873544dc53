"""The data set `instruments`: what the exchange said of each symbol, and what its archive lists.

Both are logs of changes. A row is written where an answer differs from what was known before it, so
that asking every day costs nothing where nothing happens; times are those at which we were told.
What lies between two answers is not known, and no row claims it.
"""

from __future__ import annotations

from lakehouse_ray.model.dataset import MARKET, SYMBOL
from lakehouse_ray.model.table import Column, Encoding, Partition, Table
from lakehouse_ray.model.venue import Market

INSTRUMENTS = "instruments"

# Where each market's REST answers; also the key of the answer in bronze.
EXCHANGE_INFO_KEYS: dict[Market, str] = {
    "spot": "api/v3/exchangeInfo",
    "um": "fapi/v1/exchangeInfo",
    "cm": "dapi/v1/exchangeInfo",
}
# In place of a symbol: the listing as a whole was read.
WHOLE_LISTING = "*"

_DICT: Encoding = "dictionary"

# What is typed of a record; everything else of it is in `raw`.
STATE_COLUMNS = (
    Column("status", "string", "TRADING, BREAK, SETTLING, …, as the exchange says", False, _DICT),
    Column("base_asset", "string", "What is traded", False, _DICT),
    Column("quote_asset", "string", "What it is priced in", False, _DICT),
    Column("contract_type", "string", "PERPETUAL, CURRENT_QUARTER, …; null on spot", False, _DICT),
    Column("onboard_date", "timestamp", "Since when the contract trades; futures", False, "delta"),
    Column(
        "delivery_date", "timestamp",
        "When the contract ends; of a perpetual the year 2100 until its end is announced",
        False, "delta",
    ),
    Column("contract_size", "double", "What a contract is worth in the quote asset; cm"),
    Column("tick_size", "double", "Least step of prices"),
    Column("step_size", "double", "Least step of quantities"),
    Column("min_notional", "double", "Least value of an order"),
)  # fmt: skip

INSTRUMENT_STATES = Table(
    name="silver.instrument_states",
    doc="Each state of a symbol in exchangeInfo, as of the answer that first had it. "
    "`silver.instrument_log` and `silver.instruments` are read from it.",
    columns=(
        MARKET,
        SYMBOL,
        Column("observed_at", "timestamp", "When the answer was received", True, "delta"),
        Column("present", "boolean", "false: the answer no longer had the symbol", True),
        *STATE_COLUMNS,
        Column("raw", "string", "The record as JSON, keys sorted, fields we do not know included"),
        Column("digest", "string", "Of `raw`: states of one digest are the same"),
        Column("source", "string", "rest", True, _DICT),
        Column("source_key", "string", "`bronze.objects.key`", True, _DICT),
        Column("source_version", "string", "`bronze.objects.version`", True, _DICT),
    ),
    key=(),
    time="observed_at",
    partitions=(Partition("identity", "market"),),
    sort=("symbol", "observed_at"),
)

LISTING_SIGHTINGS = Table(
    name="silver.listing_sightings",
    doc="When a symbol was first listed by the archive, or listed no more; `*` in place of a symbol: "
    "the listing was read as a whole. `silver.listing_log` is read from it.",
    columns=(
        MARKET,
        Column("dataset", "string", "As the archive spells it", True, _DICT),
        SYMBOL,
        Column("present", "boolean", "false: the listing no longer had the symbol", True),
        Column("seen_at", "timestamp", "When the listing was read", True, "delta"),
        Column("symbols", "long", "Of `*`: how many symbols the listing had", False, "delta"),
        Column("url", "string", "Where the listing was read", True, _DICT),
        Column("run_id", "string", "Run that read it", True, _DICT),
    ),
    key=(),
    time="seen_at",
    partitions=(Partition("identity", "market"), Partition("identity", "dataset")),
    sort=("symbol", "seen_at"),
)
