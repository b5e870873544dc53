"""Runs a command that is told to end when its parent is gone. A script; knows nothing of the lake.

python bound.py PARENT COMMAND…: asks the kernel for SIGTERM at the parent's death, kill -9 included
(Linux; elsewhere the command goes on to its end), then becomes the command.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    # It may have died before the kernel was asked.
    if os.getppid() != int(parent):
        sys.exit(128 + signal.SIGTERM)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
