"""Whether a device pushes as the simulation said: torque over the gait cycle, per speed and slope, against a reference.

A cell is 0.1 m/s of speed and 1 degree of slope. Both sides are flexion positive, so strides of both legs are laid over
each other. Strides begin at heel strike where both sources have ground force. A device has only gyroscopes: then both
sources are cut by their gyroscopes, with the same method and so with the same offset, which cancels. Only a reference
that is a bare profile from heel strike cannot be cut again; then the axes agree to a few percent of the cycle, the
report says so, and lags are not to be trusted beyond that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mjx_exo.errors import UserError
from mjx_exo.gait import norms
from mjx_exo.gait.device_log import SLOPE_STEP_DEG, SPEED_STEP_M_S
from mjx_exo.gait.profiles import ProfileComparison, compare_profiles, compare_series
from mjx_exo.gait.recording import Recording, load
from mjx_exo.gait.strides import find_strides, over_cycle
from mjx_exo.gait.table import read_table

PUBLISHED = {"r": (0.82, 0.19), "rmse_nm_kg": (0.03, 0.01)}
"""Mean and standard deviation of the hardware test of Park, Song, Kang 2026, arXiv 2603.04166."""
FEWEST_STRIDES = 5

CellKey = tuple[int, int]


@dataclass(frozen=True)
class Profile:
    """Torque strides of one cell: `torque` [S, 101] Nm/kg of both legs, mean speed, slope and stride time."""

    torque: np.ndarray
    speed_m_s: float
    slope_rad: float
    stride_time_s: float


@dataclass(frozen=True)
class Cell:
    """One speed and slope of the measured torque, with its comparison where the reference has that cell."""

    measured: Profile
    reference: Profile | None
    comparison: ProfileComparison | None
    tracking: Mapping[str, float]  # applied torque against the controller's own output, sample by sample

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, flat."""
        entry: dict[str, Any] = {
            "speed_m_s": self.measured.speed_m_s,
            "slope_deg": float(np.rad2deg(self.measured.slope_rad)),
            "stride_time_s": self.measured.stride_time_s,
            "measured_strides": len(self.measured.torque),
        }
        if self.comparison is not None:
            entry |= self.comparison.as_dict()
        return entry | {f"tracking_{name}": value for name, value in self.tracking.items()}


@dataclass(frozen=True)
class Reference:
    """Profiles by cell and how their strides begin; `trials` are there when they can be cut another way."""

    profiles: Mapping[CellKey, Profile]
    stride_start: str  # "force" or "gyro"
    trials: Sequence[Recording] = ()


def cell_key(speed_m_s: float, slope_rad: float) -> CellKey:
    """The cell of a speed and a slope."""
    return round(speed_m_s / SPEED_STEP_M_S), round(float(np.rad2deg(slope_rad)) / SLOPE_STEP_DEG)


def condition_of(trial: Recording) -> tuple[float, float]:
    """Speed and slope of a trial: as commanded, else the measured mean. Raises UserError when there is no speed."""
    slope = float(np.mean(trial.slope_rad))
    if trial.command_speed_m_s is not None:
        return float(np.mean(trial.command_speed_m_s)), slope
    speed = trial.forward_speed_m_s()
    if speed is None:
        raise UserError(f"{trial.label}: walking speed unknown; give a column or line speed_m_s, or --speed-m-s")
    return float(np.mean(speed)), slope


def cells_of(trials: Sequence[Recording], method: str, source: str) -> dict[CellKey, Profile]:
    """Torque profiles by cell; strides begin by `method`, "force" or "gyro"; `source` is named in errors.

    A cell with fewer than `FEWEST_STRIDES` strides is left out. Raises UserError when no trial has a torque.
    """
    strides_of: dict[CellKey, list[np.ndarray]] = {}
    times: dict[CellKey, list[float]] = {}
    conditions: dict[CellKey, list[tuple[float, float]]] = {}
    if not any(trial.exo_torque_nm_kg is not None for trial in trials):
        raise UserError(f"{source}: no exoskeleton torque in it")
    for trial in trials:
        if trial.exo_torque_nm_kg is None or trial.fell:
            continue
        condition = condition_of(trial)
        key = cell_key(*condition)
        strides = find_strides(trial, method)
        for column, side in enumerate(("right", "left")):
            own = [stride for stride in strides if stride.side == side]
            strides_of.setdefault(key, []).append(over_cycle(trial.time_s, trial.exo_torque_nm_kg[:, column], own))
        times.setdefault(key, []).extend(stride.duration_s for stride in strides)
        conditions.setdefault(key, []).append(condition)
    found = {}
    for key in sorted(strides_of):
        torque = np.concatenate(strides_of[key])
        if len(torque) >= FEWEST_STRIDES:
            speed, slope = np.mean(conditions[key], axis=0)
            found[key] = Profile(torque, float(speed), float(slope), float(np.mean(times[key])))
    return found


def read_reference(paths: Sequence[str | Path], settle_s: float) -> Reference:
    """A reference from recordings (npz) or from one CSV of profiles; all npz files together make one reference.

    The CSV has columns percent (0..100), torque_nm_kg, and where it holds several cells speed_m_s and slope_deg; a line
    `# stride_start = gyro` says that its strides were cut by gyroscopes, else heel strike is meant.
    """
    paths = [Path(path) for path in paths]
    if any(path.suffix == ".csv" for path in paths):
        if len(paths) > 1:
            raise UserError(f"--reference: give one CSV of profiles or several npz recordings, not {len(paths)} files")
        return _profile_csv(paths[0])
    trials = []
    for path in paths:
        for trial in load(path):
            length = trial.time_s[-1] - trial.time_s[0]
            if not trial.fell and length > settle_s + 2.0:
                trials.append(trial.between(trial.time_s[0] + settle_s, trial.time_s[-1]))
    if not trials:
        raise UserError(f"{paths[0]}: no trial without a fall that is longer than {settle_s + 2.0:g} s")
    method = "force" if all(trial.ground_force_n is not None for trial in trials) else "gyro"
    return Reference(cells_of(trials, method, str(paths[0])), method, trials)


def _profile_csv(path: Path) -> Reference:
    table = read_table(path, lambda name: name in ("percent", "torque_nm_kg", "speed_m_s", "slope_deg"))
    for name in ("percent", "torque_nm_kg"):
        if name not in table.columns:
            raise UserError(f"{path}: no column {name}; a reference has percent and torque_nm_kg")
    start = table.settings.get("stride_start", "heel_strike")
    if start not in ("heel_strike", "gyro"):
        raise UserError(f"{path}: # stride_start = {start}, allowed: heel_strike, gyro")
    percent = table.columns["percent"]
    if percent.min() < 0.0 or percent.max() > 100.0:
        raise UserError(f"{path}: percent must lie in 0..100, it has {percent.min():g}..{percent.max():g}")
    whole_file = {"speed_m_s": table.number("speed_m_s"), "slope_deg": table.number("slope_deg") or 0.0}
    speed, slope = (
        table.columns.get(name, np.full(percent.shape, np.nan if value is None else value))
        for name, value in whole_file.items()
    )
    if np.isnan(speed).any():
        raise UserError(f"{path}: speed unknown; add a column speed_m_s or a first line '# speed_m_s = 1.2'")
    profiles = {}
    for one_speed, one_slope in sorted(set(zip(speed.tolist(), slope.tolist(), strict=True))):
        own = (speed == one_speed) & (slope == one_slope)
        order = np.argsort(percent[own])
        at, values = percent[own][order], table.columns["torque_nm_kg"][own][order]
        if at.size < 10 or np.any(np.diff(at) <= 0) or not np.isfinite(values).all():
            raise UserError(f"{path}: {one_speed:g} m/s, {one_slope:g}°: needs ten or more different percents, no gaps")
        curve = norms.periodic_curve(at, values, norms.PERCENT)
        slope_rad = float(np.deg2rad(one_slope))
        profiles[cell_key(one_speed, slope_rad)] = Profile(curve[None], one_speed, slope_rad, float("nan"))
    return Reference(profiles, "gyro" if start == "gyro" else "force")


def compare(
    trials: Sequence[Recording], reference: Reference | None, stride_start: str = "auto"
) -> tuple[list[Cell], str, list[str]]:
    """Cells of the measured trials beside the reference, the way strides were cut, and notes a reader must know.

    `stride_start`: "force", "gyro" or "auto" (force where both sources have it). Raises UserError when nothing can be
    cut into strides.
    """
    method = stride_start
    if method == "auto":
        has_force = all(trial.ground_force_n is not None for trial in trials)
        has_gyro = all(trial.thigh_gyro_rad_s is not None for trial in trials)
        wanted = "force" if reference is None else reference.stride_start
        method = "force" if has_force and (wanted == "force" or not has_gyro) else "gyro"
    measured = cells_of(trials, method, trials[0].label)
    if not measured:
        raise UserError(
            f"{trials[0].label}: fewer than {FEWEST_STRIDES} strides of steady walking with torque in every condition"
        )
    notes: list[str] = []
    profiles: Mapping[CellKey, Profile] = {}
    if reference is not None:
        profiles = reference.profiles
        if reference.stride_start != method:
            recut = cells_of(reference.trials, method, "reference") if reference.trials else {}
            profiles = recut or profiles
            if not recut:
                notes.append(
                    f"The reference's strides begin by {reference.stride_start}, the measured ones by {method}: "
                    "the two axes agree to a few percent of the gait cycle only, and r and lags carry that error."
                )
    cells = []
    for key, own in measured.items():
        other = profiles.get(key)
        comparison = None if other is None else compare_profiles(other.torque, own.torque, own.stride_time_s)
        cells.append(Cell(own, other, comparison, _tracking(trials, key)))
    unmatched = [cell for cell in cells if cell.comparison is None]
    if reference is not None and unmatched:
        names = ", ".join(f"{c.measured.speed_m_s:g} m/s {np.rad2deg(c.measured.slope_rad):+g}°" for c in unmatched)
        notes.append(f"The reference has no such speed and slope: {names}.")
    return cells, method, notes


def _tracking(trials: Sequence[Recording], key: CellKey) -> dict[str, float]:
    own = [t for t in trials if cell_key(*condition_of(t)) == key and t.exo_command_nm_kg is not None]
    if not own:
        return {}
    command = np.concatenate([trial.exo_command_nm_kg for trial in own])
    return compare_series(command, np.concatenate([trial.exo_torque_nm_kg for trial in own])).as_dict()


def mean_over_cells(cells: Sequence[Cell]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over cells of every figure of the comparison; empty without any comparison."""
    compared = [cell.comparison.as_dict() for cell in cells if cell.comparison is not None]
    means = {}
    for name in compared[0] if compared else ():
        values = np.array([entry[name] for entry in compared], float)
        known = values[np.isfinite(values)]
        if known.size and not name.endswith("_strides"):
            means[name] = {"mean": float(known.mean()), "sd": float(known.std(ddof=1)) if known.size > 1 else 0.0}
    return means
