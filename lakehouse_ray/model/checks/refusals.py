"""Rules of severity `reject`: kept by whatever turns bytes into rows and rows into a table.

These names stand as the reason in `silver.quarantine`. Here they are declared, so that every reason
can be looked up in one place; the acts are in `sources/` and `silver/`.
"""

from __future__ import annotations

from lakehouse_ray.model.checks.rule import Rule


def _reject(name: str, doc: str) -> Rule:
    return Rule(name, "reject", doc)


# A row of a file is refused, the others stay.
ROW_REFUSALS = (
    _reject("WRONG_CELL_COUNT", "The line has more or fewer cells than the data set has columns."),
    _reject(
        "UNTYPED_CELL", "A cell is no value of its column's type, or empty where it must not be."
    ),
    _reject("WRONG_SYMBOL", "The row names another symbol than its file."),
    _reject("OUTSIDE_PERIOD", "The row's time lies outside the day or month of its file."),
    _reject("CONFLICTING_KEY", "Another row of the same source has the key and other values."),
    _reject("MORE_BAD_ROWS", "So many rows were refused that the rest is only counted."),
)

# An object is refused as a whole.
OBJECT_REFUSALS = (
    _reject("CHECKSUM_MISMATCH", "The bytes are not those of the published SHA-256."),
    _reject("CHECKSUM_MISSING", "No CHECKSUM is published and one was asked for."),
    _reject("CHECKSUM_UNREADABLE", "The CHECKSUM file is not one."),
    _reject("NOT_A_ZIP", "The object is no zip; often an error page saved under its name."),
    _reject("ZIP_CORRUPT", "The zip cannot be read."),
    _reject("ZIP_MEMBERS", "The zip holds more or fewer than one file."),
    _reject("ZIP_MEMBER_NAME", "The file in the zip has another name than the zip."),
    _reject("ZIP_BOMB", "The zip would inflate beyond the limit."),
    _reject("LINE_TOO_LONG", "A line is longer than any row could be."),
    _reject("NOT_UTF8", "The file is not text."),
    _reject("EMPTY", "The file has no rows."),
    _reject("UNKNOWN_COLUMNS", "Header or number of columns are not those of the data set."),
    _reject("LOST", "Bronze has no longer what the ledger says was received."),
    _reject("NOT_AN_ANSWER", "REST answered with something else than a list of records."),
    _reject("INVALID_SYMBOL", "The exchange's REST does not know the symbol (any more)."),
    _reject("KEY_NEEDED", "The exchange tells it only to who has an API key."),
    _reject("REQUEST_REFUSED", "The exchange's REST refuses the request, for good."),
    _reject("BROKEN_SEQUENCE", "Pages of REST do not go on where the ones before ended."),
    _reject(
        "SPOOL_CORRUPT", "A file of frames that wait for their commit is not what was written."
    ),
    _reject(
        "SEGMENT_SET_ASIDE",
        "No rows could be made of a segment of captured frames, by a fault of this program; its bytes are kept.",
    ),
    _reject("NOT_EXCHANGE_INFO", "The answer is no exchangeInfo: no JSON with a list of symbols."),
)

# A record that came in one by one (REST, stream) is refused.
RECORD_REFUSALS = (
    _reject("MISSING_FIELD", "A field that every record of this kind has is missing."),
    _reject(
        "UNTYPED_CELL", "A field is no value of its type, or outside of what the type can hold."
    ),
    _reject("NOT_A_CAPTURE", "The object of bronze holds no frames of streams."),
    _reject("NOT_JSON", "The frame of a stream is no JSON."),
    _reject("UNKNOWN_EVENT", "The frame is of a kind that is not captured."),
    _reject("NOT_ASKED", "The frame is of a stream that nobody subscribed."),
)
