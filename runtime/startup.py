"""How long the program took from its start, the interpreter's included, until the device had answered.

A person who has plugged the device in again waits for this. What Python itself can time begins only after its imports,
so the start is the operating system's own.
"""

from __future__ import annotations

import os
import time


def process_age_s() -> float | None:
    """Seconds since this process was started, to 10 ms; None where the system does not say (outside Linux)."""
    try:
        with open("/proc/self/stat", encoding="utf-8") as file:
            after_name = file.read().rpartition(")")[2].split()
        started_s = int(after_name[19]) / os.sysconf("SC_CLK_TCK")  # field 22, in ticks since boot
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started_s
    except (OSError, AttributeError, ValueError, IndexError):
        return None


def started(seconds: float | None) -> str:
    """The same in words."""
    return "time since the start unknown" if seconds is None else f"{seconds:.2f} s after this program was started"
