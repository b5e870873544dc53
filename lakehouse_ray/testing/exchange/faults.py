"""Which defects the replica exchange shows, on which keys: rules, and the file they come from.

A fault file is JSON or TOML. This one damages a month of BTCUSDT for good, answers its first two
requests for ETHUSDT with 503, slows a tenth of all objects, and re-publishes a day once it was
fetched:

    seed = 7

    [[rules]]
    match = "data/spot/monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2024-01.zip"
    fault = "corrupt_zip"
    checksum = "fresh"

    [[rules]]
    match = "*/ETHUSDT/*"
    fault = "server_error"
    status = 503
    times = 2

    [[rules]]
    match = "data/*"
    fault = "slow"
    probability = 0.1
    first_byte_s = 0.2
    bytes_per_s = 100000.0

    [[rules]]
    match = "*/SOLUSDT-1m-2024-01-05.zip"
    fault = "republished"
    first = "missing_rows"
    after = 1

`match` is a glob over whole keys in which "*" crosses "/" (fnmatch, case-sensitive). A listing goes
by the name "?prefix=<its prefix>", a request of REST by its path ("fapi/v1/klines") and by its path
with what is asked ("fapi/v1/klines?symbol=BTCUSDT&interval=1m"). Every rule may have `times` and
`probability`.

Faults of *answers* (`FAULTS`, stage "answer") hit any request, the first rule that matches winning;
`times=N`: the first N requests of each key. Faults of *objects* (stages "zip", "content",
"checksum") hit zips and change everything said of them: body, CHECKSUM, ETag, size in listings; all
rules that match apply, in order; `times=N`: until the zip was delivered N times. `checksum` says
whether the published CHECKSUM is that of the defective bytes ("fresh") or of the good ones
("stale"); content defects default to "fresh", truncated_zip and corrupt_zip to "stale".
`probability` is decided once per object, and anew for each request of an answer; it and the rows
that a defect hits are functions of `seed` and key, so two runs see the same.

Faults of *streams* strike what one websocket client gets. Those of messages (stage "message") match
the path at which the stream alone is served (`ws/btcusdt@trade`, `fapi/ws/…`, `dapi/ws/…`), however
it was subscribed to; the first rule that matches and strikes wins. Chance is drawn anew for each
message and `times=N` counts the messages of a stream that were hit. Those of connections (stage
"connection") match the path that was asked for (`ws`, `stream`, `fapi/ws`, `fapi/stream`, …):
`times=N` are its first N connections. Seconds are the exchange's. A connection that was refused is a
fault of the answer. This one loses three messages in a row at one place of a hundred, and lets every
connection of USD-M die silently after a minute:

    [[rules]]
    match = "ws/*@aggTrade"
    fault = "messages_skipped"
    probability = 0.01
    messages = 3

    [[rules]]
    match = "fapi/*"
    fault = "half_open"
    after_s = 60.0

`rows = 0` hits every row. `early_close` and `off_grid` leave all but klines as they are.
`republished` serves what the defect `first` makes of the object until the zip was delivered `after`
times, then what `then` makes of it (both may be empty: the object as it is), with a later
Last-Modified.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import random
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import TypeGuard

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.testing.exchange.defects import CONTENT, Params, Value
from lakehouse_ray.testing.exchange.zip_defects import ZIP


@dataclass(frozen=True)
class Kind:
    """A fault by name: where it strikes and the parameters it takes, with their defaults."""

    stage: str
    defaults: Params


def _with(**defaults: Value) -> Params:
    return MappingProxyType(defaults)


_ANSWERS: Mapping[str, Params] = {
    "not_found": _with(),
    "denied": _with(status=403),
    "server_error": _with(status=503, retry_after_s=0),
    "throttled": _with(status=429, retry_after_s=1),
    "s3_error": _with(code="InternalError"),
    "html_page": _with(),
    "slow": _with(first_byte_s=0.0, bytes_per_s=0.0),
    "reset": _with(after_bytes=1000),
    "short_body": _with(keep=0.5),
    # Of REST alone: objects are answered as if there were no such rule.
    "restricted": _with(),
    "banned": _with(ban_s=120.0),
    "empty_body": _with(),
    "null_body": _with(),
    "empty_list": _with(),
    "cut_json": _with(keep=0.5),
    "repeated_rows": _with(rows=1),
    "shuffled_rows": _with(),
}
_MESSAGES: Mapping[str, Params] = {
    "message_duplicated": _with(copies=1),
    "message_late": _with(late_s=2.0),
    "messages_swapped": _with(),
    "messages_skipped": _with(messages=1),
    "message_malformed": _with(form="truncated"),
    "unknown_event": _with(),
    "stream_stops": _with(after=100),
}
_CONNECTIONS: Mapping[str, Params] = {
    "slow_start": _with(handshake_s=0.0, first_s=5.0),
    "connection_stalls": _with(after_s=10.0, for_s=0.0),
    "half_open": _with(after_s=10.0),
    "connection_cut": _with(after_s=10.0, how="abort"),
}
FAULTS: Mapping[str, Kind] = MappingProxyType(
    {name: Kind("answer", params) for name, params in _ANSWERS.items()}
    | {name: Kind("message", params) for name, params in _MESSAGES.items()}
    | {name: Kind("connection", params) for name, params in _CONNECTIONS.items()}
    | {"missing_checksum": Kind("checksum", _with()), "wrong_checksum": Kind("checksum", _with())}
    | {
        name: Kind(
            "zip", {**defect.defaults, "checksum": "fresh" if defect.fresh_checksum else "stale"}
        )
        for name, defect in ZIP.items()
    }
    | {
        name: Kind("content", {**defect.defaults, "checksum": "fresh"})
        for name, defect in CONTENT.items()
    }
    | {"republished": Kind("content", _with(first="", then="stale_values", after=1))}
)
_CHOICES: Mapping[str, tuple[Value, ...]] = {
    "checksum": ("fresh", "stale"),
    "claims": ("honest", "small"),
    "form": ("truncated", "not_json", "empty", "null", "untyped", "nested", "binary"),
    "how": ("abort", "close"),
    "first": ("", *CONTENT, *ZIP),
    "then": ("", *CONTENT, *ZIP),
}
_COMMON = ("match", "fault", "times", "probability")
FILE_BYTES_MAX = 2**20


@dataclass(frozen=True)
class Rule:
    """One fault on the keys that match.

    times: How often it shows per key; None: always.
    params: Only those that differ from the defaults need be given.
    """

    match: str
    fault: str
    times: int | None = None
    probability: float = 1.0
    params: Params = field(default_factory=dict)

    def __post_init__(self) -> None:
        kind = FAULTS.get(self.fault)
        if kind is None:
            raise _unknown("fault", self.fault, FAULTS)
        if not isinstance(self.match, str) or not self.match:
            raise InvalidError(f"'match' of {self.fault} is {self.match!r}: give a glob")
        if self.times is not None and not (_is_int(self.times) and self.times >= 0):
            raise InvalidError(f"'times' of {self.fault} is {self.times!r}: give 0 or more")
        if not (_is_number(self.probability) and 0 <= self.probability <= 1):
            raise InvalidError(
                f"'probability' of {self.fault} is {self.probability!r}: give 0 to 1"
            )
        for name, value in self.params.items():
            _check(self.fault, name, value, kind.defaults)
        object.__setattr__(self, "params", {**kind.defaults, **self.params})

    @property
    def stage(self) -> str:
        return FAULTS[self.fault].stage

    def matches(self, key: str) -> bool:
        return fnmatchcase(key, self.match)


@dataclass(frozen=True)
class Faults:
    """The rules in force, in order, and the seed of all chance in them."""

    rules: tuple[Rule, ...] = ()
    seed: int = 0

    @classmethod
    def load(cls, path: Path) -> Faults:
        """Read a fault file. Raises InvalidError, which names what is possible."""
        form = path.suffix.lower().removeprefix(".")
        if form not in ("json", "toml"):
            raise InvalidError(f"{path} is no fault file: its name must end in .json or .toml")
        try:
            with path.open("rb") as file:
                text = file.read(FILE_BYTES_MAX).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidError(f"the fault file {path} cannot be read: {error}") from error
        return cls.parse(text, form)

    @classmethod
    def parse(cls, text: str, form: str) -> Faults:
        """Read the text of a fault file; `form` is "json" or "toml"."""
        try:
            document = json.loads(text) if form == "json" else tomllib.loads(text)
        except ValueError as error:
            raise InvalidError(f"the faults are not valid {form.upper()}: {error}") from error
        if not isinstance(document, dict):
            raise InvalidError("the faults must be an object with 'rules' and 'seed'")
        for name in document:
            if name not in ("rules", "seed"):
                raise _unknown("entry of a fault file", name, ("rules", "seed"))
        seed, rules = document.get("seed", 0), document.get("rules", [])
        if not _is_int(seed):
            raise InvalidError(f"'seed' is {seed!r}: give an integer")
        if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
            raise InvalidError("'rules' must be a list of objects")
        return cls(tuple(_rule(rule) for rule in rules), seed)

    def draw(self, number: int, key: str, occasion: int = 0) -> random.Random:
        """The generator for rule `number` on `key`: the same in every process.

        occasion: The number of the request where chance is to differ from one to the next.
        """
        text = f"{self.seed}/{number}/{occasion}/{key}"
        return random.Random(hashlib.sha256(text.encode()).digest())


def _rule(raw: Mapping[str, object]) -> Rule:
    params = {name: value for name, value in raw.items() if name not in _COMMON}
    match, fault = raw.get("match"), raw.get("fault")
    if not isinstance(match, str) or not isinstance(fault, str):
        raise InvalidError(f"a rule needs 'match' and 'fault', both text: {dict(raw)!r}")
    times, probability = raw.get("times"), raw.get("probability", 1.0)
    # The types are checked where every rule is, in Rule itself.
    return Rule(match, fault, times, probability, params)  # type: ignore[arg-type]


def _check(fault: str, name: str, value: object, defaults: Params) -> None:
    if name not in defaults:
        raise _unknown(f"parameter of {fault}", name, (*defaults, "times", "probability"))
    default = defaults[name]
    if isinstance(default, str):
        fits = isinstance(value, str) and value in _CHOICES.get(name, (value,))
    elif isinstance(default, float):
        fits = _is_number(value) and value >= 0
    else:
        fits = _is_int(value) and value >= 0
    if not fits:
        wanted = " or ".join(repr(choice) for choice in _CHOICES.get(name, ()))
        kind = (
            wanted
            or {str: "text", float: "a number, 0 or more", int: "an integer, 0 or more"}[
                type(default)
            ]
        )
        raise InvalidError(f"{name!r} of {fault} is {value!r}: give {kind}")


def _unknown(what: str, name: str, known: Iterable[str]) -> InvalidError:
    possible = sorted(known)
    close = difflib.get_close_matches(name, possible, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return InvalidError(
        f"no such {what}: {name!r}{guess}", f"possible are: {', '.join(possible) or 'none'}"
    )


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
