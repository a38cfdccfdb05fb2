"""`python -m mjx_exo.distill TEACHER --out DIR`: the student that needs only the thigh gyroscopes.

DAgger: the student drives, the teacher says what it would have done, the student learns it, over wearers, speeds,
slopes and sensors drawn at random. A stopped run goes on with --resume. Ends with a check on wearers and sensors that
were not trained on: summary.json and a figure of torque over the gait cycle.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mjx_exo.errors import UserError, run_command

ROUND_S = 8.0  # simulated seconds of every environment in one round
CHECK_S = 12.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m mjx_exo.distill", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("teacher", help="run folder, policy folder or name of a pretrained policy, with an exo actor")
    p.add_argument("--out", type=Path, required=True, help="folder of the student")
    p.add_argument("--rounds", type=int, default=20, help="rounds of driving and learning (20)")
    p.add_argument("--num-envs", type=int, default=64, help="environments (64)")
    p.add_argument("--steps-per-round", type=int, default=150, help="gradient steps after each round (150)")
    p.add_argument("--engine", default="auto", help="auto, native or mjx")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--resume", action="store_true", help="go on with the run in --out")
    return p


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0."""
    arguments = parser().parse_args(sys.argv[1:] if argv is None else argv)
    from mjx_exo.cache import use_jax_cache
    from mjx_exo.teacher import load_teacher

    use_jax_cache()
    teacher = load_teacher(arguments.teacher)
    if not teacher.assists:
        raise UserError(f"{arguments.teacher} has no exo actor; train one: python -m mjx_exo.train --preset assist")
    summary = distil(teacher, arguments)
    print(json.dumps(summary, indent=2))
    print(f"student: {arguments.out}; next: python -m export.to_onnx {arguments.out} --out student.onnx")
    return 0


def distil(teacher: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains, saves and checks a student; returns the summary that is also written to summary.json."""
    import jax
    import numpy as np

    from mjx_exo.device import DeviceProfile
    from mjx_exo.learning import dagger, dagger_files
    from mjx_exo.student_driving import StudentDriving
    from mjx_exo.walking.config import CommandConfig
    from policies.storage import save_student
    from policies.student import StudentConfig

    walking = teacher.config.walking
    profile = DeviceProfile.load(walking.device)
    command = dataclasses.replace(walking.command, resample_s=4.0, push_n=min(walking.command.push_n, 40.0))
    env = teacher.environment(
        arguments.num_envs, 20.0, command=command, engine=arguments.engine, wearers=max(walking.wearers, 1)
    )
    student = StudentConfig.for_profile(profile)
    driving = StudentDriving(env, teacher, student, profile)
    config = dagger.DaggerConfig(rounds=arguments.rounds, steps_per_round=arguments.steps_per_round)
    steps = round(ROUND_S / env.control_dt)

    def collect(params: Any, carry: Any, key: Any, student_share: Any) -> tuple[Any, Any]:
        del key  # the driving state carries its own
        return driving.collect(params, carry, student_share, steps)

    start_key, carry_key = jax.random.split(jax.random.key(arguments.seed))
    carry = jax.jit(driving.init)(carry_key)
    state = dagger.init_state(config, student, start_key, carry, env.num_envs)
    settings = {
        "dagger": dataclasses.asdict(config),
        "teacher": teacher.policy.description["sha256"],
        "num_envs": arguments.num_envs,
        "seed": arguments.seed,
        "command": dataclasses.asdict(command) if isinstance(command, CommandConfig) else {},
    }
    files = dagger_files.DaggerFiles(arguments.out, settings, arguments.resume)
    state = files.restore(state)
    one_round = dagger.make_round(config, student, collect)
    _train(one_round, state, config.rounds, files, print)
    state = files.latest
    examples = np.asarray(state.store.signals[: student.window_samples * 8, :32]).swapaxes(0, 1)
    save_student(arguments.out, student, jax.device_get(state.params), settings, examples)
    from mjx_exo.student_report import check_student

    summary = check_student(teacher, arguments.out, CHECK_S, arguments.engine, arguments.out)
    files.finish()
    return summary


def _train(
    one_round: Callable[[Any], tuple[Any, Any]], state: Any, rounds: int, files: Any, say: Callable[[str], None]
) -> None:
    """Runs the rounds that are left, saving after each."""
    began, done_before = time.monotonic(), int(state.rounds_done)
    if done_before == 0:
        say("compiling the first round (about a minute)")
    files.latest = state
    for index in range(done_before, rounds):
        state, metrics = one_round(state)
        numbers = {name: float(value) for name, value in metrics.items()}
        files.save(state, numbers)
        passed = time.monotonic() - began
        left = passed / (index + 1 - done_before) * (rounds - index - 1)
        say(
            f"round {index + 1}/{rounds}  r {numbers['r']:.3f}  RMSE {numbers['rmse_nm_per_kg']:.4f} Nm/kg  "
            f"amplitude {numbers['amplitude_ratio']:.2f}  student drives {100 * numbers['student_share']:.0f} %  "
            f"{left:.0f} s left"
        )


if __name__ == "__main__":
    run_command(main)
