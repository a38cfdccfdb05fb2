"""What every benchmark shares: the hardware it ran on, timing that a busy machine cannot tilt, tables and files.

Speeds of two things are compared only where they were measured in turns: a machine that slows down in the middle slows
both. The figure printed is the median over the rounds, and a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mjx_exo.errors import UserError
from mjx_exo.files import write_atomically

_PACKAGES = ("mujoco", "mujoco-mjx", "myo-sim", "jax", "jaxlib", "numpy", "numba")
_FILE_WIDTH = 160


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, memory in GiB, accelerators, load before the run, versions."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "accelerators": _accelerators(),
        "load_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: _version(name) for name in _PACKAGES},
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _accelerators() -> list[str]:
    import jax

    return [d.device_kind for d in jax.devices() if d.platform != "cpu"]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def describe_hardware(found: Mapping[str, Any]) -> str:
    """One line for the screen."""
    what = [found["processor"], f"{found['cores']} cores", *found["accelerators"], f"load {found['load_before']:g}"]
    return ", ".join(what)


@dataclasses.dataclass(frozen=True)
class Speeds:
    """Simulated seconds of one case, one number per round."""

    per_second: np.ndarray  # [rounds], per second on the clock
    per_cpu_second: np.ndarray  # [rounds], per second of processor time of the whole process


def speeds(cases: Mapping[Any, Callable[[], float]], rounds: int) -> dict[Any, Speeds]:
    """How fast every case simulates.

    Each case runs a piece of work and returns the seconds it simulated. All are warmed up first; in every round each
    runs once, in an order that rotates.
    """
    for case in cases.values():
        case()
    names = list(cases)
    wall: dict[Any, list[float]] = {name: [] for name in names}
    cpu: dict[Any, list[float]] = {name: [] for name in names}
    for k in range(rounds):
        turn = k % len(names)
        for name in names[turn:] + names[:turn]:
            began, began_cpu = time.perf_counter(), time.process_time()
            simulated = cases[name]()
            wall[name].append(simulated / (time.perf_counter() - began))
            cpu[name].append(simulated / (time.process_time() - began_cpu))
    return {name: Speeds(np.array(wall[name]), np.array(cpu[name])) for name in names}


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on the screen; numbers to three digits."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for name in columns:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{x:.3g}" if isinstance(x, float) else str(x) for x in row))
    # Into a file or a pipe, rich would cut the columns to 80 characters.
    Console(width=None if sys.stdout.isatty() else _FILE_WIDTH).print(table)


def write_json(path: str | Path | None, results: Any) -> None:
    """Writes `results` (JSON-ready) whole or not at all; nothing for None."""
    if path is None:
        return
    text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    write_atomically(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))


def chosen(text: str, known: Sequence[str], what: str) -> tuple[str, ...]:
    """The names in a comma-separated list; `UserError` naming the known ones for any other."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in known:
            raise UserError(f"unknown {what} '{name}'; known: {', '.join(known)}")
    return names


def numbers(text: str, option: str) -> tuple[float, ...]:
    """A comma-separated list of positive numbers; `UserError` naming the option otherwise."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not min(values) > 0:
        raise UserError(f"{option} {text!r} is not a comma-separated list of positive numbers")
    return values


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """A comma-separated list of whole numbers above 0; `UserError` naming the option otherwise."""
    values = numbers(text, option)
    if any(value != int(value) for value in values):
        raise UserError(f"{option} {text!r} is not a comma-separated list of whole numbers above 0")
    return tuple(int(value) for value in values)
