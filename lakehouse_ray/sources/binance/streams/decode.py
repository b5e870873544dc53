"""Frames of a connection as typed events; what is none is refused by a reason, never passed over.

Frames of one kind are read many at once. Where that fails each is read by itself: a frame of a combined
connection begins with the stream's name, so its decoder is found by a look into a dictionary and it is
parsed once, straight into the struct of its kind. Frames that begin otherwise are parsed twice: once to
see what they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from lakehouse_ray.errors import BadDataError, InvalidError
from lakehouse_ray.model.venue import Market, parse_interval
from lakehouse_ray.sources.binance.streams.events import (
    AggTrade,
    Answer,
    BookTicker,
    Depth,
    Event,
    ForceOrder,
    Kline,
    MarkPrice,
    ServerShutdown,
    Snapshot,
    Trade,
)
from lakehouse_ray.sources.binance.streams.names import Kind, Stream, parse_stream

# Raised whenever the same frames could be read differently.
VERSION = 1

_STRUCTS: dict[Kind, type[Event]] = {
    "kline": Kline,
    "aggTrade": AggTrade,
    "trade": Trade,
    "bookTicker": BookTicker,
    "forceOrder": ForceOrder,
    "markPrice": MarkPrice,
    "depth": Depth,
}
_KIND_OF_TAG: dict[str, Kind] = {
    "kline": "kline",
    "aggTrade": "aggTrade",
    "trade": "trade",
    "bookTicker": "bookTicker",
    "forceOrder": "forceOrder",
    "markPriceUpdate": "markPrice",
    "depthUpdate": "depth",
}
_PREFIX = b'{"stream":"'
_NAME_FROM = len(_PREFIX)
# Names seen that nobody asked for, before no more of them are learned.
_LEARNED_MAX = 4096
_NO_EVENT = re.compile(
    r"Expected `object`, got `\w+`( - at `\$\.data`)?|Invalid value .* - at `\$(\.data)?\.e`"
)
_MISSING = re.compile(r"missing required field `(\w+)`")


class _Enveloped(msgspec.Struct, gc=False):
    stream: str
    data: msgspec.Raw


class _OrderHead(msgspec.Struct, gc=False):
    s: str = ""


class _Head(msgspec.Struct, gc=False):
    """What tells frames apart. `e` is not always there: spot's bookTicker has none."""

    e: str = ""
    s: str = ""
    u: int | None = None
    b: object = None
    lastUpdateId: int | None = None
    stream: str = ""
    id: int | str | msgspec.UnsetType | None = msgspec.UNSET
    error: object = None
    code: int | None = None
    k: object = None
    o: object = None


class Message(msgspec.Struct, gc=False):
    """An event and the stream it came on."""

    stream: Stream
    event: Event


class Control(msgspec.Struct, gc=False):
    """What is no row: an answer to a request, a warning, a snapshot of REST among the frames."""

    event: Answer | ServerShutdown | Snapshot


class FrameReader:
    """Reads the frames of one market's connections.

    asked: Streams that are subscribed; frames of others are refused as NOT_ASKED. None: all that
        the market has.
    """

    def __init__(self, market: Market, asked: Iterable[Stream] | None = None) -> None:
        self._market = market
        self._open = asked is None
        self._routes: dict[bytes, tuple[Stream, Callable[[bytes], Any]]] = {}
        self._lists: dict[Kind, Callable[[bytes], list[Event]]] = {
            kind: msgspec.json.Decoder(list[struct], strict=False).decode  # type: ignore[valid-type]
            for kind, struct in _STRUCTS.items()
        }
        self._by_kind: dict[tuple[Kind, str, str | None], Stream] = {}
        self._envelopes = {
            kind: msgspec.json.Decoder(_envelope_of(struct), strict=False).decode
            for kind, struct in _STRUCTS.items()
        }
        self._singles = {
            kind: msgspec.json.Decoder(struct, strict=False).decode
            for kind, struct in _STRUCTS.items()
        }
        self._enveloped = msgspec.json.Decoder(_Enveloped).decode
        self._head = msgspec.json.Decoder(_Head, strict=False).decode
        for stream in asked or ():
            self._learn(stream.name.encode(), stream)

    @property
    def streams(self) -> list[Stream]:
        """Streams that are known, in the order in which they were asked for."""
        return [stream for stream, _ in self._routes.values()]

    def read_many(self, kind: Kind, data: Sequence[bytes]) -> list[Event] | None:
        """The events of combined frames of one kind, all parsed at once; whose they say they are is
        not looked at.

        data: What stands in each between `frame_head` of its stream and the last brace.
        None where any of them is refused: then each frame has to be read by itself.
        """
        # No text of JSON has a line feed in it, so a frame whose last text is open ends there.
        joined = b"[" + b",\n".join(data) + b"]"
        try:
            events = self._lists[kind](joined)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return events if len(events) == len(data) else None

    def read(self, frame: bytes) -> Message | Control:
        """Return what the frame says.

        Raises BadDataError: NOT_JSON, UNKNOWN_EVENT, NOT_ASKED, MISSING_FIELD, UNTYPED_CELL,
        WRONG_SYMBOL.
        """
        if frame.startswith(_PREFIX):
            route = self._routes.get(frame[_NAME_FROM : frame.find(b'"', _NAME_FROM)])
            if route is not None:
                stream, decode = route
                try:
                    event = decode(frame).data
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                    raise _refusal(frame, error) from error
                return _checked(stream, event)
        return self._read_otherwise(frame)

    def _read_otherwise(self, frame: bytes) -> Message | Control:
        try:
            head = self._head(frame)
            if head.stream:
                enveloped = self._enveloped(frame)
                stream = self._named(enveloped.stream)
                return _checked(stream, self._singles[stream.kind](enveloped.data))
            if head.e == "serverShutdown":
                return Control(msgspec.json.decode(frame, type=ServerShutdown, strict=False))
            if head.lastUpdateId is not None:
                return Control(msgspec.json.decode(frame, type=Snapshot, strict=False))
            if not head.e and (head.id is not msgspec.UNSET or head.error or head.code is not None):
                return Control(msgspec.json.decode(frame, type=Answer))
            return self._read_single(frame, head)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise _refusal(frame, error) from error

    def _read_single(self, frame: bytes, head: _Head) -> Message:
        kind = _KIND_OF_TAG.get(head.e)
        if not head.e and head.u is not None and isinstance(head.b, str):
            kind = "bookTicker"
        if kind is None:
            raise BadDataError("UNKNOWN_EVENT", f"an event of kind {head.e[:40]!r}")
        event = self._singles[kind](frame)
        interval = None
        if isinstance(event, Kline):
            interval = _interval(event)
        stream = self._by_kind.get((kind, event.s, interval))
        if stream is None:
            stream = Stream(self._market, kind, event.s, interval)
            if not self._open:
                raise BadDataError("NOT_ASKED", f"{stream.name[:80]} is not subscribed")
            # Held against the rules for names.
            self._named(stream.name)
        return _checked(stream, event)

    def _named(self, name: str) -> Stream:
        """The stream of a name. Raises BadDataError where it is none, or not asked for."""
        route = self._routes.get(name.encode())
        if route is not None:
            return route[0]
        try:
            stream = parse_stream(name, self._market)
        except InvalidError as error:
            raise BadDataError("UNKNOWN_EVENT", str(error)) from error
        if not self._open:
            raise BadDataError("NOT_ASKED", f"{name[:80]} is not subscribed")
        if len(self._routes) < _LEARNED_MAX:
            self._learn(name.encode(), stream)
        return stream

    def _learn(self, name: bytes, stream: Stream) -> None:
        self._routes[name] = stream, self._envelopes[stream.kind]
        self._by_kind[stream.kind, stream.symbol, stream.interval] = stream


def frame_head(stream: Stream) -> bytes:
    """What a combined frame of a stream begins with; then comes its event, then a brace."""
    return b'%s%s","data":' % (_PREFIX, stream.name.encode())


def _envelope_of(struct: type[Event]) -> Any:
    return msgspec.defstruct("Envelope", [("stream", str), ("data", struct)], gc=False)


def _checked(stream: Stream, event: Event) -> Message:
    if event.s != stream.symbol:
        raise BadDataError("WRONG_SYMBOL", f"{stream.name} says it is of {event.s!r}")
    if isinstance(event, Kline) and _interval(event) != stream.interval:
        raise BadDataError("WRONG_SYMBOL", f"{stream.name} says its interval is {event.k.i!r}")
    if isinstance(event, Depth):
        before = event.U - 1 if event.pu is None else event.pu
        if before >= event.u:
            said = f"changes up to {event.u} that follow {before}"
            raise BadDataError("UNTYPED_CELL", f"{stream.name} says it has {said}")
    return Message(stream, event)


def _interval(event: Kline) -> str:
    try:
        return parse_interval(event.k.i)
    except InvalidError as error:
        raise BadDataError("UNTYPED_CELL", f"a bar of {str(error)[:100]}") from error


def _refusal(frame: bytes, error: Exception) -> BadDataError:
    """Why the decoder would not have the frame."""
    told = str(error)[:200]
    if not isinstance(error, msgspec.ValidationError):
        return BadDataError("NOT_JSON", f"{told}; {len(frame):,} bytes")
    if _NO_EVENT.fullmatch(told):
        return BadDataError("UNKNOWN_EVENT", f"JSON, but no event that is captured: {told}")
    if _MISSING.search(told):
        return BadDataError("MISSING_FIELD", told)
    return BadDataError("UNTYPED_CELL", told)
