"""Faults of messages and of connections: what becomes of what one client should have got.

Every fault that is shown is noted, so that a test can hold what was planted against what was found.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from lakehouse_ray.testing.exchange.faults import Faults, Rule
from lakehouse_ray.testing.exchange.streams.events import Event
from lakehouse_ray.testing.exchange.streams.frames import BINARY, encode, envelope, text_frame
from lakehouse_ray.testing.exchange.streams.names import StreamName

# The newest are kept.
PLANTED_MAX = 100_000
_UNKNOWN = b'{"e":"somethingNew","E":%d,"s":"%s","x":{"y":[1,"2",null,true]}}'


@dataclass(frozen=True)
class Planted:
    """A fault that was shown.

    where: The stream's key, or the path of the connection. connection: Its number.
    body: The data of the message that it hit, as it would have been sent.
    """

    at_us: int
    fault: str
    where: str
    connection: int
    body: str = ""


class FaultLog:
    """The rules in force for streams, what they counted and what they planted. Thread-safe."""

    def __init__(self, faults: Faults) -> None:
        self._lock = threading.Lock()
        self._planted: deque[Planted] = deque(maxlen=PLANTED_MAX)
        self.generation = 0
        self.replace(faults)

    def replace(self, faults: Faults) -> None:
        with self._lock:
            self._faults = faults
            self._shown: Counter[tuple[int, str]] = Counter()
            self.generation += 1

    def rules(self, stage: str, key: str) -> list[tuple[int, Rule]]:
        return [
            (number, rule)
            for number, rule in enumerate(self._faults.rules)
            if rule.stage == stage and rule.matches(key)
        ]

    def any(self, stage: str) -> bool:
        return any(rule.stage == stage for rule in self._faults.rules)

    def shows(self, number: int, rule: Rule, key: str, occasion: int) -> bool:
        """Whether the rule strikes now; if so, that is counted.

        occasion: The number of the message of its stream, or of the connection.
        """
        if self._faults.draw(number, key, occasion).random() >= rule.probability:
            return False
        with self._lock:
            if rule.times is not None and self._shown[number, key] >= rule.times:
                return False
            self._shown[number, key] += 1
        return True

    def note(self, planted: Planted) -> None:
        with self._lock:
            self._planted.append(planted)

    def planted(self) -> list[dict[str, Any]]:
        """All that was shown, in order."""
        with self._lock:
            return [asdict(one) for one in self._planted]


class Output(Protocol):
    """Where a connection's messages go. number: Its own."""

    number: int
    combined: bool

    def put(self, frame: bytes) -> None: ...

    def later(self, delay_s: float, work: Callable[[], None]) -> None: ...

    def now_us(self) -> int: ...


class FaultyMessages:
    """Messages of one connection, as the rules on their streams have them."""

    def __init__(self, log: FaultLog, output: Output) -> None:
        self._log = log
        self._output = output
        self._rules: dict[str, list[tuple[int, Rule]]] = {}
        self._seen: Counter[str] = Counter()
        self._held: dict[str, bytes] = {}
        self._skip: Counter[str] = Counter()
        self._stopped: set[str] = set()

    def take(self, name: StreamName, event: Event, frame: bytes) -> None:
        key = name.key
        rules = self._rules.get(key)
        if rules is None:
            rules = self._rules[key] = self._log.rules("message", key)
        occasion = self._seen[key]
        self._seen[key] += 1
        if key in self._stopped:
            return
        if self._skip[key]:
            self._skip[key] -= 1
            self._note("messages_skipped", key, event)
            return
        held = self._held.pop(key, None)
        for number, rule in rules:
            if self._due(rule, occasion) and self._log.shows(number, rule, key, occasion):
                self._note(rule.fault, key, event)
                self._show(rule, key, name, event, frame)
                break
        else:
            self._output.put(frame)
        if held is not None:
            self._output.put(held)

    def _due(self, rule: Rule, occasion: int) -> bool:
        return rule.fault != "stream_stops" or occasion >= int(rule.params["after"])

    def _show(self, rule: Rule, key: str, name: StreamName, event: Event, frame: bytes) -> None:
        put = self._output.put
        if rule.fault == "message_duplicated":
            for _ in range(1 + int(rule.params["copies"])):
                put(frame)
        elif rule.fault == "message_late":
            self._output.later(float(rule.params["late_s"]), lambda: put(frame))
        elif rule.fault == "messages_swapped":
            self._held[key] = frame
        elif rule.fault == "messages_skipped":
            self._skip[key] = max(0, int(rule.params["messages"]) - 1)
        elif rule.fault == "stream_stops":
            self._stopped.add(key)
        elif rule.fault == "unknown_event":
            moment_ms = self._output.now_us() // 1000
            body = _UNKNOWN % (moment_ms, name.symbol.encode())
            put(text_frame(envelope(name.text, body) if self._output.combined else body))
            put(frame)
        else:
            assert rule.fault == "message_malformed"
            message = event.body
            if self._output.combined:
                message = event.combined or envelope(name.text, event.body)
            put(malformed(str(rule.params["form"]), message))

    def _note(self, fault: str, key: str, event: Event) -> None:
        at_us = self._output.now_us()
        body = event.body.decode("utf-8", "replace")
        self._log.note(Planted(at_us, fault, key, self._output.number, body))


def malformed(form: str, message: bytes) -> bytes:
    """A frame in the place of a good one."""
    if form == "binary":
        return encode(BINARY, bytes(range(256)))
    made = {
        "truncated": message[: len(message) * 2 // 3],
        "not_json": b"<html><body>502 Bad Gateway</body></html>",
        "empty": b"",
        "null": b"null",
        "untyped": message.replace(b'":"', b'":').replace(b'","', b'",'),
        "nested": b"[" * 100_000,
    }
    return text_frame(made[form])
