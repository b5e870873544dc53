"""API keys: what the file keeps, what holds, and that nothing of a key is found in it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.access.keys import Holder, KeyFile, KeyRing, parse_key, spell_key
from lakehouse_ray.errors import DeniedError, InvalidError, NotFoundError

DAY_US = 86_400_000_000


@dataclass
class Hand:
    """A clock that is set."""

    us: int = 1_700_000_000_000_000

    def now_us(self) -> int:
        return self.us

    def monotonic_s(self) -> float:
        return self.us / 1e6

    def sleep(self, seconds: float) -> None:
        self.us += round(seconds * 1e6)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lake" / "keys.json"


def test_a_key_holds_until_it_is_revoked(path: Path) -> None:
    clock = Hand()
    file, ring = KeyFile(path, clock), KeyRing(path, clock)
    made, key = file.create("notebook", 90)
    other, second = file.create("desk", None)
    assert (ring.holder(key), ring.holder(second)) == (Holder(made.id), Holder(other.id))
    file.revoke(made.id)
    assert (ring.holder(key), ring.holder(second)) == (None, Holder(other.id))
    assert [one.state(clock.us) for one in file.all()] == ["revoked", "active"]
    revoked = file.revoke(made.id)
    clock.us += 5
    assert file.revoke(made.id) == revoked


def test_a_key_holds_until_it_expires(path: Path) -> None:
    clock = Hand()
    _, key = KeyFile(path, clock).create("notebook", 2)
    ring = KeyRing(path, clock)
    clock.us += 2 * DAY_US - 1
    assert ring.holder(key)
    clock.us += 1
    assert ring.holder(key) is None


def test_a_key_may_submit_jobs_where_it_was_made_to(path: Path) -> None:
    file, ring = KeyFile(path, Hand()), KeyRing(path, Hand())
    _, reads = file.create("notebook", 90)
    made, runs = file.create("desk", 90, ["jobs", "jobs"])
    assert (ring.holder(reads).may, ring.holder(runs).may) == ((), ("jobs",))  # type: ignore[union-attr]
    # As a release without permissions spells one, and reads one.
    kept = json.loads(path.read_text())["keys"]
    assert "may" not in kept[0]
    file.revoke(made.id)
    assert [key.may for key in file.all()] == [(), ("jobs",)]
    for wrong in (["root"], ["jobs", ""], ["Jobs"]):
        with pytest.raises(InvalidError):
            file.create("desk", 90, wrong)


def test_the_file_has_no_secret_and_is_the_owners_alone(path: Path) -> None:
    _, key = KeyFile(path, Hand()).create("notebook", 90)
    parsed = parse_key(key)
    assert parsed is not None
    assert parsed[1] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir() if p.name.endswith(".part")] == []


def test_no_other_key_holds(path: Path) -> None:
    clock = Hand()
    file, ring = KeyFile(path, clock), KeyRing(path, clock)
    made, key = file.create("a", 90)
    other, second = file.create("b", 90)
    _, secret = parse_key(second) or ("", "")
    swapped = spell_key(made.id, secret)
    assert parse_key(swapped)
    for wrong in (swapped, "", "lk_", key[:-1], key + "0", key.upper(), f" {key}", "é", "\0"):
        assert ring.holder(wrong) is None
    assert other.id != made.id


@given(st.text(max_size=80))
def test_any_text_is_no_key(text: str) -> None:
    assert parse_key(text) is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_may_read_is_refused(path: Path, mode: int) -> None:
    clock = Hand()
    _, key = KeyFile(path, clock).create("a", 90)
    path.chmod(mode)
    with pytest.raises(DeniedError, match="chmod 600"):
        KeyFile(path, clock).all()
    assert KeyRing(path, clock).holder(key) is None


def test_a_damaged_file_lets_nobody_in(path: Path) -> None:
    clock = Hand()
    _, key = KeyFile(path, clock).create("a", 90)
    ring = KeyRing(path, clock)
    assert ring.holder(key)
    whole = path.read_text()
    document = json.loads(whole)
    unnamed = {**document, "keys": [{"id": "x"}]}
    odd = {**document, "keys": [{**document["keys"][0], "expires_us": "never"}]}
    for bad in (whole[:40], "", "[]", json.dumps(unnamed), json.dumps(odd), '{"v": 2}'):
        path.write_text(bad)
        assert ring.holder(key) is None
        with pytest.raises(InvalidError):
            KeyFile(path, clock).create("b", 90)
        assert path.read_text() == bad  # what cannot be read is not written over
    path.write_text(whole)
    assert ring.holder(key)
    path.unlink()
    assert ring.holder(key) is None


def test_keys_made_at_once_are_all_kept(path: Path) -> None:
    """By several processes too: the lock is the file system's."""
    script = (
        "import sys; from pathlib import Path; from lakehouse_ray.access.keys import KeyFile;"
        "from lakehouse_ray.clock import SystemClock;"
        "[KeyFile(Path(sys.argv[1]), SystemClock()).create('p', 1) for _ in range(5)]"
    )
    other = subprocess.Popen([sys.executable, "-c", script, str(path)], env=dict(os.environ))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: KeyFile(path, Hand()).create(f"t{n}", 1), range(20)))
    assert other.wait() == 0
    ids = [key.id for key in KeyFile(path, Hand()).all()]
    assert len(set(ids)) == 25


@pytest.mark.parametrize(
    ("name", "days"), [("", 1), ("a\nb", 1), ("x" * 81, 1), ("a", 0), ("a", 9999)]
)
def test_what_cannot_be_is_refused(path: Path, name: str, days: int) -> None:
    with pytest.raises(InvalidError):
        KeyFile(path, Hand()).create(name, days)
    with pytest.raises(NotFoundError):
        KeyFile(path, Hand()).revoke("nobody")
