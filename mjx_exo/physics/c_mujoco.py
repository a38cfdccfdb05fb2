"""C MuJoCo's `mj_step` for loops that numba compiles.

A Python call per physics step would cost as much as the step and hold the interpreter's lock; called from a compiled
loop with the addresses of a model and its data, worker threads run side by side.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import mujoco
import numba

njit = numba.njit(nogil=True, error_model="numpy", fastmath=False)


def _step_function() -> Any:
    """`mj_step` as a C function pointer that numba can call with two addresses."""
    folder = Path(mujoco.__file__).parent
    suffixes = (".so", ".dylib", ".dll")
    library = next(p for p in sorted(folder.glob("*mujoco*")) if p.suffix in suffixes or ".so." in p.name)
    function = ctypes.CDLL(str(library)).mj_step
    function.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
    function.restype = None
    return function


mj_step = _step_function()
