"""Real-time scheduling where the system permits it, taken so that it cannot hang the machine.

Under load an ordinary process waits for its time slice (4 ms spikes); SCHED_FIFO does not. A FIFO thread that never
sleeps would starve everything else on its core, so a limit on uninterrupted computing comes with it: at the soft limit
the kernel sends SIGXCPU and the loop steps down, at the hard limit it kills the process, and the controller's watchdog
brings the torque to zero.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource

PRIORITY = 50
SOFT_LIMIT_US = 200_000
HARD_LIMIT_US = 1_000_000
_LOCK_CURRENT, _LOCK_FUTURE = 1, 2


def enter(lock_memory: bool = True) -> tuple[bool, list[str]]:
    """Asks for SCHED_FIFO and locked memory. Returns (whether FIFO was granted, what was refused and what helps).

    `lock_memory` is not for a process with gigabytes mapped, such as one that has JAX in it.
    """
    notes = []
    fifo = False
    try:
        resource.setrlimit(resource.RLIMIT_RTTIME, (SOFT_LIMIT_US, HARD_LIMIT_US))
        flags = os.SCHED_FIFO | getattr(os, "SCHED_RESET_ON_FORK", 0)
        os.sched_setscheduler(0, flags, os.sched_param(PRIORITY))
        fifo = True
    except (OSError, ValueError, AttributeError):
        notes.append(
            "real-time scheduling was refused: expect late answers under load "
            f"(allow it with 'ulimit -r {PRIORITY}' or an rtprio line in /etc/security/limits.conf)"
        )
    if lock_memory and not _lock_memory():
        notes.append("memory could not be locked (raise 'ulimit -l')")
    return fifo, notes


def include_threads() -> None:
    """The calling thread's scheduling for all threads of the process: those of a library that computes for it."""
    with contextlib.suppress(OSError, AttributeError):
        _schedule_threads(os.sched_getscheduler(0) & ~getattr(os, "SCHED_RESET_ON_FORK", 0), os.sched_getparam(0))


def step_down() -> None:
    """Back to ordinary scheduling, threads included."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        _schedule_threads(os.SCHED_OTHER, os.sched_param(0))


def _schedule_threads(policy: int, parameters: os.sched_param) -> None:
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setscheduler(int(thread), policy, parameters)


def freeze_garbage() -> None:
    """No collection pauses from here on; what exists is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.disable()


def thaw_garbage() -> None:
    """Undoes `freeze_garbage`."""
    gc.unfreeze()
    gc.enable()


def _lock_memory() -> bool:
    """Future mappings are locked too, but only where no limit could make a later allocation fail."""
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return libc.mlockall(_LOCK_CURRENT | (_LOCK_FUTURE if unlimited else 0)) == 0
    except (OSError, AttributeError):
        return False
