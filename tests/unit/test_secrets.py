"""Settings that are secrets: not in errors, not in what is printed."""

from __future__ import annotations

import json
import traceback
from pathlib import Path

import pytest
from pydantic import SecretStr

from lakehouse_ray.cli.app import dispatch
from lakehouse_ray.errors import InvalidError
from lakehouse_ray.serve.server import app_of
from lakehouse_ray.settings import load_settings

CANARY = "c4n4ry"
SECRETS = ("webhook_url", "webhook_secret", "webhook_token")


@pytest.mark.parametrize(
    "url",
    [
        f"ftp://{CANARY}.example/{CANARY}",
        f"https:///{CANARY}",
        f"https://h:99999/{CANARY}",
        f"https://[{CANARY}/x",
        f"https://h/ {CANARY}",
        f"{CANARY}",
    ],
)
def test_a_url_that_cannot_be_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(InvalidError) as caught:
        load_settings({"alerts": {"webhook_url": url}})
    assert "webhook_url" in str(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("url", [f"http://{CANARY}", CANARY, f"redis://h:{CANARY}/0"])
def test_a_redis_that_cannot_be_asked_is_refused_without_being_repeated(
    url: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidError) as caught:
        app_of(load_settings({"home": tmp_path, "serve": {"redis_url": url}}).resolved())
    assert "redis_url" in str(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("name", ["webhook_secret", "webhook_token"])
def test_a_secret_that_would_break_a_header_is_refused_without_being_repeated(name: str) -> None:
    with pytest.raises(InvalidError) as caught:
        load_settings({"alerts": {name: f"{CANARY}\r\nX-Evil: 1"}})
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_config_show_has_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAKEHOUSE_ALERTS__WEBHOOK_URL", f"https://hooks.example/{CANARY}")
    monkeypatch.setenv("LAKEHOUSE_ALERTS__WEBHOOK_SECRET", CANARY)
    monkeypatch.setenv("LAKEHOUSE_ALERTS__WEBHOOK_TOKEN", CANARY)
    monkeypatch.setenv("LAKEHOUSE_SERVE__REDIS_URL", f"redis://:{CANARY}@redis:6379/0")
    monkeypatch.setenv("LAKEHOUSE_TELEMETRY__PUSHGATEWAY_URL", f"http://user:{CANARY}@gate:9091")
    for arguments in (["config", "show"], ["config", "show", "--json"]):
        assert dispatch(arguments) == 0
        said = capsys.readouterr()
        assert CANARY not in said.out + said.err
    shown = {row["name"]: row["value"] for row in json.loads(said.out)["settings"]}
    assert {shown[f"alerts.{name}"] for name in SECRETS} == {"**********"}
    assert shown["serve.redis_url"] == "**********"
    assert CANARY not in repr(load_settings())


def test_every_setting_that_may_hold_a_secret_is_one() -> None:
    alerts = load_settings().alerts
    assert all(isinstance(getattr(alerts, name), SecretStr) for name in SECRETS)
    assert isinstance(load_settings().serve.redis_url, SecretStr)


def test_a_metrics_file_that_nobody_would_read_is_refused() -> None:
    with pytest.raises(InvalidError):
        load_settings({"telemetry": {"textfile": "/tmp/metrics.txt"}})
