"""How a capture ends that never had a connection, and one that had and lost it."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from support.captured import captured
from support.forked import popen
from support.streamed import ended, wait_for

pytestmark = pytest.mark.integration
OPTIONS = ("--market", "um", "--symbols", "BTCUSDT", "--streams", "aggTrade")


def test_a_capture_that_never_connects_fails_and_says_why(tmp_path: Path) -> None:
    with socket.socket() as taken:
        # Bound but not listening: whoever connects is refused.
        taken.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{taken.getsockname()[1]}/fapi"
        environment = {
            **os.environ,
            "LAKEHOUSE_HOME": str(tmp_path),
            "LAKEHOUSE_BINANCE__UM_STREAM_URL": url,
            "LAKEHOUSE_STREAM__CONNECT_SPACING_S": "0.1",
        }
        process = popen(
            "stream", *OPTIONS, "--duration", "8s", "--json", env=environment, stdout=-1,
            stderr=-1, text=True,
        )  # fmt: skip
        out, err = process.communicate(timeout=120)
    assert process.returncode == 7, err
    error = json.loads(out)["error"]
    assert error["code"] == 7
    assert error["title"] == "UnavailableError"
    for said in (url, "ClientConnectorError", "Nothing was received", "lakehouse config show"):
        assert said in error["detail"], (said, error)
    assert "Traceback" not in err


def test_a_capture_that_loses_its_connection_for_good_ends_as_others_do(tmp_path: Path) -> None:
    with captured() as exchange:
        process = exchange.run(tmp_path, "stream", *OPTIONS, "--duration", "15s")
        wait_for(lambda: exchange.exchange.streams.state()["opened"] > 0, "a connection")
        exchange.play(5.0, 5.0)
    report = ended(process, 0)
    assert report["opened"] == 1
    assert report["failed"] > 0
    assert report["rows"]["aggTrades"] > 0
