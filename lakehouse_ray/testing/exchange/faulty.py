"""An archive seen through faults: altered objects whose listing, ETag and CHECKSUM agree."""

from __future__ import annotations

import hashlib
import random
import threading
import zipfile
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field, replace

from lakehouse_ray.clock import Clock
from lakehouse_ray.testing.exchange.archive import Archive, Blob, Head
from lakehouse_ray.testing.exchange.faults import FAULTS, Faults, Rule
from lakehouse_ray.testing.exchange.keys import ArchiveKey
from lakehouse_ray.testing.exchange.zip_defects import alter

CHECKSUM = ".CHECKSUM"
_OF_OBJECTS = ("zip", "content", "checksum")
# Heads of altered objects that are remembered, so that a listing does not alter them anew.
HEADS_MAX = 100_000


@dataclass
class _State:
    """The rules in force and what they have counted."""

    faults: Faults
    since_s: int
    generation: int = 0
    answers: Counter[tuple[int, str]] = field(default_factory=Counter)
    delivered: Counter[str] = field(default_factory=Counter)
    switched_s: dict[tuple[int, str], int] = field(default_factory=dict)
    heads: dict[str, tuple[Hashable, Head]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Change:
    """What one rule does to one object now: the defect, and whether it came later."""

    number: int
    rule: Rule
    defect: str
    modified_s: int | None = None


class FaultyArchive:
    """Shows `inner` as the rules of `faults` say."""

    def __init__(self, inner: Archive, faults: Faults, clock: Clock) -> None:
        self._inner = inner
        self._clock = clock
        self._lock = threading.Lock()
        self._state = _State(faults, self._now_s())

    def set_faults(self, faults: Faults) -> None:
        with self._lock:
            self._state = _State(faults, self._now_s(), self._state.generation + 1)

    def republish(self, match: str, then: str) -> None:
        rule = Rule(match, "republished", params={"then": then, "after": 0})
        with self._lock:
            state = self._state
            number = len(state.faults.rules)
            state.faults = replace(state.faults, rules=(*state.faults.rules, rule))
            # Keyed by "" for every object: the moment is that of the call.
            state.switched_s[number, ""] = self._now_s()

    def answer_rule(self, key: str, asked: str = "") -> Rule | None:
        """Count a request for `key` and give the fault its answer is to have.

        asked: A longer name of the request that rules may match too; counted it is as `key`.
        """
        state = self._state
        for number, rule in enumerate(state.faults.rules):
            fits = rule.matches(key) or (asked != "" and rule.matches(asked))
            if rule.stage != "answer" or not fits:
                continue
            with self._lock:
                seen = state.answers[number, key]
                state.answers[number, key] += 1
            if rule.times is not None and seen >= rule.times:
                continue
            if state.faults.draw(number, key, seen).random() < rule.probability:
                return rule
        return None

    def chance(self, key: str, occasion: int) -> random.Random:
        """What a fault of an answer may draw from: of the seed, the key and the occasion."""
        return self._state.faults.draw(-1, key, occasion)

    def delivered(self, key: str) -> None:
        """Note that an object was asked for: a zip may be switched to its next version by it."""
        state = self._state
        if not state.faults.rules or key.endswith(CHECKSUM):
            return
        with self._lock:
            state.delivered[key] += 1
            for number, rule in enumerate(state.faults.rules):
                due = rule.fault == "republished" and state.delivered[key] == rule.params["after"]
                if due and rule.matches(key):
                    state.switched_s[number, key] = self._now_s()

    def children(self, folder: str) -> list[str]:
        names = self._inner.children(folder)
        if not any(rule.fault == "missing_checksum" for rule in self._state.faults.rules):
            return names
        return [
            name
            for name in names
            if not name.endswith(CHECKSUM) or self.version(folder + name) is not None
        ]

    def inhabited(self, folder: str) -> bool:
        return self._inner.inhabited(folder)

    def version(self, key: str) -> Hashable | None:
        inner = self._inner.version(key)
        state = self._state
        if inner is None or not state.faults.rules:
            return inner
        changes = self._changes(state, key)
        if not changes:
            return inner
        if any(change.defect == "missing_checksum" for change in changes):
            return None
        zip_version = self._inner.version(key.removesuffix(CHECKSUM))
        done = tuple((change.number, change.defect) for change in changes)
        return (inner, zip_version, state.generation, done)

    def head(self, key: str) -> Head | None:
        state = self._state
        if not state.faults.rules or not self._changes(state, key):
            return self._inner.head(key)
        version = self.version(key)
        known = state.heads.get(key)
        if known is not None and known[0] == version:
            return known[1]
        blob = self.read(key)
        if blob is None:
            return None
        if len(state.heads) < HEADS_MAX:
            state.heads[key] = (version, blob.head)
        return blob.head

    def read(self, key: str) -> Blob | None:
        state = self._state
        blob = self._inner.read(key)
        changes = self._changes(state, key) if state.faults.rules and blob is not None else []
        if blob is None or not changes:
            return blob
        if any(change.defect == "missing_checksum" for change in changes):
            return None
        if key.endswith(CHECKSUM):
            body = self._checksum(state, key, blob.bytes(), changes)
        else:
            body = self._altered(state, key, blob.bytes(), changes)
        modified = blob.head.modified_s
        for change in changes:
            if change.modified_s is not None:
                # Never before or at the version it replaces, whatever the clock of the files says.
                modified = max(modified + 1, change.modified_s)
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        return Blob(Head(len(body), etag, modified), body)

    def _changes(self, state: _State, key: str) -> list[_Change]:
        """What is done to `key` now; of a CHECKSUM, what is done to it and to its zip."""
        name = key.removesuffix(CHECKSUM)
        if not name.endswith(".zip"):
            return []
        changes = []
        for number, rule in enumerate(state.faults.rules):
            if rule.stage not in _OF_OBJECTS or (rule.stage == "checksum" and name == key):
                continue
            if rule.matches(name) and self._applies(state, number, rule, name):
                change = self._change(state, number, rule, name)
                if change is not None:
                    changes.append(change)
        return changes

    def _applies(self, state: _State, number: int, rule: Rule, name: str) -> bool:
        if rule.times is not None and state.delivered[name] >= rule.times:
            return False
        return rule.probability >= 1 or state.faults.draw(number, name).random() < rule.probability

    def _change(self, state: _State, number: int, rule: Rule, name: str) -> _Change | None:
        if rule.fault != "republished":
            return _Change(number, rule, rule.fault)
        if state.delivered[name] < int(rule.params["after"]):
            first = str(rule.params["first"])
            return _Change(number, rule, first) if first else None
        moment = state.switched_s.get((number, name)) or state.switched_s.get((number, ""))
        return _Change(number, rule, str(rule.params["then"]), moment or state.since_s)

    def _altered(self, state: _State, name: str, body: bytes, changes: list[_Change]) -> bytes:
        key = ArchiveKey.parse(name)
        for change in changes:
            if key is None or change.rule.stage == "checksum" or not change.defect:
                continue
            if change.rule.fault == "republished":
                params = FAULTS[change.defect].defaults
            else:
                params = change.rule.params
            rng = state.faults.draw(change.number, f"{name}#{change.defect}")
            try:
                body = alter(change.defect, key, body, params, rng)
            except (zipfile.BadZipFile, IndexError):
                # No zip to begin with, or none any more after the rule before: bad enough.
                continue
        return body

    def _checksum(self, state: _State, key: str, published: bytes, changes: list[_Change]) -> bytes:
        name = key.removesuffix(CHECKSUM)
        fresh = [c for c in changes if c.rule.params.get("checksum", "fresh") == "fresh"]
        zip_changes = [c for c in fresh if c.rule.stage != "checksum" and c.defect]
        text = published
        if zip_changes:
            inner = self._inner.read(name)
            if inner is not None:
                altered = self._altered(state, name, inner.bytes(), zip_changes)
                digest = hashlib.sha256(altered).hexdigest()
                text = f"{digest}  {name.rpartition('/')[2]}\n".encode()
        if any(change.defect == "wrong_checksum" for change in changes):
            published_digest, space, rest = text.partition(b" ")
            text = hashlib.sha256(published_digest).hexdigest().encode() + space + rest
        return text

    def _now_s(self) -> int:
        return self._clock.now_us() // 1_000_000
