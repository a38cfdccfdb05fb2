"""How well a student does where it was not trained: other wearers, other speeds, odd slopes, sensors drawn at random.

The student drives and is compared with the teacher at the same states, cell by cell; the same wearers walk with the
teacher and with nobody driving, which says how much of the teacher's metabolic benefit the student keeps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError
from mjx_exo.gait.profiles import compare_series
from mjx_exo.gait.recording import Recording
from mjx_exo.learning.policy_file import Policy
from mjx_exo.student_driving import StudentDriving
from mjx_exo.student_standing import StandingPeople
from mjx_exo.student_trials import ARMS, Benefit, TorqueMatch, Trials, benefit, match, recording, walk
from mjx_exo.teacher import Teacher
from mjx_exo.walking.rollout import start_walking
from policies.storage import SavedStudent
from policies.student import Student, check_measures

CHECK_SEED = 4242
SPEEDS_M_S = (0.7, 0.9, 1.1, 1.3, 1.5, 1.7)
SLOPES_DEG = (-5.0, -3.0, -1.0, 1.0, 3.0, 5.0)
LEVEL_SPEEDS_M_S = (0.9, 1.1, 1.25, 1.5)
"""Level walking that a device's log is held against; not part of the averages."""
LARGEST_BATCH = 1200
STANDING_S = 6.0
STANDING_PEOPLE = 64

TARGETS: dict[str, tuple[str, float]] = {
    "r_profile_mean": ("at least", 0.95),
    "r_profile_worst": ("at least", 0.9),
    "r_raw_mean": ("at least", 0.9),
    "rmse_Nm_kg": ("at most", 0.02),
    "amplitude_ratio": ("0.85 to", 1.15),
    "benefit_kept": ("at least", 0.85),
    "standing_rms_Nm_kg": ("at most", 0.02),
    "onnx_max_abs_diff": ("at most", 1e-5),
}
"""What a student should reach, by the names of summary.json."""


@dataclasses.dataclass(frozen=True)
class CheckConfig:
    """Where and with whom a student is checked."""

    speeds_m_s: tuple[float, ...] = SPEEDS_M_S
    slopes_deg: tuple[float, ...] = SLOPES_DEG
    wearers: int = 8
    """People it was not trained on; each walks every cell."""
    seconds: float = 12.0
    """Length of a trial, of which the first two seconds do not count."""
    engine: str = "auto"
    seed: int = CHECK_SEED

    def __post_init__(self) -> None:
        if self.wearers < 1:
            raise UserError(f"wearers of the check = {self.wearers}; allowed: 1 or more")
        if not self.seconds >= 6.0:
            raise UserError(f"seconds of the check = {self.seconds:g}; allowed: 6 or more")


@dataclasses.dataclass(frozen=True)
class Cell:
    """A speed and a slope (radians, uphill positive); `kind` is "held out", "level" or "standing"."""

    speed_m_s: float
    slope_rad: float
    kind: str = "held out"

    @property
    def arms(self) -> tuple[str, ...]:
        """Who drives in it."""
        return tuple(ARMS) if self.kind == "held out" else ("student",)

    @property
    def name(self) -> str:
        """E.g. "1.3 m/s, +3°"."""
        return f"{self.speed_m_s:g} m/s, {math.degrees(self.slope_rad):+.3g}°"


@dataclasses.dataclass(frozen=True)
class CheckedCell:
    """What was found in a cell."""

    cell: Cell
    torque: TorqueMatch
    benefit: Benefit | None
    fall_free: dict[str, float]
    speed_m_s: dict[str, float]
    recordings: list[Recording]
    rates: np.ndarray  # [3, W] W/kg: nobody, teacher, student

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        entry: dict[str, Any] = {
            "speed_m_s": self.cell.speed_m_s,
            "slope_deg": round(math.degrees(self.cell.slope_rad), 6),
            **self.torque.as_dict(),
        }
        for arm, share in self.fall_free.items():
            entry[f"fall_free_{arm}"] = share
            entry[f"speed_{arm}_m_s"] = self.speed_m_s[arm]
        return entry | ({} if self.benefit is None else self.benefit.as_dict())


def cells_for(teacher: Teacher, config: CheckConfig) -> list[Cell]:
    """The cells that lie within what the teacher was trained on; standing only if it was asked to stand.

    A teacher of one speed or of level ground only is checked there.
    """
    command = teacher.config.walking.command
    speeds = _within(config.speeds_m_s, command.speed_m_s)
    slopes = [math.radians(s) for s in _within(config.slopes_deg, tuple(math.degrees(s) for s in command.slope_rad))]
    cells = [Cell(speed, slope) for slope in slopes for speed in speeds]
    if command.slope_rad[0] <= 1e-6 and command.slope_rad[1] >= -1e-6:
        cells += [Cell(speed, 0.0, "level") for speed in _within(LEVEL_SPEEDS_M_S, command.speed_m_s)]
    if command.stand_share > 0:
        cells.append(Cell(0.0, 0.0, "standing"))
    return cells


def _within(values: Sequence[float], span: tuple[float, float]) -> list[float]:
    low, high = span
    return [v for v in values if low - 1e-6 <= v <= high + 1e-6] or [0.5 * (low + high)]


def student_profile(teacher: Teacher, student: SavedStudent) -> DeviceProfile:
    """The device of a student: as kept beside it, else the teacher's. Raises `UserError` if its sensors do not fit."""
    kept = student.training.get("profile")
    profile = DeviceProfile.from_dict(kept, "the student's profile") if kept else None
    profile = profile or DeviceProfile.load(teacher.config.walking.device)
    check_measures(profile, student.config.signals)
    return profile


def check_cells(
    teacher: Teacher,
    student: SavedStudent,
    config: CheckConfig,
    cells: Sequence[Cell],
    unassisted: Policy | None = None,
    say: Callable[[float], None] | None = None,
    environment: Callable[..., Any] | None = None,
    human: Policy | None = None,
    label_on: Callable[[Any], Callable[[Any], jax.Array]] | None = None,
) -> list[CheckedCell]:
    """Walks all cells in as few batches as possible, normally one.

    Args:
      unassisted: who walks where nobody drives the device; None is the teacher's own human.
      environment: builds an environment from a number of environments, an episode and changes; None is the teacher's.
      human: who walks; None is the teacher's own.
      label_on: makes from an environment what gives the torque, Nm, that the teacher aims at in a state; None asks the
        teacher.
    """
    slots = [(index, arm) for index, cell in enumerate(cells) for arm in cell.arms]
    at_once = max(1, min(config.wearers, LARGEST_BATCH // len(slots)))
    batches = math.ceil(config.wearers / at_once)
    found: dict[tuple[int, str], list[tuple[Trials, int]]] = {slot: [] for slot in slots}
    profile = student_profile(teacher, student)
    for batch in range(batches):
        wearers = min(at_once, config.wearers - batch * at_once)
        seed = config.seed + batch
        build = environment or teacher.environment
        env = build(
            wearers * len(slots), config.seconds + 2.0, engine=config.engine, wearers=wearers, wearer_seed=seed
        )  # fmt: skip
        label = None if label_on is None else label_on(env)
        driver = StudentDriving(
            env, teacher, student.config, profile, human=human, unassisted=unassisted, label=label
        )  # fmt: skip
        slot_of = np.arange(env.num_envs) % len(slots)  # wearers are neighbours: every slot gets all of them
        speed = np.array([cells[index].speed_m_s for index, _ in slots], np.float32)[slot_of]
        slope = np.array([cells[index].slope_rad for index, _ in slots], np.float32)[slot_of]
        state = jax.jit(driver.init)(jax.random.key(seed))
        start = jax.jit(lambda key, v, s, env=env: start_walking(env, key, v, s))
        state = state.replace(env=start(jax.random.key(seed + 1), jnp.asarray(speed), jnp.asarray(slope)))
        arms = np.array([ARMS[arm] for _, arm in slots])[slot_of]
        told = None if say is None else (lambda share, batch=batch: say((batch + share) / batches))
        trials = walk(driver, student.params, state, arms, config.seconds, told)
        for n, slot in enumerate(slot_of):
            found[slots[slot]].append((trials, n))
    return [_checked(cell, index, found) for index, cell in enumerate(cells)]


def _checked(cell: Cell, index: int, found: dict[tuple[int, str], list[tuple[Trials, int]]]) -> CheckedCell:
    label = f"student at {cell.name}"
    driven = found[index, "student"]
    recordings = [recording(trials, n, cell.speed_m_s, cell.slope_rad, label) for trials, n in driven]
    kept = [r for r in recordings if r is not None]
    rates, falls, speeds = {}, {}, {}
    for arm in cell.arms:
        rows = found[index, arm]
        whole = np.array([not trials.fell[n] for trials, n in rows])
        means = {id(t): (t.mean_after_settling(t.metabolic_w_kg), t.mean_after_settling(t.speed_m_s)) for t, _ in rows}
        rates[arm] = np.array([means[id(t)][0][n] if ok else np.nan for (t, n), ok in zip(rows, whole, strict=True)])
        walked = np.array([means[id(t)][1][n] for t, n in rows])
        falls[arm] = float(whole.mean())
        speeds[arm] = float(np.nanmean(walked)) if np.isfinite(walked).any() else math.nan
    order = [rates.get(arm, np.full(len(driven), np.nan)) for arm in ("nobody", "teacher", "student")]
    saved = benefit(*order) if len(cell.arms) == len(ARMS) else None
    return CheckedCell(cell, match(kept, cell.kind != "standing"), saved, falls, speeds, kept, np.stack(order))


def summarise(checked: Sequence[CheckedCell]) -> dict[str, Any]:
    """Figures over all held-out cells, by the names of summary.json; nan where nothing could be said."""
    held_out = [c for c in checked if c.cell.kind == "held out"]
    rows = [c.torque for c in held_out]
    raw = compare_series(*(np.concatenate([row.raw[i] for row in rows]) for i in (0, 1)))
    overall = benefit(*np.concatenate([c.rates for c in held_out], axis=1))
    summary: dict[str, Any] = {
        "r_profile_mean": _mean([row.r_profile for row in rows]),
        "r_profile_worst": _least([row.r_profile for row in rows]),
        "r_raw_mean": _mean([row.r_raw for row in rows]),
        "rmse_Nm_kg": raw.rmse_nm_kg,
        "amplitude_ratio": raw.amplitude_ratio,
        "benefit_kept": overall.kept,
        "r_profile_worst_trial": _least([row.r_profile_worst_trial for row in rows]),
        "rmse_profile_Nm_kg": _mean([row.rmse_profile_nm_kg for row in rows]),
        "r_raw_all_samples": raw.r,
        "amplitude_ratio_lowest": _least([row.amplitude_ratio for row in rows]),
        "amplitude_ratio_highest": -_least([-row.amplitude_ratio for row in rows]),
    }
    for arm in ARMS:
        summary[f"fall_free_{arm}"] = _mean([c.fall_free[arm] for c in held_out])
    return summary | overall.as_dict()


def _mean(values: Sequence[float]) -> float:
    """The mean; nan as soon as one cell says nothing, so that a cell in which all fell cannot be overlooked."""
    return float(np.mean(values)) if len(values) else math.nan


def _least(values: Sequence[float]) -> float:
    return float(np.min(values)) if len(values) else math.nan


def standing_torque(checked: Sequence[CheckedCell], student: SavedStudent, profile: DeviceProfile) -> dict[str, Any]:
    """Root mean square of the student's torque, Nm/kg, of wearers who stand in simulation and of swaying thighs.

    `standing_rms_Nm_kg` is the simulation's where somebody stood there to the end, else that of the swaying thighs.
    """
    people = StandingPeople(STANDING_PEOPLE, profile, student.config)
    ticks = round(STANDING_S * student.config.rate_hz) + student.config.receptive_field

    @jax.jit
    def sway(key: jax.Array) -> jax.Array:
        _, rollout = people.roll(people.init(key), ticks, 1.0 / student.config.rate_hz)
        signals = jnp.swapaxes(rollout.signals, 0, 1)
        return Student(student.config).apply(student.params, signals, method="sequence")

    swaying = _rms(np.asarray(sway(jax.random.key(CHECK_SEED))))
    stood = [c.torque.raw[1] for c in checked if c.cell.kind == "standing" and c.fall_free["student"] > 0]
    stood = [rows for rows in stood if len(rows)]
    simulated = _rms(np.concatenate(stood)) if stood else math.nan
    return {
        "standing_rms_Nm_kg": simulated if stood else swaying,
        "standing_source": "simulated wearers" if stood else "swaying thighs; the teacher was never asked to stand",
        "standing_rms_swaying_Nm_kg": swaying,
    }


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def targets_met(summary: dict[str, Any]) -> dict[str, bool | None]:
    """Per target whether the summary reaches it; None where its figure is unknown."""
    met: dict[str, bool | None] = {}
    for name, (word, bound) in TARGETS.items():
        value = summary.get(name)
        if value is None or not math.isfinite(value):
            met[name] = None
        elif word == "0.85 to":
            met[name] = 0.85 <= value <= bound
        else:
            met[name] = value >= bound if word == "at least" else value <= bound
    return met
