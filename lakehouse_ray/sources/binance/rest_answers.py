"""What an answer of Binance's REST means: records, a refusal, or a reason to wait."""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import orjson

from lakehouse_ray.errors import BadDataError, DeniedError
from lakehouse_ray.model.timespan import to_us
from lakehouse_ray.sources.budget import Seen

# Where the exchange does not say for how long.
_QUIET_S = 60.0
# The shortest ban there is, and the longest.
_BAN_S = 120.0
_QUIET_MAX_S = 3 * 86_400.0
# Added to what it says: its clock, to the second, is not ours.
_MARGIN_S = 1.0
_BANNED_UNTIL = re.compile(rb"banned until (\d{13})")
_SHOWN_BYTES = 120
# No symbol, no pair; characters that no symbol has; "Invalid symbol status".
_NO_SYMBOL = frozenset({-1121, -1100, -1122, -4144})
_NO_KEY = frozenset({-2014, -2015, -1022})
# The exchange could not answer for now: unknown error, disconnected, unexpected response, timeout,
# overload, shutting down.
_OWN_TROUBLE = frozenset({-1000, -1001, -1006, -1007, -1008, -1016})


class RegionDeniedError(DeniedError):
    """The exchange does not serve this network (HTTP 451)."""

    @property
    def hint(self) -> str:
        return (
            "ask from a network that the exchange serves, or set binance.spot_url, binance.um_url or "
            "binance.cm_url to where it can be reached; the archive is open everywhere"
        )


@dataclass(frozen=True)
class Heard:
    """An answer's status and headers as they bear on what is asked next.

    seen: For the account of what may be asked. again: It says nothing of the request itself, which
        is to be sent again: at once after the quiet, or after a pause.
    """

    seen: Seen
    again: bool


def hear(status: int, headers: Mapping[str, str], body: bytes) -> Heard:
    """Read what an answer says of limits."""
    server_us = server_time_us(headers)
    quiet_s, banned = 0.0, status == 418
    if status in (418, 429, 403):
        told = headers.get("Retry-After", "").strip()
        known = told.isascii() and told.isdigit()
        quiet_s = float(told) if known else (_BAN_S if banned else _QUIET_S)
        match = _BANNED_UNTIL.search(body)
        if match and server_us is not None:
            quiet_s = max(quiet_s, int(match[1]) / 1000 - server_us / 1e6)
        # It outlives this process: what cannot be meant must not block a market for years.
        quiet_s = min(quiet_s, _QUIET_MAX_S) + _MARGIN_S
    used = _used_weight(headers)
    again = status in (403, 408, 418, 425, 429) or status >= 500
    return Heard(Seen(used, server_us, quiet_s, banned), again)


def server_time_us(headers: Mapping[str, str]) -> int | None:
    """The exchange's clock, from the Date header; None where there is none."""
    try:
        moment = email.utils.parsedate_to_datetime(headers.get("Date", ""))
    except ValueError:
        return None
    return to_us(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def read_list(status: int, body: bytes) -> list[Any]:
    """Return the records of an answer that came with this status.

    Raises BadDataError: NOT_AN_ANSWER for what is no answer at all, though it came as one (it may be
    another time); INVALID_SYMBOL, KEY_NEEDED and REQUEST_REFUSED for what the exchange refuses for
    good. RegionDeniedError (451), DeniedError (401).
    """
    if status == 451:
        raise RegionDeniedError("the exchange does not serve this network (451)")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        shown = f"{status}, no JSON ({error}): {_shown(body)}"
        raise BadDataError("NOT_AN_ANSWER", shown) from error
    if status == 200 and isinstance(document, list):
        return document
    code = document.get("code") if isinstance(document, dict) else None
    if isinstance(code, int):
        detail = f"{code}: {document.get('msg')}"[:300]
        if code in _NO_SYMBOL:
            raise BadDataError("INVALID_SYMBOL", detail)
        if code in _NO_KEY or status == 401:
            raise BadDataError("KEY_NEEDED", f"{detail}; set binance.api_key")
        if code in _OWN_TROUBLE:
            raise BadDataError("NOT_AN_ANSWER", detail)
        raise BadDataError("REQUEST_REFUSED", detail)
    if status != 200:
        raise BadDataError("REQUEST_REFUSED", f"{status}: {_shown(body)}")
    raise BadDataError("NOT_AN_ANSWER", f"no list: {_shown(body)}")


def _used_weight(headers: Mapping[str, str]) -> int | None:
    text = headers.get("X-MBX-USED-WEIGHT-1M", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _shown(body: bytes) -> str:
    return repr(body[:_SHOWN_BYTES])
