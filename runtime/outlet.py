"""Writing to a disk or a terminal without ever waiting for it: a pipe to a process of its own.

A thread would do the writing as well, but it shares the interpreter's lock: measured on a busy machine, the loop stood
still for 122 ms because the writer had been preempted while it held that lock, real-time scheduling of the loop or not.
A pipe has no such tie, and what is in it survives even if this process is killed: the helper writes it out first.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
from typing import IO

PIPE_BYTES = 1 << 20  # 14 s of rows at 500 Hz while the disk does not answer
_ATOMIC_BYTES = 4096  # a pipe takes up to this much whole or not at all


class Outlet:
    """Takes bytes; a helper process (`cat`) writes them to `target`, in order."""

    def __init__(self, target: int | IO[bytes]):
        read_end, self._pipe = os.pipe()
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.set_blocking(self._pipe, False)
        # In a session of its own, so that Ctrl-C at the keyboard does not take it away before the last lines.
        self._helper = subprocess.Popen(
            ["cat"], stdin=read_end, stdout=target, stderr=subprocess.DEVNULL, start_new_session=True
        )
        os.close(read_end)
        self.lost = 0  # writes that found the pipe full
        self.broken = False  # the helper is gone: the disk is full, or the terminal was closed

    def write(self, data: bytes | bytearray | memoryview) -> bool:
        """Never waits. False when `data` was dropped; up to 4 KiB goes out whole or not at all."""
        if self.broken:
            return False
        for start in range(0, len(data), _ATOMIC_BYTES):
            try:
                os.write(self._pipe, data[start : start + _ATOMIC_BYTES])
            except BlockingIOError:
                self.lost += 1
                return False
            except OSError as error:
                self.broken = error.errno == errno.EPIPE or self.broken
                return False
        return True

    def close(self, timeout_s: float = 5.0) -> bool:
        """Lets the helper write the rest; returns whether it did. Safe to call twice."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        try:
            return self._helper.wait(timeout_s) == 0
        except subprocess.TimeoutExpired:
            return False
