"""What a connection asks for when it is opened: the parameters of its URL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.timespan import TimeRange, parse_time
from lakehouse_ray.model.venue import Market
from lakehouse_ray.serve.cursors import LENGTH_MAX
from lakehouse_ray.serve.streams.names import split_path
from lakehouse_ray.serve.streams.tokens import Token, parse_token

# Before and after everything that can be stored.
EARLIEST_US, LATEST_US = parse_time("1970"), parse_time("2200")
_KNOWN = ("streams", "start", "end", "speed", "as_of", "after", "resume", "events", "timeUnit")
_SPEED_MAX = 1e9


@dataclass(frozen=True)
class Options:
    """start_us, end_us, as_of: Of a replay. speed: Times real time; None: as fast as is read.

    events: Whether to tell what the exchange has no word for, in an envelope of ours.
    micro: Whether times are written in microseconds.
    waits: Whether the connection stays open when a replay is over. Clients of the exchange take a close
        for a fault: they connect again and are told all of it twice.
    """

    market: Market
    streams: tuple[str, ...] = ()
    start_us: int | None = None
    end_us: int | None = None
    speed: float | None = None
    as_of: str | None = None
    resume: Token | None = None
    events: bool = False
    micro: bool = False
    waits: bool = False

    @property
    def replays(self) -> bool:
        """Whether what is stored is told first."""
        if self.resume is not None:
            return not self.resume.live
        return self.start_us is not None or self.end_us is not None or self.as_of is not None

    @property
    def ends(self) -> bool:
        """Whether nothing follows a replay."""
        return self.end_us is not None or self.as_of is not None

    @property
    def within(self) -> TimeRange:
        """Times of the rows that are replayed."""
        return TimeRange(
            EARLIEST_US if self.start_us is None else self.start_us,
            LATEST_US if self.end_us is None else self.end_us,
        )


def read_options(market: Market, path: str, given: Mapping[str, str]) -> Options:
    """Raises InvalidError for what cannot be meant.

    path: What follows `/ws/`. given: The query's parameters.
    """
    unknown = [name for name in given if name not in _KNOWN]
    if unknown:
        raise InvalidError(
            f"there is no parameter {unknown[0][:40]!r}", f"one of {', '.join(_KNOWN)}"
        )
    token = parse_token(given["resume"]) if "resume" in given else None
    start_us = _moment(given.get("start"))
    end_us = _moment(given.get("end"))
    as_of = given.get("as_of")
    if as_of is not None and not 0 < len(as_of) <= LENGTH_MAX:
        raise InvalidError("as_of is a time, a snapshot's id or versions of tables")
    if token is not None:
        # The token knows where it was; a URL that is used again says the same or less.
        start_us, end_us = token.start_us, token.end_us if end_us is None else end_us
    events = _flag(given.get("events"))
    options = Options(
        market,
        tuple(dict.fromkeys(split_path(path) + split_path(given.get("streams", "")))),
        start_us,
        end_us,
        _speed(given.get("speed")),
        as_of,
        token,
        events,
        _micro(market, given.get("timeUnit")),
        _waits(given.get("after"), events),
    )
    if "speed" in given and not options.replays and token is None:
        raise InvalidError("speed is for a replay", "start says from when on")
    if "after" in given and not (options.replays and options.ends):
        raise InvalidError("after is for a replay with an end", "end or as_of says where it is")
    assert options.within  # raises for a range that ends before it starts
    return options


def _moment(text: str | None) -> int | None:
    if text is None:
        return None
    found = parse_time(text[:40])
    if not EARLIEST_US <= found <= LATEST_US:
        raise InvalidError(f"there is nothing at {text[:40]}", "times are from 1970 to 2200")
    return found


def _speed(text: str | None) -> float | None:
    if text in (None, "max", "0"):
        return None
    assert text is not None
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 < found <= _SPEED_MAX:
        raise InvalidError(
            f"no speed: {text[:40]!r}", "1 is real time, 60 a minute a second, max as fast as read"
        )
    return found


def _flag(text: str | None) -> bool:
    if text in (None, "false"):
        return False
    if text == "true":
        return True
    raise InvalidError("events is true or false")


def _waits(text: str | None, events: bool) -> bool:
    if text not in (None, "close", "wait"):
        raise InvalidError("after is close or wait")
    if events and text == "wait":
        raise InvalidError("events=true tells of the end and closes", "leave after=wait away")
    return text != "close" and not events


def _micro(market: Market, text: str | None) -> bool:
    unit = (text or "MILLISECOND").upper()
    if unit == "MILLISECOND":
        return False
    if unit != "MICROSECOND" or market != "spot":
        raise InvalidError("timeUnit is MILLISECOND, on spot also MICROSECOND")
    return True
