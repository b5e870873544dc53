"""Tokens that are none, as whoever asks a cluster hears of them. No cluster is there: none is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lakehouse_ray.errors import DeniedError
from lakehouse_ray.runtime.dashboard_jobs import dashboard_at
from lakehouse_ray.runtime.session import connect

pytestmark = pytest.mark.integration

NOBODY = "127.0.0.1:1"


def join() -> None:
    with connect(NOBODY):
        raise AssertionError("nobody was there to be joined")


def ask_the_dashboard() -> None:
    with dashboard_at(NOBODY, 5.0):
        raise AssertionError("nobody was there to be asked")


@pytest.fixture(params=[join, ask_the_dashboard])
def ask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    # Another test of this process may be connected.
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    found: Callable[[], None] = request.param
    return found


@pytest.mark.parametrize("kind", ["missing", "empty", "folder"])
def test_a_file_without_a_token_is_named(
    ask: Callable[[], None], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    with pytest.raises(DeniedError, match="there is none") as found:
        ask()
    assert f"{path} (RAY_AUTH_TOKEN_PATH) is no file that can be read" in str(found.value)
    assert "a file that holds the cluster's token" in str(found.value)


def test_no_token_anywhere(
    ask: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DeniedError, match="RAY_AUTH_TOKEN_PATH is not set, and there is none in"):
        ask()


def test_a_variable_that_is_no_token_is_not_shown(
    ask: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "swordfish\nswordfish")
    with pytest.raises(DeniedError, match="RAY_AUTH_TOKEN holds something else") as found:
        ask()
    assert "swordfish" not in str(found.value)
