"""Letting the arms walk: one row of measures per trial, and torque over the gait cycle per cell.

All arms of a seed walk the same cells from the same starts with the same people, none of whom anybody trained on. A
trial is measured over whole strides after it has settled. What was walked is kept in a file per seed and arm, so that a
report can be written again without walking again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mjx_exo.conventions import SIDES
from mjx_exo.errors import UserError
from mjx_exo.gait.files import write_json
from mjx_exo.gait.power import (
    activation_by_group,
    effort_measures,
    mechanical_measures,
    time_mean,
    whole_strides_s,
)
from mjx_exo.gait.recording import Recording
from mjx_exo.gait.strides import Stride, find_strides, mean_speed_m_s, of_side, over_cycle
from mjx_exo.musculoskeletal.wearer import Wearer, draw_wearers
from mjx_exo.study.compare import ACTIVATION_OF
from mjx_exo.walking.env import WalkingEnv
from mjx_exo.walking.rollout import Trials, run_trials, start_walking, to_recordings

HELD_OUT = 7919  # added to the training's wearer seed
BATCH = 240  # environments that walk at once
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class WalkSettings:
    """How the arms are evaluated."""

    cells: tuple[tuple[float, float], ...]
    """Commanded speed in m/s and slope in degrees, uphill positive."""
    wearers: int = 20
    trials: int = 1
    """Trials of each wearer in each cell."""
    seconds: float = 15.0
    settle_s: float = 3.0
    step_s: float = 0.001
    engine: str = "auto"
    seed: int = 1


class Profile(NamedTuple):
    """Mean curves over the gait cycle of one arm and cell, [101] each, and the mean stride time in s."""

    torque_nm_kg: np.ndarray
    hip_moment_nm_kg: np.ndarray
    stride_s: float


@dataclasses.dataclass(frozen=True)
class Walked:
    """One arm of one seed: a row per trial, a profile per cell (None where nobody walked)."""

    seed: int
    arm: str
    rows: list[Row]
    profiles: list[Profile | None]


def walk_arm(policy: Path, seed: int, arm: str, settings: WalkSettings, keep: Path | None = None) -> Walked:
    """Walks all cells with the policy of an arm, or reads what was walked before with the same policy and settings."""
    from mjx_exo.teacher import find_policy, load_teacher

    teacher = load_teacher(policy)
    asked = json.dumps([teacher.policy.description["sha256"], dataclasses.asdict(settings), arm], sort_keys=True)
    mark = hashlib.sha256(asked.encode()).hexdigest()[:16]
    if keep is not None and keep.is_file():
        stored = json.loads(keep.read_text())
        if stored["mark"] == mark:
            return Walked(seed, arm, stored["rows"], [_profile(p) for p in stored["profiles"]])
    study = teacher.policy.description["settings"].get("study", {})
    rows, profiles = [], []
    at_once = max(1, BATCH // (settings.wearers * settings.trials))
    for first in range(0, len(settings.cells), at_once):
        part = range(first, min(first + at_once, len(settings.cells)))
        env, act = _walker(teacher, study, len(part), settings)
        walked, curves = _walk(env, act, part, settings)
        rows += [{"seed": seed, "arm": arm} | row for row in walked]
        profiles += curves
    if keep is not None:
        plain = [None if p is None else [np.asarray(value).tolist() for value in p] for p in profiles]
        write_json(keep, {"mark": mark, "policy": str(find_policy(policy).name), "rows": rows, "profiles": plain})
    return Walked(seed, arm, rows, profiles)


def _profile(stored: Any) -> Profile | None:
    return None if stored is None else Profile(np.array(stored[0]), np.array(stored[1]), float(stored[2]))


def _walker(teacher: Any, study: dict[str, Any], cells: int, settings: WalkSettings) -> tuple[WalkingEnv, Any]:
    """Environments with held-out wearers, every wearer in every cell, and who acts in them."""
    base = teacher.config.walking
    changes = {
        "engine": settings.engine,
        "physics_step_s": settings.step_s,
        "wearers": settings.wearers,
        "wearer_seed": base.wearer_seed + HELD_OUT,
    }
    count = settings.wearers * settings.trials * cells
    controller = study.get("controller", "")
    if not controller:
        return teacher.environment(count, settings.seconds + 1.0, **changes), teacher.act
    from mjx_exo.controllers import ControlledEnv, ReferenceDriver, human_only
    from mjx_exo.walking.reference_controllers import reference_controller

    parameters = type(reference_controller(controller).parameters)(**study["parameters"])
    env = teacher.environment(count, settings.seconds + 1.0, human_only=True, **changes)
    act = human_only(lambda seen: teacher.policy.act("human", seen))
    return ControlledEnv(env, ReferenceDriver(controller, parameters)), act


def _walk(env: WalkingEnv, act: Any, part: range, settings: WalkSettings) -> tuple[list[Row], list[Profile | None]]:
    """Rows of all trials and a profile per cell of `part`, whose environments take turns."""
    cell_of = np.arange(env.num_envs) % len(part)
    wanted = np.array([settings.cells[part[i]] for i in cell_of], np.float32)
    slope = jnp.asarray(np.deg2rad(wanted[:, 1]))
    # The key belongs to the cells, so every arm starts from the same postures.
    key = jax.random.fold_in(jax.random.key(settings.seed), part[0])
    state = start_walking(env, key, jnp.asarray(wanted[:, 0]), slope)
    trials = run_trials(env, act, state, settings.seconds)
    recordings = to_recordings(env, trials)
    strides = [[] if r.fell else find_strides(r, skip_s=settings.settle_s) for r in recordings]
    measures = _measures(env, trials, recordings, strides)
    wearer_of = np.asarray(env.engine.wearer_of)
    rows = [
        {"cell": part[cell_of[n]], "speed_command_m_s": settings.cells[part[cell_of[n]]][0],
         "slope_deg": settings.cells[part[cell_of[n]]][1], "wearer": int(wearer_of[n])} | row
        for n, row in enumerate(measures)
    ]  # fmt: skip
    return rows, [
        _mean_profile([(recordings[n], strides[n]) for n in np.flatnonzero(cell_of == i)]) for i in range(len(part))
    ]


def trial_measures(env: WalkingEnv, trials: Trials, settle_s: float) -> list[Row]:
    """One row per trial: `fell`, and, for those that walked whole strides after `settle_s`, every measure."""
    recordings = to_recordings(env, trials)
    strides = [[] if r.fell else find_strides(r, skip_s=settle_s) for r in recordings]
    return _measures(env, trials, recordings, strides)


def _measures(env: WalkingEnv, trials: Trials, recordings: list[Recording], strides: list[list[Stride]]) -> list[Row]:
    bhargava = bhargava_power_w(env, trials.series)
    rows = []
    for n, (recording, mine) in enumerate(zip(recordings, strides, strict=True)):
        row: Row = {"fell": bool(recording.fell)}
        span = whole_strides_s(mine)
        if span is not None:
            row |= mechanical_measures(recording, span) | effort_measures(recording, span)
            row |= {f"{ACTIVATION_OF}{group}": mean for group, mean in activation_by_group(recording, span).items()}
            power = bhargava[: recording.time_s.size, n]
            muscles = float(time_mean(recording.time_s, power, span))
            row["metabolic_bhargava_W_kg"] = (muscles + recording.metabolic_rest_w) / recording.body_mass_kg
            row["speed_m_s"] = float(mean_speed_m_s(recording, *(np.array([t]) for t in span))[0])
            row["cadence_steps_min"] = 120.0 / float(np.mean([s.duration_s for s in mine]))
            row["trunk_lean_deg"] = trunk_lean_deg(recording, span)
            row |= _limit_shares(env, recording, n)
        rows.append(row)
    return rows


def bhargava_power_w(env: WalkingEnv, series: dict[str, np.ndarray]) -> np.ndarray:
    """Metabolic power of all muscles together [T, N] in W after Bhargava 2004."""
    power = env.metabolism.bhargava_w(
        series["excitation"], series["activation"], series["fibre_length"], series["fibre_velocity"]
    )
    return np.asarray(power).sum(axis=-1)


def trunk_lean_deg(recording: Recording, span_s: tuple[float, float]) -> float:
    """Mean forward lean of the trunk from the vertical, degrees: pelvis tilt and lumbar flexion."""
    lean = recording.pelvis_orientation_rad[:, 1]
    if "lumbar_flexion" in recording.joint_names:
        lean = lean + recording.joint_angle_rad[:, recording.joint_names.index("lumbar_flexion")]
    return float(np.rad2deg(time_mean(recording.time_s, lean, span_s)))


def _limit_shares(env: WalkingEnv, recording: Recording, n: int) -> Row:
    """Largest torque, change of the requested torque, and power of the device, as shares of what its profile allows."""
    if env.profile is None or env.config.device_mode != "active":
        return {}
    limits = env.profile.limits(recording.body_mass_kg)
    torque = np.abs(recording.exo_torque_nm_kg).max() * recording.body_mass_kg
    columns = [recording.joint_names.index(f"hip_flexion_{side[0]}") for side in SIDES]
    power = recording.exo_torque_nm_kg * recording.body_mass_kg * recording.joint_velocity_rad_s[:, columns]
    request = recording.exo_command_nm_kg * recording.body_mass_kg
    rate = np.abs(np.diff(request, axis=0)).max() * recording.rate_hz
    return {
        "torque_share_of_limit": float(torque / limits.limit_nm),
        "rate_share_of_limit": float(rate / limits.rate_limit_nm_s),
        "power_share_of_limit": float(np.abs(power).max() / limits.power_limit_w),
    }


def _mean_profile(trials: list[tuple[Recording, list[Stride]]]) -> Profile | None:
    """Mean over trials, so that a quick walker's many strides do not weigh more."""
    curves, durations = [], []
    for recording, strides in trials:
        sides = []
        for index, side in enumerate(SIDES):
            mine = of_side(strides, side)
            moment = recording.joint("biological_moment_nm_kg", "hip_flexion", side)
            if mine and moment is not None:
                signals = np.stack([recording.exo_torque_nm_kg[:, index], moment], axis=1)
                sides.append(over_cycle(recording.time_s, signals, mine).mean(axis=0))
        if sides:
            curves.append(np.mean(sides, axis=0))
            durations.append(np.mean([s.duration_s for s in strides]))
    if not curves:
        return None
    mean = np.mean(curves, axis=0)
    return Profile(mean[:, 0], mean[:, 1], float(np.mean(durations)))


def check_held_out(training: Any, settings: WalkSettings) -> None:
    """Raises `UserError` if an evaluation's wearer is one of the training's."""

    def people(count: int, seed: int) -> set[Wearer]:
        # As an environment is built: a single wearer is the published body itself.
        return {Wearer()} if count <= 1 else set(draw_wearers(count, training.wearer_range, seed))

    trained = people(training.wearers, training.wearer_seed)
    tested = people(settings.wearers, training.wearer_seed + HELD_OUT)
    if trained & tested:
        raise UserError(f"{settings.wearers} wearer(s): the same people as in training; allowed: 2 or more")
