"""API keys: a file of their hashes, made, listed and revoked by who may write it.

A key is `lk_<id>_<secret>_<checksum>`. The secret has 256 random bits, so one round of SHA-256 is
as good as any slow hash, and cannot be made to cost the server time. The checksum tells a key that
was copied badly from one that does not hold; tools that look for leaked secrets find both.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from lakehouse_ray.clock import Clock
from lakehouse_ray.errors import DeniedError, InvalidError, LakehouseError, NotFoundError
from lakehouse_ray.model.timespan import DAY_US

_log = structlog.get_logger()

VERSION = 1
# What a key may be allowed beyond questions.
PERMISSIONS = ("jobs",)
_ID = re.compile(r"[a-z2-7]{10}", re.ASCII)
_KEY = re.compile(r"lk_([a-z2-7]{10})_([A-Za-z0-9_-]{43})_([0-9a-f]{8})", re.ASCII)
_ID_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
_ID_LENGTH = 10
_SECRET_BYTES = 32
_NAME_LENGTH_MAX = 80
# Compared with where no key has the id, so that it takes as long.
_NOBODY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Key:
    """What the file has of a key. Times in microseconds; None: never.

    name: Whose it is, in words. may: What it allows beyond questions, of `PERMISSIONS`.
    """

    id: str
    name: str
    sha256: str
    created_us: int
    expires_us: int | None = None
    revoked_us: int | None = None
    may: tuple[str, ...] = ()

    def state(self, now_us: int) -> str:
        if self.revoked_us is not None:
            return "revoked"
        if self.expires_us is not None and self.expires_us <= now_us:
            return "expired"
        return "active"


@dataclass(frozen=True)
class Holder:
    """Whose a key is, by its id, and what it allows beyond questions."""

    id: str
    may: tuple[str, ...] = ()


class KeyFile:
    """The file of keys. Every change is whole or not at all, whoever else changes it meanwhile."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock

    def all(self) -> Sequence[Key]:
        """All keys, the oldest first. Raises DeniedError where others may read the file."""
        return read_keys(self._path)

    def create(self, name: str, days: int | None, may: Iterable[str] = ()) -> tuple[Key, str]:
        """Make a key. Returns what the file has of it, and the key itself, which nothing keeps.

        days: Until it expires; None: never. may: What it allows beyond questions.
        """
        allowed = tuple(sorted(set(may)))
        unknown = [one for one in allowed if one not in PERMISSIONS]
        if unknown:
            raise InvalidError(
                f"no key may be allowed {', '.join(map(repr, unknown))}",
                f"only {', '.join(PERMISSIONS)}",
            )
        if not name.strip() or len(name) > _NAME_LENGTH_MAX or not name.isprintable():
            raise InvalidError(
                "a key needs a name that can be printed", f"up to {_NAME_LENGTH_MAX} letters"
            )
        if days is not None and not 1 <= days <= 3650:
            raise InvalidError("a key holds for 1 to 3,650 days", "--days 90")
        key_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH))
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        now_us = self._clock.now_us()
        expires_us = None if days is None else now_us + days * DAY_US
        made = Key(key_id, name.strip(), _hash(secret), now_us, expires_us, may=allowed)
        with self._changing() as keys:
            keys.append(made)
        return made, spell_key(key_id, secret)

    def revoke(self, key_id: str) -> Key:
        """Make a key hold no more; one that was revoked stays as it is."""
        with self._changing() as keys:
            place = next((place for place, key in enumerate(keys) if key.id == key_id), None)
            if place is None:
                raise NotFoundError(
                    f"there is no key {key_id!r}", "`lakehouse keys list` has their ids"
                )
            if keys[place].revoked_us is None:
                keys[place] = replace(keys[place], revoked_us=self._clock.now_us())
            return keys[place]

    @contextmanager
    def _changing(self) -> Iterator[list[Key]]:
        """All keys, to be changed in place; written when the block ends without an error."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(
            self._path.with_name(f".{self._path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600
        )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = list(read_keys(self._path))
            yield keys
            _write(self._path, keys)
        finally:
            os.close(lock)


def spell_key(key_id: str, secret: str) -> str:
    return f"lk_{key_id}_{secret}_{_checksum(key_id, secret)}"


def parse_key(text: str) -> tuple[str, str] | None:
    """The id and the secret of a key; None for what cannot be one."""
    match = _KEY.fullmatch(text)
    if match is None or _checksum(match[1], match[2]) != match[3]:
        return None
    return match[1], match[2]


def _checksum(key_id: str, secret: str) -> str:
    return f"{zlib.crc32(f'{key_id}_{secret}'.encode()):08x}"


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def read_keys(path: Path) -> Sequence[Key]:
    """The keys in a file; none where there is none.

    Raises DeniedError where others than its owner may read or write it, InvalidError where it is no
    file of keys.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise DeniedError(f"the file of keys {path} cannot be read: {error}") from error
    if mode & 0o077:
        raise DeniedError(
            f"the file of keys {path} is open to others (mode {mode:03o}): chmod 600 {path}"
        )
    try:
        document: Any = json.loads(data)
        if document["v"] != VERSION:
            raise InvalidError(f"{path} is of another release", "upgrade this one")
        keys = [_key_of(one) for one in document["keys"]]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, LakehouseError):
            raise
        raise InvalidError(
            f"{path} is no file of keys",
            "bring it back from a backup, or remove it and make new ones",
        ) from error
    return keys


def _key_of(fields: dict[str, Any]) -> Key:
    key = Key(**{**fields, "may": tuple(fields.get("may", ()))})
    whole = (key.created_us, key.expires_us, key.revoked_us)
    if not (
        _ID.fullmatch(key.id)
        and re.fullmatch(r"[0-9a-f]{64}", key.sha256)
        and isinstance(key.name, str)
        and all(isinstance(one, str) for one in key.may)
        and all(value is None or type(value) is int for value in whole)
    ):
        raise ValueError(f"key {key.id!r}")
    return key


def _spelled(key: Key) -> dict[str, Any]:
    """A key without a permission is spelled as ever, so that an older release reads it."""
    fields = asdict(key)
    return fields if key.may else {k: v for k, v in fields.items() if k != "may"}


def _write(path: Path, keys: Sequence[Key]) -> None:
    """Put a whole new file in the place of the old one, on disk before it is seen."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    document = {"v": VERSION, "keys": [_spelled(key) for key in keys]}
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


class KeyRing:
    """The keys of a file as a server asks for them: a change counts from the next request on."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._keys: dict[str, Key] = {}

    def holder(self, key: str) -> Holder | None:
        """Who has a key that holds now, or None. Where the file cannot be read, no key holds."""
        parsed = parse_key(key)
        key_id, secret = parsed or ("", "")
        known = self._current().get(key_id)
        same = hmac.compare_digest(_hash(secret), known.sha256 if known is not None else _NOBODY)
        if parsed is None or known is None or not same:
            return None
        if known.state(self._clock.now_us()) != "active":
            return None
        return Holder(known.id, known.may)

    def _current(self) -> dict[str, Key]:
        with self._lock:
            try:
                now = self._path.stat()
                seen = (now.st_ino, now.st_mtime_ns, now.st_size)
                if seen != self._seen:
                    self._keys = {key.id: key for key in read_keys(self._path)}
                    self._seen = seen
            except (OSError, LakehouseError) as error:
                if self._seen is not None or self._keys:
                    _log.error("no key holds: the file of keys cannot be read", reason=str(error))
                self._seen, self._keys = None, {}
            return self._keys
