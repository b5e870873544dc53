"""When to open, replace and close the connections of one set of streams. Pure: time is told to it.

A connection ends: after 24 hours, when the exchange says so, or by itself. What is foreseen loses
nothing, because the next one is up and has been heard before the old one is closed; both bring the
same messages for a while, and continuity drops what came twice.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class SessionRules:
    """Seconds, all of them.

    life_s: Age at which a connection is replaced; the exchange ends it after 24 hours.
    overlap_s: How long the new one is heard before the old one is closed.
    silence_s: Nothing heard at all for so long, pongs included: the socket is dead.
    ping_s: Nothing heard for so long: ask whether somebody is there.
    stall_s: An active symbol says nothing for so long: the connection has stalled.
    active_per_s: Messages a second, over the last `active_window_s`, that make a symbol active.
    backoff_s, backoff_max_s: Waits after failures are drawn from 0 to `backoff_s`, doubled each time.
    """

    life_s: float = 23 * 3600
    overlap_s: float = 5.0
    silence_s: float = 60.0
    ping_s: float = 20.0
    stall_s: float = 10.0
    active_per_s: float = 1.0
    active_window_s: float = 30.0
    backoff_s: float = 1.0
    backoff_max_s: float = 60.0


class ConnectPace:
    """Connections are opened one after the other. How many in all, an account of limits says.

    spacing_s: Between two.
    """

    def __init__(self, spacing_s: float = 1.0) -> None:
        self._spacing_s = spacing_s
        self._due_s = -math.inf

    def take(self, now_s: float) -> bool:
        """Whether one may be opened now; it counts as opened."""
        if now_s < self._due_s:
            return False
        self._due_s = now_s + self._spacing_s
        return True


@dataclass(frozen=True)
class Action:
    """What to do with a connection. why: For people."""

    what: Literal["open", "close", "ping"]
    connection: int
    why: str = ""


@dataclass
class _Connection:
    number: int
    asked_s: float
    opened_s: float | None = None
    heard_s: float = -math.inf
    pinged_s: float = -math.inf
    first_heard_s: float | None = None
    # Why it is to be replaced; empty: it is not.
    doomed: str = ""


@dataclass
class _Pulse:
    """How often a symbol speaks. decayed: Messages of the last window, older ones weighing less."""

    last_s: float
    decayed: float = 0.0
    # Its silence has cost a connection already: it has to speak again before it may cost another.
    blamed: bool = False


@dataclass(frozen=True)
class Stalled:
    """A connection was open and silent while another one hears what it should have said.

    since_s: What it was replaced for was heard last then. heard: Symbols that were heard since.
    """

    since_s: float
    heard: frozenset[str]


@dataclass
class _Suspect:
    """A connection that is replaced because it is silent. symbol: Empty: about all of them."""

    number: int
    symbol: str
    since_s: float


@dataclass
class Session:
    """The connections of one set of streams: one, and for moments two.

    pace: Shared by all sessions of an address. first: Number of the first connection.
    """

    rules: SessionRules
    pace: ConnectPace
    rng: random.Random
    first: int = 0
    stride: int = 1
    _connections: list[_Connection] = field(default_factory=list)
    _pulses: dict[str, _Pulse] = field(default_factory=dict)
    _suspect: _Suspect | None = None
    _failures: int = 0
    _not_before_s: float = -math.inf
    _opened: int = 0

    @property
    def up(self) -> bool:
        """Whether a connection is open."""
        return any(connection.opened_s is not None for connection in self._connections)

    def due(self, now_s: float) -> list[Action]:
        """What is to be done now. Has to be asked a few times a second."""
        actions: list[Action] = []
        for connection in self._connections:
            self._judge(connection, now_s)
        actions += self._retire(now_s)
        wanted = not self._connections or all(c.doomed for c in self._connections)
        if wanted and len(self._connections) < 2 and now_s >= self._not_before_s:
            why = self._connections[0].doomed if self._connections else ""
            if self.pace.take(now_s):
                number = self.first + self._opened * self.stride
                self._opened += 1
                self._connections.append(_Connection(number, now_s))
                actions.append(Action("open", number, why))
        for connection in self._connections:
            quiet_s = now_s - max(connection.heard_s, connection.pinged_s)
            if connection.opened_s is not None and quiet_s >= self.rules.ping_s:
                connection.pinged_s = now_s
                actions.append(Action("ping", connection.number))
        return actions

    def opened(self, number: int, now_s: float) -> None:
        connection = self._find(number)
        if not self.up:
            # Nobody listened in between, whatever was suspected before.
            self._suspect = None
        if connection is not None:
            connection.opened_s = connection.heard_s = connection.pinged_s = now_s

    def ended(self, number: int, now_s: float, leave_alone_s: float = 0.0) -> None:
        """A connection is closed, or could not be opened.

        leave_alone_s: How long the exchange asks not to be asked again.
        """
        connection = self._find(number)
        if connection is None:
            return
        self._connections.remove(connection)
        self._not_before_s = max(self._not_before_s, now_s + leave_alone_s)
        lived_s = 0.0 if connection.opened_s is None else now_s - connection.opened_s
        if connection.doomed and self.up:
            return
        # What lived long enough was no failure; it is still not the only one that was cut.
        self._failures = 1 if lived_s >= self.rules.silence_s else self._failures + 1
        ceiling_s = min(self.rules.backoff_max_s, self.rules.backoff_s * 2 ** (self._failures - 1))
        drawn_s = self.rng.uniform(0.0, ceiling_s)
        self._not_before_s = max(self._not_before_s, now_s + drawn_s)

    def heard(self, number: int, counts: Mapping[str, int], now_s: float) -> Stalled | None:
        """Messages came: how many of each symbol since the last call. Empty: a ping or a pong.

        Returns what another connection did not hear, once that is known by these.
        """
        connection = self._find(number)
        if connection is None:
            return None
        connection.heard_s = now_s
        stalled = self._convicted(number, counts)
        if counts and connection.first_heard_s is None:
            connection.first_heard_s = now_s
        for symbol, count in counts.items():
            pulse = self._pulses.setdefault(symbol, _Pulse(now_s))
            faded = math.exp((pulse.last_s - now_s) / self.rules.active_window_s)
            pulse.decayed = pulse.decayed * faded + count
            pulse.last_s = now_s
            pulse.blamed = False
        return stalled

    def _convicted(self, number: int, counts: Mapping[str, int]) -> Stalled | None:
        """Whether a silent connection missed something, or there was nothing to be said."""
        suspect = self._suspect
        if suspect is None or not counts or (suspect.symbol and suspect.symbol not in counts):
            return None
        self._suspect = None
        if number == suspect.number:
            return None
        heard = (name for name, pulse in self._pulses.items() if pulse.last_s > suspect.since_s)
        return Stalled(suspect.since_s, frozenset(heard))

    def warned(self, number: int) -> None:
        """The exchange says that it will end the connection (`serverShutdown`)."""
        connection = self._find(number)
        if connection is not None:
            connection.doomed = connection.doomed or "the exchange will end it"

    def silent_symbol(self, now_s: float) -> str | None:
        """A symbol that spoke often and has stopped."""
        for symbol, pulse in self._pulses.items():
            active = pulse.decayed >= self.rules.active_per_s * self.rules.active_window_s
            if active and not pulse.blamed and now_s - pulse.last_s >= self.rules.stall_s:
                return symbol
        return None

    def _judge(self, connection: _Connection, now_s: float) -> None:
        if connection.doomed or connection.opened_s is None:
            return
        age_s = now_s - connection.opened_s
        if age_s >= self.rules.life_s:
            connection.doomed = f"it is {age_s / 3600:.1f} hours old"
        elif now_s - connection.heard_s >= self.rules.silence_s:
            connection.doomed = f"nothing was heard for {now_s - connection.heard_s:.0f} s"
            self._suspect = _Suspect(connection.number, "", connection.heard_s)
        elif age_s >= self.rules.stall_s and (symbol := self.silent_symbol(now_s)):
            self._pulses[symbol].blamed = True
            self._suspect = _Suspect(connection.number, symbol, self._pulses[symbol].last_s)
            connection.doomed = f"{symbol} has said nothing for {self.rules.stall_s:.0f} s"

    def _retire(self, now_s: float) -> list[Action]:
        """Close what is doomed, once the one that follows it has been heard for long enough."""
        for old in self._connections:
            if not old.doomed or old.opened_s is None:
                continue
            for new in self._connections:
                if new is old or new.doomed or new.opened_s is None:
                    continue
                # One that hears nothing because nothing is said has been up for long enough.
                since_s = new.first_heard_s if new.first_heard_s is not None else new.opened_s
                patience_s = self.rules.overlap_s * (1 if new.first_heard_s is not None else 4)
                if now_s - since_s >= patience_s:
                    return [Action("close", old.number, old.doomed)]
        return []

    def _find(self, number: int) -> _Connection | None:
        return next((c for c in self._connections if c.number == number), None)


def spread(names: list[tuple[str, str]], per_connection_max: int) -> list[list[str]]:
    """Spread streams over as few connections as they need, all of a symbol on one where it fits.

    names: Symbol and name of each stream.
    """
    by_symbol: dict[str, list[str]] = {}
    for symbol, name in names:
        by_symbol.setdefault(symbol, []).append(name)
    connections: list[list[str]] = []
    for streams in by_symbol.values():
        for start in range(0, len(streams), per_connection_max):
            part = streams[start : start + per_connection_max]
            if connections and len(connections[-1]) + len(part) <= per_connection_max:
                connections[-1] += part
            else:
                connections.append(part)
    return connections
