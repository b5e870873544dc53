"""The service as a configuration of Ray Serve, and settings as another process gets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lakehouse_ray.errors import DeniedError, InvalidError
from lakehouse_ray.serve.configuration import IMPORT_PATH, serve_config
from lakehouse_ray.serve.server import check_address
from lakehouse_ray.settings import Settings, load_settings, secrets_of, spell_environment

CANARY = "c4n4ry"
GIVEN: dict[str, Any] = {
    "home": "/srv/lake",
    "binance": {"archive_url": "http://127.0.0.1:9"},
    "storage": {"root": "s3://bucket/x", "s3": {"region": "eu", "secret_access_key": CANARY}},
    "compute": {"small": [2, 3], "local_bytes_max": 0},
    "quality": {"threshold": 0.5},
    "alerts": {"webhook_url": f"https://hook/{CANARY}", "webhook_token": CANARY},
    "telemetry": {"pushgateway_url": f"http://me:{CANARY}@gate:9091"},
    "serve": {"jobs": True, "replicas_max": 7, "require_keys": False},
}


@pytest.fixture(autouse=True)
def _no_settings_of_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def settings(given: dict[str, Any] | None = None) -> Settings:
    return load_settings(GIVEN if given is None else given).resolved()


def test_another_process_gets_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    told = spell_environment(settings(), secrets=True)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings()


def test_what_is_shown_has_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    told = spell_environment(settings(), secrets=False)
    assert CANARY not in str(told)
    assert told["LAKEHOUSE_STORAGE__ROOT"] == "s3://bucket/x"
    assert set(secrets_of(settings())) == {CANARY, f"https://hook/{CANARY}"}
    with_redis = settings({"serve": {"redis_url": f"redis://me:{CANARY}@cache/0"}})
    assert CANARY in secrets_of(with_redis)
    assert CANARY not in json.dumps(serve_config(with_redis))
    assert CANARY not in json.dumps(serve_config(settings()))


def test_a_relative_folder_is_told_whole(tmp_path: Path) -> None:
    told = spell_environment(settings({"storage": {"root": "data"}}), secrets=False)
    assert told["LAKEHOUSE_STORAGE__ROOT"] == str(tmp_path / "data")
    assert told["LAKEHOUSE_HOME"] == str(tmp_path / ".lakehouse")


def test_a_configuration_says_what_is_no_default() -> None:
    document = serve_config(settings({"home": "/srv/lake", "serve": {"jobs": True, "port": 1234}}))
    assert document["http_options"] == {"host": "127.0.0.1", "port": 1234}
    (application,) = document["applications"]
    assert application["import_path"] == IMPORT_PATH
    assert application["args"] == {"home": "/srv/lake", "serve": {"jobs": True}}
    # And is read back as the same.
    again = load_settings(serve_config(settings())["applications"][0]["args"])
    assert again.compute == settings().compute
    assert again.quality == settings().quality


def test_jobs_and_a_password_in_the_catalogs_address_exclude_each_other() -> None:
    catalog = {"uri": f"postgresql://lake:{CANARY}@db/lake"}
    check_address(settings({"catalog": catalog}))
    with pytest.raises(InvalidError) as caught:
        check_address(settings({"catalog": catalog, "serve": {"jobs": True}}))
    assert CANARY not in str(caught.value)
    check_address(
        settings({"catalog": {"uri": "postgresql://lake@db/lake"}, "serve": {"jobs": True}})
    )


def test_any_other_address_needs_a_key_that_holds() -> None:
    with pytest.raises(DeniedError):
        check_address(settings({"serve": {"host": "0.0.0.0"}}))
