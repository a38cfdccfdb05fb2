"""`python -m mjx_exo.student_robustness STUDENT … --teacher T --out DIR`: what each error of a sensor costs.

One error at a time on otherwise perfect sensors: noise, misalignment of the housing, latency, lost samples. The student
drives; figures are against the teacher at the same states, and the metabolic power that is saved against the device
switched off, beside what the teacher saves. Several students, e.g. of one gyroscope axis and of richer sensors, come
out beside each other. Leaves robustness.json, robustness.png and report.html.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mjx_exo.errors import UserError, run_command

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mjx_exo.teacher import Teacher
    from mjx_exo.walking.sensors import SensorParameters
    from policies.storage import SavedStudent

SPEEDS_M_S = (0.9, 1.3, 1.7)
SEED = 515


@dataclasses.dataclass(frozen=True)
class Sweep:
    """One error of the sensors and the sizes it is given; `levels` in `unit`."""

    name: str
    unit: str
    levels: tuple[float, ...]


SWEEPS = (
    Sweep("noise", "rad/s", (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)),
    Sweep("misalignment about the thigh", "°", (-20.0, -15.0, -10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0)),
    Sweep("misalignment forward", "°", (-20.0, -15.0, -10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0)),
    Sweep("latency", "ms", (0.0, 10.0, 20.0, 30.0, 40.0, 50.0)),
    Sweep("lost samples", "%", (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)),
)
CAPTION = "One error at a time on otherwise true sensors. Dotted: what the teacher saves, same people and speeds."
MEASURES = {"r_raw": "r of all samples", "rmse_Nm_kg": "RMSE, Nm/kg", "saved_percent": "metabolic power saved, %"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m mjx_exo.student_robustness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("students", nargs="+", type=Path, metavar="STUDENT", help="folders that distillation wrote")
    p.add_argument("--teacher", required=True, help="their teacher")
    p.add_argument("--out", type=Path, required=True, help="folder of the results")
    p.add_argument("--wearers", type=int, default=8, help="people per speed and level (8)")
    p.add_argument("--seconds", type=float, default=10.0, help="length of a trial (10)")
    p.add_argument("--engine", default="auto", help="auto, native or mjx")
    p.add_argument("--unassisted", default="", help="policy of a person trained with the device off")
    return p


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0."""
    arguments = parser().parse_args(sys.argv[1:] if argv is None else argv)
    if arguments.wearers < 1 or not arguments.seconds >= 6.0:
        raise UserError("--wearers must be at least 1 and --seconds at least 6")
    from mjx_exo.cache import use_jax_cache
    from mjx_exo.gait.files import write_json
    from mjx_exo.learning.checkpoint import plain_errors
    from mjx_exo.teacher import load_teacher
    from policies.storage import load_student
    from policies.student import sensors_of

    use_jax_cache()
    teacher = load_teacher(arguments.teacher)
    if not teacher.assists:
        raise UserError(f"{arguments.teacher} has no exo actor")
    unassisted = load_teacher(arguments.unassisted).policy if arguments.unassisted else None
    students = [load_student(path) for path in arguments.students]
    with plain_errors(arguments.out):
        arguments.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for path, student in zip(arguments.students, students, strict=True):
        name = ", ".join(sensors_of(student.config.signals)).replace("_", " ")
        name = name if name not in found else f"{name} ({path.name})"

        def say(share: float, name: str = name) -> None:
            print(f"{name}: {100 * share:.0f} %", flush=True)

        found[name] = sweep(
            teacher, student, arguments.wearers, arguments.seconds, arguments.engine, unassisted=unassisted, say=say
        )
    write_json(arguments.out / "robustness.json", found)
    page = write_robustness_page(arguments.out, found, teacher.source)
    print(f"report: {page}")
    return 0


def with_error(parameters: SensorParameters, sweep: str, level: np.ndarray) -> SensorParameters:
    """`parameters` with one error set to `level` [N], in the unit of that sweep; the same on both sides."""
    import jax.numpy as jnp

    if sweep == "noise":
        return parameters.replace(noise_rad_s=jnp.asarray(level, jnp.float32))
    if sweep == "latency":
        return parameters.replace(latency_s=jnp.asarray(1e-3 * level, jnp.float32))
    if sweep == "lost samples":
        return parameters.replace(lost_share=jnp.asarray(0.01 * level, jnp.float32))
    axis = {"misalignment about the thigh": 2, "misalignment forward": 1}[sweep]
    turn = jnp.asarray(np.radians(level), jnp.float32)[:, None]
    return parameters.replace(mounting=parameters.mounting.at[:, :, axis].set(turn))


def sweep(
    teacher: Teacher, student: SavedStudent, wearers: int, seconds: float, engine: str = "auto",
    sweeps: Sequence[Sweep] = SWEEPS, speeds_m_s: Sequence[float] = SPEEDS_M_S, unassisted: Any = None,
    say: Callable[[float], None] | None = None,
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """Per sweep, a row of figures per level. All levels, speeds and wearers walk in one batch."""
    import jax
    import jax.numpy as jnp

    from mjx_exo.student_check import student_profile
    from mjx_exo.student_driving import NOBODY, STUDENT, TEACHER, StudentDriving
    from mjx_exo.student_trials import walk
    from mjx_exo.walking import sensors
    from mjx_exo.walking.rollout import start_walking

    low, high = teacher.config.walking.command.speed_m_s
    speeds = [v for v in speeds_m_s if low - 1e-6 <= v <= high + 1e-6] or [0.5 * (low + high)]
    conditions = [(s.name, level) for s in sweeps for level in s.levels] + [("teacher", 0.0), ("nobody", 0.0)]
    slots = [(condition, speed) for condition in conditions for speed in speeds]
    env = teacher.environment(wearers * len(slots), seconds + 2.0, engine=engine, wearers=wearers, wearer_seed=SEED)
    slot_of = np.arange(env.num_envs) % len(slots)  # wearers are neighbours: every slot gets all of them
    names = np.array([name for (name, _), _ in slots])[slot_of]
    levels = np.array([level for (_, level), _ in slots])[slot_of]
    speed = np.array([v for _, v in slots], np.float32)[slot_of]
    profile = student_profile(teacher, student)
    parameters = sensors.perfect_sensor(env.num_envs, profile.link.rate_hz)
    for s in sweeps:
        parameters = with_error(parameters, s.name, np.where(names == s.name, levels, 0.0))
    arms = np.where(names == "teacher", TEACHER, np.where(names == "nobody", NOBODY, STUDENT))
    driving = StudentDriving(env, teacher, student.config, profile, unassisted=unassisted)
    state = jax.jit(driving.init)(jax.random.key(SEED), parameters)
    started = start_walking(env, jax.random.key(SEED + 1), jnp.asarray(speed), 0.0)
    trials = walk(driving, student.params, state.replace(env=started), arms, seconds, say)
    rate = np.where(trials.fell, np.nan, trials.mean_after_settling(trials.metabolic_w_kg))
    return {s.name: [_row(trials, rate, names, levels, speed, s.name, level) for level in s.levels] for s in sweeps}


def _row(
    trials: Any, rate: np.ndarray, names: np.ndarray, levels: np.ndarray, speed: np.ndarray, name: str, level: float
) -> dict[str, Any]:
    """The figures of one level over speeds and wearers: r and RMSE are means over the speeds."""
    from mjx_exo.student_trials import benefit, match, recording

    mine = np.flatnonzero((names == name) & (levels == level))
    matches = []
    for v in np.unique(speed):
        rows = [recording(trials, n, float(v), 0.0, f"{name} {level:g}") for n in mine if speed[n] == v]
        matches.append(match([row for row in rows if row is not None]))
    nobody = rate[names == "nobody"]
    kept = benefit(nobody, rate[names == "teacher"], rate[mine])
    saved = {"saved_percent": rate[mine], "saved_by_teacher_percent": rate[names == "teacher"]}
    return {
        "level": level,
        "r_profile": float(np.mean([m.r_profile for m in matches])),
        "r_raw": float(np.mean([m.r_raw for m in matches])),
        "rmse_Nm_kg": float(np.mean([m.rmse_nm_kg for m in matches])),
        "amplitude_ratio": float(np.mean([m.amplitude_ratio for m in matches])),
        "fall_free": float(1.0 - trials.fell[mine].mean()),
        **{name: _percent(1.0 - one / nobody) for name, one in saved.items()},
        **kept.as_dict(),
    }


def _percent(shares: np.ndarray) -> float:
    """Mean of those who came through, in percent; nan if nobody did."""
    known = shares[np.isfinite(shares)]
    return 100.0 * float(known.mean()) if len(known) else math.nan


def robustness_figure(found: dict[str, dict[str, list[dict[str, Any]]]]) -> Figure:
    """r, RMSE and benefit (rows) against each error (columns), a line per student."""
    from mjx_exo.gait import figures

    sweeps = {name: None for rows in found.values() for name in rows}
    units = {s.name: s.unit for s in SWEEPS}
    with figures.rc_context(figures.STYLE):
        figure = figures.Figure(figsize=(2.5 * len(sweeps) + 0.8, 6.4), layout="constrained")
        panels = figure.subplots(len(MEASURES), len(sweeps), sharex="col", sharey="row", squeeze=False)
        for row, (measure, title) in enumerate(MEASURES.items()):
            for column, name in enumerate(sweeps):
                axes = panels[row, column]
                colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#333333")
                for index, (student, rows) in enumerate(found.items()):
                    x = [entry["level"] for entry in rows[name]]
                    y = [math.nan if entry[measure] is None else entry[measure] for entry in rows[name]]
                    style = {"color": colours[index % len(colours)], "marker": "os^Dv"[index % 5], "markersize": 3.5}
                    axes.plot(x, y, label=student, **style)
                    if measure == "saved_percent":
                        teacher = [entry["saved_by_teacher_percent"] for entry in rows[name]]
                        axes.plot(x, teacher, color=style["color"], linestyle=":", linewidth=1.0)
                if row == 0:
                    axes.set_title(name, loc="left")
                if row == len(MEASURES) - 1:
                    axes.set_xlabel(units.get(name, ""))
            panels[row, 0].set_ylabel(title)
            if measure == "saved_percent":  # of little, the scatter would look like much
                panels[row, 0].set_ylim(bottom=min(0.0, panels[row, 0].get_ylim()[0]))
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2)
    return figure


def write_robustness_page(folder: Path, found: dict[str, dict[str, list[dict[str, Any]]]], teacher: str) -> Path:
    """report.html and robustness.png; returns the page's path."""
    from mjx_exo.gait import figures
    from mjx_exo.gait.report import Image, Section, TextTable, said, write_page

    image = Image("robustness", figures.png(robustness_figure(found)), CAPTION)
    columns = {"r_profile": ".3f", "r_raw": ".3f", "rmse_Nm_kg": ".4f", "saved_percent": ".1f", "fall_free": ".0%"}
    units = {s.name: s.unit for s in SWEEPS}
    sections = [Section("All students", (), (), [image])]
    for student, sweeps in found.items():
        tables = [
            TextTable(
                [f"{name}, {units.get(name, '')}", *columns],
                [[f"{row['level']:g}", *(said(row[c], form) for c, form in columns.items())] for row in rows],
            )
            for name, rows in sweeps.items()
        ]
        teacher_saves = next(row["saved_by_teacher_percent"] for rows in sweeps.values() for row in rows)
        sections.append(Section(student, [f"The teacher saves {teacher_saves:.1f} %."], tables))
    lead = [f"Level ground; the student drives and is compared with {teacher} at the same states."]
    return write_page(folder, "What errors of the sensors cost", lead, sections)


if __name__ == "__main__":
    run_command(main)
