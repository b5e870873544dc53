"""How the process of a command ends: by signals at awkward moments, with native threads at work."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

DUCK_AT_WORK = """
import threading, time
import duckdb, pyarrow
batch = pyarrow.record_batch({"n": [1]})
begun = threading.Event()
def endless():
    while True:
        begun.set()
        yield batch
def work():
    reader = pyarrow.RecordBatchReader.from_batches(batch.schema, endless())
    duckdb.connect().execute("select count(*) from reader").fetchall()
threading.Thread(target=work, daemon=True).start()
begun.wait()
"""
STARTED = "from lakehouse_ray.cli import stopping\nending = stopping.Ending()\nstopping.listen()\n"


def ended(program: str) -> tuple[int, str, str]:
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    return process.returncode, process.stdout, process.stderr


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Python ends no native thread any more")
def test_the_interpreter_alone_aborts_where_a_native_thread_is_at_work() -> None:
    assert ended(DUCK_AT_WORK + "import sys; sys.exit(3)")[0] == -signal.SIGABRT


def test_a_command_ends_with_its_code_though_a_native_thread_is_at_work() -> None:
    program = STARTED + DUCK_AT_WORK + "print('data')\nending.with_code(3)"
    assert ended(program) == (3, "data\n", "")


def test_an_unexpected_exception_is_told_and_ends_by_1() -> None:
    code, _, said = ended(STARTED + "1 / 0")
    assert code == 1
    assert "ZeroDivisionError" in said


def test_what_was_to_be_done_at_exit_is_done() -> None:
    code, said, _ = ended(
        STARTED + "import atexit\natexit.register(print, 'cleaned up')\nending.with_code(5)"
    )
    assert (code, said) == (5, "cleaned up\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_within_a_destructor_ends_the_command(number: signal.Signals) -> None:
    program = f"""{STARTED}
import os, time
class Destroyed:
    def __del__(self):
        os.kill(os.getpid(), {int(number)})
        for _ in range(1000):
            pass  # the handler runs here, where nothing may raise
try:
    Destroyed()
    time.sleep(30)
    print("went on")
except (KeyboardInterrupt, SystemExit) as error:
    ending.with_code(stopping.told(error))
"""
    assert ended(program) == (128 + number, "", "")


def test_other_exceptions_of_destructors_are_told_as_ever() -> None:
    program = f"""{STARTED}
class Destroyed:
    def __del__(self):
        raise ValueError("of its own")
Destroyed()
ending.with_code(0)
"""
    code, _, said = ended(program)
    assert code == 0
    assert "ValueError: of its own" in said
