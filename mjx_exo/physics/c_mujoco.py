"""C MuJoCo's `mj_step` for loops that numba compiles, and those loops kept on disk.

A Python call per physics step would cost as much as the step and hold the interpreter's lock; called by name from a
compiled loop, with the addresses of a model and its data, worker threads run side by side. Compiling such a loop takes
longer than starting a short run, so it is kept in the cache directory, by a hash of everything compiled into it (numba
itself only looks at the file that holds the loop).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import llvmlite.binding
import mujoco
import numba
from numba import types

from mjx_exo.cache import cache_dir
from mjx_exo.musculoskeletal import muscle

_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": False}

njit = numba.njit(**_OPTIONS)


def _load_mujoco() -> types.ExternalFunction:
    """Makes `mj_step(model address, data address)` known to numba by its name in MuJoCo's own library."""
    folder = Path(mujoco.__file__).parent
    suffixes = (".so", ".dylib", ".dll")
    library = next(p for p in sorted(folder.glob("*mujoco*")) if p.suffix in suffixes or ".so." in p.name)
    llvmlite.binding.load_library_permanently(str(library))
    return types.ExternalFunction("mj_step", types.void(types.uintp, types.uintp))


mj_step = _load_mujoco()


def kept_njit(function: Callable) -> Callable:
    """`njit` whose machine code is kept between runs, for the outermost loop of an engine."""
    digest = hashlib.sha256()
    for file in (Path(__file__), Path(muscle.__file__), Path(function.__code__.co_filename)):
        digest.update(file.read_bytes())
    for package in ("numba", "llvmlite", "numpy", "mujoco"):
        digest.update(importlib.metadata.version(package).encode())
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(cache_dir() / "numba" / digest.hexdigest()[:16])
    try:
        return numba.njit(cache=True, **_OPTIONS)(function)
    finally:
        numba.config.CACHE_DIR = before
