"""What the exchange sends, letter by letter as it calls its fields.

Numbers come as text and are read as floats by the decoder itself; bounds are what their columns can
hold. Fields that are not known here are passed over: the exchange adds some as it likes.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

# Zero stands for removed or unknown. Neither infinite nor not a number.
Amount = Annotated[float, Meta(ge=0, le=1e300)]
# -1 stands for trades that were removed.
Id = Annotated[int, Meta(ge=-1, le=2**62)]
Count = Annotated[int, Meta(ge=0, le=2**62)]
# 2010 to 2200, in ms or µs; what lies between the two is refused where rows are made.
Moment = Annotated[int, Meta(ge=1_262_304_000_000, le=7_258_118_400_000_000)]
Symbol = Annotated[str, Meta(min_length=1, max_length=64)]
Text = Annotated[str, Meta(max_length=32)]
# Empty: there is none.
MaybeNumber = Annotated[
    str, Meta(max_length=32, pattern=r"^([+-]?\d+(\.\d*)?([eE][+-]?\d{1,2})?)?$")
]


class Bar(Struct, gc=False):
    """t … T: its first and last moment. x: it is done, and will not be sent again."""

    t: Moment
    T: Moment
    i: Text
    o: Amount
    c: Amount
    h: Amount
    l: Amount  # noqa: E741 - the exchange's letter
    v: Amount
    n: Count
    x: bool
    q: Amount
    V: Amount
    Q: Amount
    f: Id = -1
    L: Id = -1


class Kline(Struct, gc=False, tag="kline", tag_field="e"):
    E: Moment
    s: Symbol
    k: Bar


class AggTrade(Struct, gc=False, tag="aggTrade", tag_field="e"):
    E: Moment
    s: Symbol
    a: Id
    p: Amount
    q: Amount
    f: Id
    l: Id  # noqa: E741 - the exchange's letter
    T: Moment
    m: bool
    M: bool | None = None


class Trade(Struct, gc=False, tag="trade", tag_field="e"):
    """X: of futures; what is not of the market has no row."""

    E: Moment
    s: Symbol
    t: Id
    p: Amount
    q: Amount
    T: Moment
    m: bool
    M: bool | None = None
    X: Text = ""


class BookTicker(Struct, gc=False, tag="bookTicker", tag_field="e"):
    """T, E: spot has neither."""

    u: Id
    s: Symbol
    b: Amount
    B: Amount
    a: Amount
    A: Amount
    T: Moment | None = None
    E: Moment | None = None


class ForcedOrder(Struct, gc=False):
    s: Symbol
    S: Text
    o: Text
    f: Text
    q: Amount
    p: Amount
    ap: Amount
    X: Text
    l: Amount  # noqa: E741 - the exchange's letter
    z: Amount
    T: Moment


class ForceOrder(Struct, gc=False, tag="forceOrder", tag_field="e"):
    E: Moment
    o: ForcedOrder

    @property
    def s(self) -> str:
        return self.o.s


class MarkPrice(Struct, gc=False, tag="markPriceUpdate", tag_field="e"):
    """p mark price, i index, P estimated settlement, r funding rate, T when it is paid.

    r, T: Delivery contracts pay none: the exchange sends an empty text and 0.
    """

    E: Moment
    s: Symbol
    p: Amount
    P: Amount | None = None
    i: Amount | None = None
    r: MaybeNumber | None = None
    T: Count | None = None


Levels = list[tuple[Amount, Amount]]


class Depth(Struct, gc=False, tag="depthUpdate", tag_field="e"):
    """Levels of the book that changed: price and the quantity that is there now, 0: none.

    U, u: First and last update in it. pu: `u` of the message before; futures alone.
    """

    E: Moment
    s: Symbol
    U: Id
    u: Id
    b: Levels
    a: Levels
    pu: Id | None = None
    T: Moment | None = None


class Snapshot(Struct, gc=False):
    """An answer of REST's /depth."""

    lastUpdateId: Id
    bids: Levels
    asks: Levels
    E: Moment | None = None
    T: Moment | None = None


class ServerShutdown(Struct, gc=False, tag="serverShutdown", tag_field="e"):
    """The connection will be closed soon."""

    E: Count | None = None


class Answer(Struct, gc=False):
    """To a request on the connection. error, code: it was refused; msg says why."""

    id: int | str | UnsetType | None = UNSET
    result: object = None
    error: object = None
    code: int | None = None
    msg: str | None = None


Event = Kline | AggTrade | Trade | BookTicker | ForceOrder | MarkPrice | Depth
