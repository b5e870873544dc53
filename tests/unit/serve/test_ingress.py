"""The proxy's configuration, as Ray writes it and as the proxy gets it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lakehouse_ray.serve import deploy

AS_RAY_WRITES_IT = """frontend prometheus
    bind :9101
frontend http_frontend
    bind {host}:8080
backend replicas
    server one 10.0.0.2:30000 check
listen stats
  bind *:8404
  stats enable
"""


@pytest.mark.parametrize(
    ("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "*"), ("10.1.2.3", "10.1.2.3")]
)
def test_only_the_front_is_where_it_was_asked_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, shown: str
) -> None:
    shows = tmp_path / "shows"
    shows.write_text('#!/bin/sh\ncat "$3"\n')
    shows.chmod(0o700)
    monkeypatch.setattr(deploy, "haproxy_binary", lambda: str(shows))
    told = deploy.ingress_environment(tmp_path, host, 8080)
    config = tmp_path / "haproxy.cfg"
    config.write_text(AS_RAY_WRITES_IT.format(host=shown))
    command = [told["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config)]
    got = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [line.strip() for line in got.splitlines() if "bind" in line]
    assert lines == ["bind 127.0.0.1:9101", f"bind {shown}:8080", "bind 127.0.0.1:8404"]
    assert "server one 10.0.0.2:30000 check" in got
    # What starts a job goes to one replica alone.
    rule = "http-request disable-l7-retry if METH_POST { path_beg /v1/jobs }"
    assert f"frontend http_frontend\n    {rule}\n    bind" in got
    # Ray lets it read its file again when it reloads.
    again = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert again == got


@pytest.mark.skipif(deploy.haproxy_binary() is None, reason="needs haproxy")
def test_the_rule_of_jobs_is_one_that_the_proxy_knows(tmp_path: Path) -> None:
    told = deploy.ingress_environment(tmp_path, "127.0.0.1", 8080)
    config = tmp_path / "haproxy.cfg"
    defaults = (
        "defaults\n  mode http\n  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\n"
    )
    front = AS_RAY_WRITES_IT.format(host="127.0.0.1") + "backend other\n"
    config.write_text(defaults + front.replace("frontend prometheus", "frontend metrics"))
    command = [told["RAY_SERVE_HAPROXY_BINARY_PATH"], "-c", "-f", str(config)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "disable-l7-retry" in config.read_text()


def test_without_a_proxy_rays_own_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy, "haproxy_binary", lambda: None)
    assert deploy.ingress_environment(tmp_path, "127.0.0.1", 8080) == {}
