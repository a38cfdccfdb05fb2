"""`python -m mjx_exo.student_transfer STUDENT --teacher T --out DIR`: the student on bodies it never met.

Nothing is retrained. The student drives the device on the published tendon model of the teacher's body, and on every
other person given with --human, such as one of 80 muscles. It is compared with its teacher at the same states; where a
body has joints that the teacher does not know, the teacher sees those it knows. Leaves transfer.json, report.html and
the torque figures.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mjx_exo.errors import UserError, run_command

if TYPE_CHECKING:
    from jax import Array

    from mjx_exo.student_check import CheckedCell
    from mjx_exo.teacher import Teacher
    from mjx_exo.walking.env import WalkingEnv
    from mjx_exo.walking.state import EnvState

TARGET_R = 0.85


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m mjx_exo.student_transfer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("student", type=Path, help="folder that distillation wrote")
    p.add_argument("--teacher", required=True, help="its teacher")
    p.add_argument("--out", type=Path, required=True, help="folder of the results")
    p.add_argument("--human", action="append", default=[], metavar="POLICY", help="another person; may be repeated")
    p.add_argument("--no-published", action="store_true", help="leave the published tendon model out")
    p.add_argument("--step-ms", type=float, default=2.0, help="physics step of the published model, 1..2 ms (2)")
    p.add_argument("--speeds", default="0.9,1.2,1.5", help="m/s (0.9,1.2,1.5)")
    p.add_argument("--slopes", default="-3,0,3", help="degrees, uphill positive (write --slopes=-3,0,3)")
    p.add_argument("--trials", type=int, default=2, help="trials per cell (2)")
    p.add_argument("--seconds", type=float, default=10.0, help="length of a trial (10)")
    p.add_argument("--engine", default="auto", help="engine of the other persons: auto, native or mjx")
    return p


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0."""
    arguments = parser().parse_args(sys.argv[1:] if argv is None else argv)
    from mjx_exo.evaluate import numbers

    speeds, slopes = numbers(arguments.speeds, "--speeds"), numbers(arguments.slopes, "--slopes")
    if not 1.0 <= arguments.step_ms <= 2.0:
        raise UserError(f"--step-ms = {arguments.step_ms:g}; allowed: 1..2")
    from mjx_exo.cache import use_jax_cache
    from mjx_exo.gait.files import plain, write_json
    from mjx_exo.learning.checkpoint import plain_errors
    from mjx_exo.student_check import CheckConfig
    from mjx_exo.teacher import load_teacher
    from policies.storage import load_student

    use_jax_cache()
    config = CheckConfig(tuple(speeds), tuple(slopes), arguments.trials, arguments.seconds, arguments.engine)
    student, teacher = load_student(arguments.student), load_teacher(arguments.teacher)
    if not teacher.assists:
        raise UserError(f"{arguments.teacher} has no exo actor")
    others = [load_teacher(path) for path in arguments.human]
    with plain_errors(arguments.out):
        arguments.out.mkdir(parents=True, exist_ok=True)
    bodies: dict[str, tuple[Teacher, dict[str, Any]]] = {}
    if not arguments.no_published:
        name = f"{teacher.config.walking.body}, published tendon model, {arguments.step_ms:g} ms"
        bodies[name] = (teacher, {"engine": "published", "physics_step_s": 1e-3 * arguments.step_ms, "wearers": 1})
    for other in others:
        bodies[f"{other.config.walking.body} ({other.source})"] = (other, {})
    if not bodies:
        raise UserError("nothing to do: --no-published and no --human")
    summary: dict[str, Any] = {"teacher": teacher.source, "params_hash": student.params_hash, "bodies": {}}
    checked: dict[str, list[CheckedCell]] = {}
    for name, (person, changes) in bodies.items():
        print(f"{name}:", flush=True)
        checked[name] = on_body(teacher, student, person, config, changes, _say)
        summary["bodies"][name] = _figures(checked[name])
    write_json(arguments.out / "transfer.json", plain(summary))
    page = _page(arguments.out, checked, summary)
    for name, figures in summary["bodies"].items():
        print(
            f"{name}: r {figures['r_profile_mean']:.3f} (raw {figures['r_raw_mean']:.3f}), RMSE "
            f"{figures['rmse_Nm_kg']:.4f} Nm/kg, no fall {figures['fall_free_student']:.2f}, benefit kept "
            f"{figures['benefit_kept']:.2f}"
        )
    print(f"report: {page}")
    return 0


def _say(share: float) -> None:
    print(f"  {100 * share:.0f} %", flush=True)


def on_body(
    teacher: Teacher, student: Any, person: Teacher, config: Any, changes: dict[str, Any],
    say: Callable[[float], None] | None = None,
) -> list[CheckedCell]:  # fmt: skip
    """The student drives the device on `person`, on the cells that `person` knows.

    changes: of the person's walking task, e.g. the engine. Raises `UserError` where the device cannot be worn.
    """
    from mjx_exo.student_check import cells_for, check_cells

    cells = [cell for cell in cells_for(person, config) if cell.kind == "held out"]
    device = teacher.config.walking.device

    def environment(count: int, episode_s: float, **asked: Any) -> WalkingEnv:
        settings = {**asked, "device": device, "device_mode": "active", **changes}
        return person.environment(count, episode_s, human_only=True, **settings)

    def label(env: WalkingEnv) -> Callable[[EnvState], Array]:
        return ForeignTeacher(teacher, env).torque

    return check_cells(
        teacher, student, config, cells, None, say, environment, human=person.policy, label_on=label
    )  # fmt: skip


class ForeignTeacher:
    """A teacher's exoskeleton actor on a body of other joints: it sees the joints that it knows."""

    def __init__(self, teacher: Teacher, env: WalkingEnv):
        """Raises `UserError` if the body lacks a joint that the teacher must see."""
        import jax
        import numpy as np

        from mjx_exo.musculoskeletal.compiled import compile_body
        from mjx_exo.walking import observations

        self.teacher, self.env = teacher, env
        home, here = compile_body(teacher.config.walking.body), env.engine.body
        known, there = home.leg.paths.joints, list(here.leg.paths.joints)
        missing = [joint for joint in known if joint not in there]
        if missing:
            raise UserError(f"body {here.name} has no joint {missing[0]!r}, which the teacher {teacher.source} sees")
        self._keep = np.array([there.index(joint) for joint in known])
        self._trunk = home.trunk is not None
        if self._trunk and here.trunk is None:
            raise UserError(f"body {here.name} has no moving trunk, which the teacher {teacher.source} sees")
        example = jax.eval_shape(
            lambda: {name: f.value for name, f in self._features(env.reset(jax.random.key(0))).items()}
        )
        self._table = observations.ObservationTable(observations.EXO, example)
        size = teacher.policy.description["actors"]["exo"]["observation_size"]
        if self._table.size != size:
            raise UserError(
                f"the exo actor of {teacher.source} sees {size} numbers; body {here.name} gives it {self._table.size}"
            )

    def _features(self, moment: EnvState) -> dict[str, Any]:
        features = dict(self.env.features(moment))
        for name in ("leg_angles", "leg_velocities"):
            features[name] = features[name]._replace(value=features[name].value[:, :, self._keep])
        if not self._trunk:
            for name in ("trunk_angles", "trunk_velocities"):
                features[name] = features[name]._replace(value=features[name].value[:, :0])
        return features

    def torque(self, moment: EnvState) -> Array:
        """What the teacher aims at, Nm [N, 2], right and left."""
        walkers = self.env.walkers
        hip = moment.physics.qpos[:, 7:][:, walkers.legs[:, walkers.hip]]
        seen = self._table.assemble(self._features(moment), hip[:, 1] > hip[:, 0])  # the forward thigh leads
        action = self.teacher.policy.act("exo", seen)
        return self.env.torque_from_action(moment, action)


def _figures(cells: list[CheckedCell]) -> dict[str, Any]:
    from mjx_exo.student_check import summarise

    summary = summarise(cells)
    r = summary["r_profile_mean"]
    summary["r_reaches_target"] = bool(r >= TARGET_R) if math.isfinite(r) else None
    return summary | {"cells": [cell.as_dict() for cell in cells]}


def _page(folder: Path, checked: dict[str, list[CheckedCell]], summary: dict[str, Any]) -> Path:
    from mjx_exo.gait import figures
    from mjx_exo.gait.report import Image, Section, TextTable, said, write_page
    from mjx_exo.student_report import COLUMNS

    sections = []
    for index, (name, cells) in enumerate(checked.items()):
        rows = [[c.cell.name, *(said(c.as_dict().get(k), form) for k, (_, form) in COLUMNS.items())] for c in cells]
        overall = summary["bodies"][name]
        text = [
            f"r of the stride means {said(overall['r_profile_mean'], '.3f')} (at least {TARGET_R} wanted), RMSE "
            f"{said(overall['rmse_Nm_kg'], '.4f')} Nm/kg, benefit kept {said(overall['benefit_kept'], '.0%')}. "
            f"{overall['benefit_note']}"
        ]
        pairs = [
            figures.TorquePair(c.cell.name, c.torque.strides[1], c.torque.strides[0], f"r {c.torque.r_profile:.3f}")
            for c in cells
            if len(c.torque.strides[0])
        ]
        picture = figures.torque_pairs(pairs, names=("teacher", "student"), columns=3) if pairs else None
        images = [Image(f"torque_{index + 1}", figures.png(picture))] if picture is not None else []
        table = TextTable(["cell", *(title for title, _ in COLUMNS.values())], rows)
        sections.append(Section(name, text, [table], images))
    lead = [f"Teacher {summary['teacher']}; nothing was retrained for these bodies; sensors drawn at random."]
    return write_page(folder, "The student on other bodies", lead, sections)


if __name__ == "__main__":
    run_command(main)
