"""What a command ends with where the exception of a signal comes out as another."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# The signal comes between the moment at which a wait has let its lock go and the one from which on
# it takes it back.
COMMAND = """
import os, signal, sys, threading
from lakehouse_ray.cli import endings, stopping

class Told(threading.Condition):
    def _release_save(self):
        super()._release_save()
        os.kill(os.getpid(), int(sys.argv[1]))

def wait():
    told = Told(threading.Lock())
    with told:
        told.wait(10)

stopping.listen()
sys.exit(endings.run(lambda: wait, "wait", []))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_within_a_wait_for_a_lock_is_told_as_a_signal(number: signal.Signals) -> None:
    command = [sys.executable, "-c", COMMAND, str(int(number))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 128 + number, ended.stderr
    assert ended.stderr == "interrupted; what was committed stays, run it again to go on\n"
