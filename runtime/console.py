"""Talking with the person at the keyboard without the loop ever waiting for a terminal.

Lines to print go through an `Outlet`, because a terminal that is held or a full pipe blocks its writer. Lines typed are
read from the descriptor when it has something, one command each.
"""

from __future__ import annotations

import os
import sys

from runtime.outlet import Outlet

HELP = "commands: arm, disarm, reset (after a fault), status, quit"


class Console:
    """`say` prints; `commands` gives what was typed. `fileno` is None when nobody can type."""

    def __init__(self, stdin: int | None = 0, stdout: int = 1):
        self._descriptor = stdin if stdin is not None and _readable(stdin) else None
        self._pending = b""
        sys.stdout.flush()
        self._outlet = Outlet(stdout)

    @property
    def fileno(self) -> int | None:
        """The descriptor to wait on, or None."""
        return self._descriptor

    def say(self, text: str) -> None:
        """Prints a line, soon."""
        self._outlet.write(f"{text}\n".encode())

    def commands(self) -> list[str]:
        """Complete lines typed so far, lower case, without blanks around. Call when `fileno` is readable."""
        if self._descriptor is None:
            return []
        try:
            data = os.read(self._descriptor, 4096)
        except OSError:
            data = b""
        if not data:
            self._descriptor = None
            return []
        *lines, self._pending = (self._pending + data).split(b"\n")
        self._pending = self._pending[-4096:]
        return [text for line in lines if (text := line.decode(errors="replace").strip().lower())]

    def close(self) -> None:
        """Prints what is left."""
        self._outlet.close(timeout_s=1.0)


def _readable(descriptor: int) -> bool:
    """Open, and not the terminal of somebody else: a background job that reads it would be stopped."""
    try:
        os.fstat(descriptor)
        return not os.isatty(descriptor) or os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return False
