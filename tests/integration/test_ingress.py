"""What the proxy in front of the service answers by itself."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import pytest
from support.served import Reply, Served

from lakehouse_ray.serve import deploy


@pytest.mark.skipif(deploy.haproxy_binary() is None, reason="needs haproxy")
def test_where_nobody_is_there_to_answer_it_says_so_as_the_service_would(tmp_path: Path) -> None:
    """Both where no application is known yet, and where none of its processes answers."""
    told = deploy.ingress_environment(tmp_path, "127.0.0.1", 8080)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    config = tmp_path / "haproxy.cfg"
    config.write_text(f"""defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
    errorfile 502 {tmp_path}/500.http
    errorfile 503 {tmp_path}/500.http
frontend http_frontend
    bind 127.0.0.1:{port}
    use_backend gone if {{ path_beg /v1 }}
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path '%[path]' not found. Ping http://.../-/routes for available routes."
backend gone
    server one 127.0.0.1:1
""")
    command = [told["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as proxy:
        try:
            for path in ("/health", "/v1/klines"):
                reply = asked(proxy, f"http://127.0.0.1:{port}{path}")
                assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
                assert reply.headers["Content-Type"] == "application/problem+json"
                assert reply.json["code"] == "unavailable"
                assert reply.json["hint"]
        finally:
            proxy.kill()


def asked(proxy: subprocess.Popen[bytes], url: str) -> Reply:
    """Ask a proxy that has just begun."""
    until = time.monotonic() + 20
    while True:
        try:
            return Served(url).get("")
        except OSError:
            assert proxy.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
