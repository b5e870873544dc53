"""What a process says: every line an event where events are asked for, with ids, without secrets."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.telemetry import logs
from lakehouse_ray.telemetry.logs import at_work, configure

SECRET = "s3cret-of-the-settings"


@contextmanager
def said() -> Iterator[io.StringIO]:
    """What goes to stderr; logs are as before afterwards."""
    root = logging.getLogger()
    handlers, level, config = root.handlers[:], root.level, structlog.get_config()
    root.handlers[:] = []
    try:
        with redirect_stderr(io.StringIO()) as stream:
            yield stream
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.configure(**config)
        logs._ids.clear()


def events(text: str) -> list[dict[str, Any]]:
    """Every line of it must be one."""
    found = [json.loads(line) for line in text.splitlines()]
    assert all(
        isinstance(one, dict) and {"event", "level", "timestamp"} <= one.keys() for one in found
    )
    return found


def test_every_line_is_an_event_whoever_writes_it() -> None:
    with said() as stream:
        configure("info", "json")
        structlog.get_logger("lake").info("bound\nin two", rows=3, at=Path("/x"), kinds={"a"})
        logging.getLogger("pyiceberg").warning("of %s", "a library")
        print("12 of 40 files, 3 rows", file=sys.stderr)
        sys.stderr.write("error: no room\nhint: make some\nwarning: it is late\n\n  \nbegun, ")
        sys.stderr.write("ended\n")
        try:
            raise ValueError("wrong\nin two lines")
        except ValueError as error:
            structlog.get_logger().exception("failed")
            traceback.print_exception(error)
    found = events(stream.getvalue())
    by_text = {one["event"]: one for one in found}
    assert (by_text["bound\nin two"]["rows"], by_text["bound\nin two"]["logger"]) == (3, "lake")
    assert (by_text["of a library"]["level"], by_text["of a library"]["logger"]) == (
        "warning", "pyiceberg",
    )  # fmt: skip
    assert by_text["12 of 40 files, 3 rows"]["logger"] == "stderr"
    levels = [by_text[one]["level"] for one in ("error: no room", "hint: make some", "warning: it is late")]  # fmt: skip
    assert levels == ["error", "info", "warning"]
    assert "begun, ended" in by_text
    assert "ValueError: wrong" in by_text["failed"]["exception"]
    assert "Traceback (most recent call last):" in by_text


def test_events_have_the_ids_of_process_and_work_in_whatever_thread() -> None:
    with said() as stream:
        configure("info", "json", ids={"run_id": "r1"})
        configure("info", "json", ids={"job": "j1"})  # as a worker in the driver's process does
        log = structlog.get_logger()
        thread = threading.Thread(target=lambda: log.info("elsewhere"))
        with at_work("unit", unit="u1"):
            thread.start()
            thread.join()
            log.info("here", run_id="its own")
        with contextlib.suppress(KeyError), at_work("unit", unit="u2"):
            raise KeyError("x")
        log.info("after")
    found = events(stream.getvalue())
    told = [(one["event"], one["run_id"], one["job"], one.get("unit")) for one in found]
    assert told == [
        ("unit started", "r1", "j1", "u1"), ("elsewhere", "r1", "j1", None),
        ("here", "its own", "j1", "u1"), ("unit ended", "r1", "j1", "u1"),
        ("unit started", "r1", "j1", "u2"), ("unit failed", "r1", "j1", "u2"),
        ("after", "r1", "j1", None),
    ]  # fmt: skip
    assert found[5]["error"] == "KeyError: 'x'"
    assert found[3]["seconds"] >= 0


@pytest.mark.parametrize("style", ["json", "text"])
def test_no_secret_is_told(style: Any, tmp_path: Path) -> None:
    with said() as stream:
        configure("debug", style, str(tmp_path / "log"), secrets=[SECRET])
        log = structlog.get_logger()
        log.info(
            SECRET, url=f"https://x:{SECRET}@y", deep={"a": [("b", SECRET)]}, raw=SECRET.encode()
        )
        log.info("seen", header="Bearer abcdefghijklmnop", error=ValueError(SECRET))
        logging.getLogger("other").error("asked with %s", SECRET)
        if style == "json":
            print(f"error: {SECRET} is refused", file=sys.stderr)
        try:
            raise ValueError(SECRET)
        except ValueError:
            log.exception("failed")
    for text in (stream.getvalue(), (tmp_path / "log").read_text()):
        assert SECRET not in text
        assert "abcdefghijklmnop" not in text
        assert "***" in text


def test_text_is_for_people_and_the_file_for_machines(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "lake.jsonl"
    with said() as stream:
        configure("warning", "text", str(file))
        log = structlog.get_logger()
        log.info("not told")
        log.warning("told", rows=3)
        print("12 of 40 files", file=sys.stderr)
    assert "told" in stream.getvalue()
    assert "rows=3" in stream.getvalue()
    assert stream.getvalue().endswith("12 of 40 files\n")  # progress is no event of the file
    assert [(one["event"], one["rows"]) for one in events(file.read_text())] == [("told", 3)]
    assert file.stat().st_mode & 0o077 == 0
    with said():
        configure("info", "text", str(file))
        structlog.get_logger().info("later")
    assert [one["event"] for one in events(file.read_text())] == ["told", "later"]


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with said(), pytest.raises(InvalidError, match=r"log\.file"):
        configure("info", "text", str(tmp_path / "file" / "log"))


@given(st.lists(st.text(), max_size=5), st.text())
def test_whatever_is_written_is_lines_of_events(parts: list[str], value: str) -> None:
    with said() as stream:
        configure("debug", "json")
        structlog.get_logger().info(value, value=value)
        for part in parts:
            sys.stderr.write(part)
        sys.stderr.close()
    found = [json.loads(line) for line in stream.getvalue().split("\n")[:-1]]
    assert found[0]["event"] is not None
    whole = [line.strip() for line in "".join(parts).split("\n")]
    assert len(found) == 1 + sum(1 for line in whole if line)


WITH_A_BAR = """
import time
import structlog
from rich.console import Console
from rich.progress import Progress
from lakehouse_ray.telemetry.logs import configure

configure("info", "text")
with Progress(console=Console(stderr=True), refresh_per_second=50) as bar:
    bar.add_task("reading", total=10)
    time.sleep(0.2)
    structlog.get_logger("lake").info("in between")
    time.sleep(0.2)
structlog.get_logger("lake").info("afterwards")
"""


def test_events_on_a_terminal_are_not_in_the_line_of_a_bar() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", WITH_A_BAR],
        stderr=theirs, stdout=theirs, env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    ) as child:  # fmt: skip
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the end, on Linux
            while part := os.read(ours, 65536):
                shown += part
        assert child.wait() == 0
    os.close(ours)
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()))
    for text in ("in between", "afterwards"):
        (line,) = (line for line in lines if text in line)
        assert line[:4].isdigit(), "it begins with its time"
    assert any("reading" in line for line in lines)
