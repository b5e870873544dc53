"""Commands run in this process, where what they say is the subject and not that they are processes:
one of its own takes two seconds to start."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from unittest.mock import patch

import structlog

from lakehouse_ray.cli.app import dispatch


def run_here(*arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """What `lakehouse …` with this environment would end with and say, if no signal comes."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with (
        patch.dict(os.environ, env, clear=True),
        patch.object(sys, "argv", ["lakehouse", *arguments]),
        _logs_as_before(),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        code = dispatch(list(arguments))
    return subprocess.CompletedProcess(arguments, code, _text(out), _text(err))


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


@contextmanager
def _logs_as_before() -> Iterator[None]:
    """A command sets up the logs of its process, which here is everybody's."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers[:] = []  # those it finds it would close
    config = structlog.get_config()
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.configure(**config)
