"""A log of the exoskeleton loop as walking trials: read from its folder or its CSV, cut where speed or slope change.

The loop writes a folder (`header.json` that names and types every column, `rows.bin`), and its `convert` command a CSV
of the same columns beside it; both are read here by their documented form. A device does not know how fast its wearer
walks or how steep the ground is, so that comes from a conditions file, `conditions.csv` beside the log or any other:

    device_time_s,speed_m_s,slope_deg
    0.0,0.8,0
    60.0,1.0,0
    120.0,,

Each line holds until the next; without a speed nobody walks. The clock is the device's own (`device_time_s`; in a
person's own CSV its column `time_s`), or seconds since the log's first sample (`time_s`). `runtime.virtual_exo --log`
writes such a file; a loop that asked a virtual wearer for speeds (`--walk`) has them among its events. A walking speed
that keeps changing is put into cells of 0.1 m/s and 1 degree.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mjx_exo.conventions import SIDE_SUFFIX
from mjx_exo.errors import UserError
from mjx_exo.gait.recording import Recording
from mjx_exo.gait.table import LONGEST_GAP_S, Table, read_table

SIGNALS = {
    "applied": "torque the device said it applied",
    "measured": "torque the device measured",
    "torque": "torque that was sent",
    "intent": "torque before limits, also in a dry run",
    "student": "the policy's own output, without scale, soft start and limits",
}
SPEED_STEP_M_S = 0.1
SLOPE_STEP_DEG = 1.0
SETTLE_S = 5.0
"""Seconds left out after speed or slope change and after the torque has come in fully."""
SHORTEST_S = 5.0
"""A shorter piece of steady walking is not used."""

_TYPES = {"d": "<f8", "f": "<f4", "Q": "<u8", "I": "<u4", "H": "<u2", "B": "u1"}
_NEEDED = ("device_time_us", "stage", "walking", "gain")


@dataclass(frozen=True)
class Conditions:
    """Speed and slope over the log: each entry [K] holds from its `start_s` on; `clock` is device_time_s or time_s."""

    clock: str
    start_s: np.ndarray
    speed_m_s: np.ndarray
    slope_rad: np.ndarray

    @classmethod
    def constant(cls, speed_m_s: float, slope_rad: float) -> Conditions:
        """One speed and slope for the whole log."""
        return cls("time_s", np.array([0.0]), np.array([speed_m_s]), np.array([slope_rad]))

    @classmethod
    def read(cls, path: str | Path) -> Conditions:
        """From a CSV as the module describes it. Raises UserError naming what is missing."""
        table = read_table(path)
        clock = next((name for name in ("device_time_s", "time_s") if name in table.columns), None)
        for name in ("device_time_s (or time_s)" if clock is None else clock, "speed_m_s", "slope_deg"):
            if name not in table.columns:
                raise UserError(f"{path}: no column {name}; it has {', '.join(table.columns)}")
        start = table.columns[clock]
        if not np.all(np.diff(start, prepend=-np.inf) >= 0):
            raise UserError(f"{path}: {clock} must be known in every line and must not fall")
        return cls(clock, start, table.columns["speed_m_s"], np.deg2rad(table.columns["slope_deg"]))

    @classmethod
    def asked(cls, log: DeviceLog) -> Conditions | None:
        """What the loop asked a virtual wearer for by name (`exo_loop --walk`); None when it did not."""
        path = (log.path if log.path.is_dir() else log.path.parent) / "events.jsonl"
        if "host_time_s" not in log.columns or not path.is_file():
            return None
        asked = [event for event in _events(path) if event.get("kind") == "request"]
        if not any(event.get("request") == "WALK" and event.get("value", 0.0) > 0.0 for event in asked):
            return None
        host_s = np.array([event["time_s"] for event in asked])
        walk = np.array([event["request"] == "WALK" and event["value"] > 0.0 for event in asked])
        speed, slope = (np.array([event[name] for event in asked], float) for name in ("value", "second"))
        start = np.interp(host_s, log.columns["host_time_s"], 1e-6 * log.columns["device_time_us"])
        return cls("device_time_s", start, np.where(walk, speed, np.nan), np.where(walk, slope, np.nan))

    def at(self, device_time_s: np.ndarray, first_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Speed and slope [T] at device times; nan before the first entry. `first_s` is the log's first device time."""
        clock = device_time_s if self.clock == "device_time_s" else device_time_s - first_s
        index = np.searchsorted(self.start_s, clock + 1e-9, side="right") - 1
        known = index >= 0
        return (
            np.where(known, self.speed_m_s[np.maximum(index, 0)], np.nan),
            np.where(known, self.slope_rad[np.maximum(index, 0)], np.nan),
        )


@dataclass(frozen=True)
class DeviceLog:
    """Columns [T] of a log by name, what its header says, and where it came from."""

    path: Path
    columns: Mapping[str, np.ndarray]
    header: Mapping[str, Any]


def is_device_log(path: Path) -> bool:
    """Whether `path` is a folder of the loop or a CSV made from one, rather than a person's own CSV."""
    if path.is_dir():
        return True
    try:
        with open(path, encoding="utf-8-sig") as file:
            return any("device_time_us" in line for line in (file.readline() for _ in range(20)))
    except (OSError, UnicodeDecodeError):
        return False


def read_log(path: str | Path) -> DeviceLog:
    """Reads a log. Raises UserError when the folder or the CSV is not one."""
    path = Path(path)
    if path.is_dir():
        header = _header(path / "header.json")
        try:
            dtype = np.dtype([(column["name"], _TYPES[column["code"]]) for column in header["columns"]])
            data = (path / "rows.bin").read_bytes()
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}/header.json: does not describe the columns ({error})") from None
        except OSError as error:
            raise UserError(f"{path}/rows.bin: cannot be read ({error.strerror})") from None
        rows = np.frombuffer(data, dtype, count=len(data) // dtype.itemsize)
        columns = {name: rows[name].astype(float) for name in dtype.names or ()}
    else:
        table: Table = read_table(path)
        columns = table.columns
        beside = path.parent / "header.json"
        header = _header(beside) if beside.is_file() else {}
    log = DeviceLog(path, columns, header)
    missing = [name for name in (*_NEEDED, "gyro_r", "gyro_l") if name not in columns]
    if missing:
        raise UserError(f"{path}: no column {missing[0]}; is this a log of runtime.exo_loop?")
    if not columns["device_time_us"].size:
        raise UserError(f"{path}: the log has no rows")
    return log


def _events(path: Path) -> list[dict[str, Any]]:
    """The whole lines of `events.jsonl`; the last one of a killed loop may be half."""
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            events.append(json.loads(line))
    return events


def _header(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); is this a folder of runtime.exo_loop?") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None


def steady_trials(
    log: DeviceLog,
    conditions: Conditions,
    signal: str = "applied",
    body_mass_kg: float | None = None,
    settle_s: float = SETTLE_S,
) -> list[Recording]:
    """The pieces of a log in which the device assisted steady walking at one speed and slope.

    `signal` is one of `SIGNALS` and becomes `exo_torque_nm_kg`; the policy's output becomes `exo_command_nm_kg`.
    A sample counts while the guard was in its active stage with full gain and saw walking. Raises UserError when the
    wearer's mass is unknown or the signal was not recorded.
    """
    mass = body_mass_kg if body_mass_kg is not None else log.header.get("wearer_mass_kg")
    if mass is None:
        raise UserError(f"{log.path}: wearer mass unknown without header.json beside it; say --mass-kg")
    time = log.columns["device_time_us"] * 1e-6
    torque = _pair(log, signal) / (1.0 if signal == "student" else mass)
    stages = log.header.get("stages", {})
    active = (log.columns["stage"] == stages.get("ACTIVE", 6)) & (log.columns["walking"] > 0.5)
    if signal != "student":
        active &= log.columns["gain"] > 0.999
    gyro = np.stack([log.columns[f"gyro{suffix}"] for suffix in SIDE_SUFFIX.values()], axis=1)
    usable = active & np.isfinite(torque).all(axis=1) & np.isfinite(gyro).all(axis=1)
    speed, slope = conditions.at(time, float(time[0]))
    cell = _cells(speed, slope)
    command = _pair(log, "student") if "student_r" in log.columns else torque
    trials = []
    for piece in _steady_pieces(time, usable, cell, settle_s):
        steps = np.median(np.diff(time[piece]))
        even = np.linspace(time[piece[0]], time[piece[-1]], round((time[piece[-1]] - time[piece[0]]) / steps) + 1)
        trials.append(
            Recording(
                time_s=even,
                body_mass_kg=float(mass),
                thigh_gyro_rad_s=_resampled(even, time[piece], gyro[piece]),
                exo_torque_nm_kg=_resampled(even, time[piece], torque[piece]),
                exo_command_nm_kg=_resampled(even, time[piece], np.nan_to_num(command[piece])),
                speed_m_s=np.interp(even, time[piece], speed[piece]),
                command_speed_m_s=float(SPEED_STEP_M_S * cell[piece[0], 0]),
                slope_rad=float(np.deg2rad(SLOPE_STEP_DEG * cell[piece[0], 1])),
                label=log.path.name,
            )
        )
    return trials


def own_trials(trial: Recording, conditions: Conditions, settle_s: float = SETTLE_S) -> list[Recording]:
    """The steady pieces of a person's own recording, cut where the conditions change."""
    speed, slope = conditions.at(trial.time_s, float(trial.time_s[0]))
    cell = _cells(speed, slope)
    return [
        dataclasses.replace(
            trial.between(trial.time_s[piece[0]], trial.time_s[piece[-1]]),
            command_speed_m_s=float(SPEED_STEP_M_S * cell[piece[0], 0]),
            slope_rad=float(np.deg2rad(SLOPE_STEP_DEG * cell[piece[0], 1])),
        )
        for piece in _steady_pieces(trial.time_s, np.full(trial.time_s.shape, True), cell, settle_s)
    ]


def _cells(speed_m_s: np.ndarray, slope_rad: np.ndarray) -> np.ndarray:
    """[T, 2] speed and slope [T] in steps of a cell; nan where they are unknown."""
    return np.stack([np.round(speed_m_s / SPEED_STEP_M_S), np.round(np.rad2deg(slope_rad) / SLOPE_STEP_DEG)], axis=1)


def _steady_pieces(time_s: np.ndarray, usable: np.ndarray, cell: np.ndarray, settle_s: float) -> list[np.ndarray]:
    """Index arrays of usable samples in one cell, without gaps, settled and long enough."""
    usable = usable & np.isfinite(cell).all(axis=1)
    jump = (np.diff(time_s) > LONGEST_GAP_S) | (np.diff(time_s) <= 0)
    breaks = np.concatenate([[True], jump | np.any(np.diff(cell, axis=0) != 0, axis=1)])
    settled = (piece[time_s[piece] >= time_s[piece[0]] + settle_s] for piece in _pieces(usable, breaks))
    return [p for p in settled if p.size >= 10 and time_s[p[-1]] - time_s[p[0]] >= SHORTEST_S]


def _pieces(usable: np.ndarray, breaks: np.ndarray) -> list[np.ndarray]:
    """Index arrays of unbroken usable samples."""
    index = np.flatnonzero(usable)
    if not index.size:
        return []
    segment = np.cumsum(breaks)[index]
    cut = np.flatnonzero((np.diff(index) > 1) | (np.diff(segment) > 0)) + 1
    return np.split(index, cut)


def _pair(log: DeviceLog, name: str) -> np.ndarray:
    """[T, 2] a signal of both sides."""
    missing = [f"{name}{suffix}" for suffix in SIDE_SUFFIX.values() if f"{name}{suffix}" not in log.columns]
    if missing:
        raise UserError(f"{log.path}: no column {missing[0]}; --signal is one of {', '.join(SIGNALS)}")
    return np.stack([log.columns[f"{name}{suffix}"] for suffix in SIDE_SUFFIX.values()], axis=1)


def _resampled(even_s: np.ndarray, time_s: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.stack([np.interp(even_s, time_s, column) for column in values.T], axis=1)
