"""`python -m mjx_exo.distill TEACHER --out DIR`: the student that needs only the thigh gyroscopes.

DAgger: the student drives, the teacher says what it would have done, the student learns it, over wearers, speeds,
slopes, starts, stops and sensors drawn at random, and commands that change faster than the teacher is used to. A
stopped run goes on with --resume. Ends with a check on wearers, speeds, slopes and sensors that were not trained on:
summary.json, report.html and a reference for device logs. With --rounds 0 only the check is done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mjx_exo.errors import UserError, run_command

ROUND_S = 8.0  # simulated seconds of every environment in one round
EPISODE_S = 12.0  # then a new start, with new sensors


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m mjx_exo.distill", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("teacher", help="run folder, policy folder or name of a pretrained policy, with an exo actor")
    p.add_argument("--out", type=Path, required=True, help="folder of the student")
    p.add_argument("--rounds", type=int, default=20, help="rounds of driving and learning (20); 0: only check --out")
    p.add_argument("--num-envs", type=int, default=64, help="environments (64)")
    p.add_argument("--steps-per-round", type=int, default=150, help="gradient steps after each round (150)")
    p.add_argument("--wearers", type=int, default=32, help="people to learn from (32)")
    p.add_argument("--engine", default="auto", help="auto, native or mjx")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--resume", action="store_true", help="go on with the run in --out")
    task = p.add_argument_group("what is walked")
    task.add_argument("--stand-share", type=float, default=0.1, help="commands to stand, if the teacher can (0.1)")
    task.add_argument("--standing-people", type=int, default=4, help="columns of people who only stand (4)")
    task.add_argument(
        "--standing-label", choices=("zero", "teacher"), default="zero", help="right answer when standing"
    )
    task.add_argument("--sudden", type=float, default=2.0, help="how much faster commands change than in training (2)")
    device = p.add_argument_group("device and sensors")
    device.add_argument("--device", default="", help="device profile whose sensors the student gets (the teacher's)")
    device.add_argument("--sensors", default="", help="instead of the profile's, e.g. gyro_three_axes,hip_encoder")
    device.add_argument("--misalignment-deg", type=float, help="train up to this misalignment (the profile's)")
    device.add_argument("--latency-ms", type=float, help="train up to this latency (the profile's)")
    device.add_argument("--lost-share", type=float, help="train up to this share of lost samples (the profile's)")
    robust = p.add_argument_group("robustness objectives, in shares of the input scale")
    robust.add_argument("--noise", type=float, default=0.0, help="white noise on every sample in learning")
    robust.add_argument("--gain", type=float, default=0.0, help="error of scale in learning, up to ±")
    robust.add_argument("--offset", type=float, default=0.0, help="error of zero in learning, up to ±")
    robust.add_argument("--consistency", type=float, default=0.0, help="weight of how far these errors move the torque")
    robust.add_argument(
        "--smoothness", type=float, default=0.0, help="weight of the torque's jitter under these errors"
    )
    check = p.add_argument_group("the check at the end")
    check.add_argument("--check-wearers", type=int, default=8, help="people who were not trained on (8)")
    check.add_argument("--check-seconds", type=float, default=12.0, help="length of a trial (12)")
    check.add_argument("--unassisted", default="", help="policy of a person trained with the device off")
    return p


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0."""
    arguments = parser().parse_args(sys.argv[1:] if argv is None else argv)
    _check_arguments(arguments)
    from mjx_exo.cache import use_jax_cache
    from mjx_exo.gait.files import plain
    from mjx_exo.teacher import load_teacher

    use_jax_cache()
    teacher = load_teacher(arguments.teacher)
    if not teacher.assists:
        raise UserError(f"{arguments.teacher} has no exo actor; train one: python -m mjx_exo.train --preset assist")
    summary = distil(teacher, arguments)
    print(json.dumps(plain({k: v for k, v in summary.items() if k not in ("cells", "open_loop")}), indent=2))
    out = arguments.out
    print(f"student: {out}; next: python -m export.to_onnx {out} --out {out / 'student.onnx'}")
    return 0


def _check_arguments(arguments: argparse.Namespace) -> None:
    for name, low, high in (
        ("rounds", 0, math.inf), ("num_envs", 1, math.inf), ("steps_per_round", 1, math.inf), ("wearers", 1, math.inf),
        ("stand_share", 0.0, 1.0), ("standing_people", 0, math.inf), ("sudden", 0.1, 10.0),
        ("misalignment_deg", 0.0, 90.0), ("latency_ms", 0.0, 60.0), ("lost_share", 0.0, 0.5),
    ):  # fmt: skip
        value = getattr(arguments, name)
        if value is not None and not low <= value <= high:
            allowed = f"{low:g} or more" if math.isinf(high) else f"{low:g}..{high:g}"
            raise UserError(f"--{name.replace('_', '-')} = {value:g}; allowed: {allowed}")


def distil(teacher: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains, saves and checks a student; returns the summary that is also written to summary.json."""
    from mjx_exo.student_check import CheckConfig
    from mjx_exo.student_report import check_student
    from mjx_exo.teacher import load_teacher

    check = CheckConfig(
        wearers=arguments.check_wearers, seconds=arguments.check_seconds, engine=arguments.engine
    )  # fmt: skip
    unassisted = load_teacher(arguments.unassisted).policy if arguments.unassisted else None
    files = _train(teacher, arguments) if arguments.rounds else None
    print("checking on other wearers, speeds, slopes and sensors", flush=True)
    summary = check_student(teacher, arguments.out, check, unassisted, _progress())
    if files is not None:
        files.finish()
    return summary


def _train(teacher: Any, arguments: argparse.Namespace) -> Any:
    """Trains and saves the student; returns the files of its training state."""
    import jax
    import numpy as np

    from mjx_exo.gait.files import write_text
    from mjx_exo.learning import dagger, dagger_files
    from mjx_exo.student_device import student_device, toml_text
    from mjx_exo.student_driving import StudentDriving, sensor_ranges
    from policies.storage import save_student
    from policies.student import StudentConfig

    walking = teacher.config.walking
    profile = student_device(arguments.device or walking.device, arguments.sensors)
    student = StudentConfig.for_profile(profile)
    config = dagger.DaggerConfig(
        rounds=arguments.rounds,
        steps_per_round=arguments.steps_per_round,
        consistency_weight=arguments.consistency,
        smoothness_weight=arguments.smoothness,
        perturbation=dagger.Perturbation(arguments.gain, arguments.offset, arguments.noise),
    )
    latency_s = None if arguments.latency_ms is None else 1e-3 * arguments.latency_ms
    ranges = sensor_ranges(arguments.misalignment_deg, latency_s, arguments.lost_share, profile)
    command = _command(walking.command, arguments)
    settings = {
        "dagger": dataclasses.asdict(config),
        "teacher": teacher.policy.description["sha256"],
        "num_envs": arguments.num_envs,
        "wearers": arguments.wearers,
        "standing_people": arguments.standing_people,
        "standing_label": arguments.standing_label,
        "seed": arguments.seed,
        "command": dataclasses.asdict(command),
        "sensor_ranges": dataclasses.asdict(ranges),
        "profile": profile.to_dict(),
    }
    files = dagger_files.DaggerFiles(arguments.out, settings, arguments.resume)
    env = teacher.environment(
        arguments.num_envs, EPISODE_S, command=command, engine=arguments.engine, wearers=arguments.wearers
    )
    driving = StudentDriving(env, teacher, student, profile, ranges, arguments.standing_people)
    steps = round(ROUND_S / env.control_dt)

    def collect(params: Any, carry: Any, key: Any, student_share: Any) -> tuple[Any, Any]:
        del key  # the driving state carries its own
        return driving.collect(params, carry, student_share, steps, arguments.standing_label == "zero")

    start_key, carry_key = jax.random.split(jax.random.key(arguments.seed))
    carry = jax.jit(driving.init)(carry_key)
    state = dagger.init_state(config, student, start_key, carry, driving.columns)
    state = files.restore(state)
    _rounds(dagger.make_round(config, student, collect), state, config.rounds, files, print)
    state = files.latest
    shown = state.store.signals[: student.window_samples * 8]
    examples = np.asarray(shown[:, np.unique(np.linspace(0, shown.shape[1] - 1, 32).astype(int))]).swapaxes(0, 1)
    save_student(arguments.out, student, jax.device_get(state.params), settings, examples)
    write_text(arguments.out / "device.toml", toml_text(profile))
    return files


def _command(command: Any, arguments: argparse.Namespace) -> Any:
    """The teacher's commands, changing more often and faster, with standing if the teacher was asked to stand."""
    return dataclasses.replace(
        command,
        resample_s=3.0,
        speed_rate_m_s2=arguments.sudden * command.speed_rate_m_s2,
        slope_rate_rad_s=arguments.sudden * command.slope_rate_rad_s,
        stand_share=arguments.stand_share if command.stand_share > 0 else 0.0,
        push_n=min(command.push_n, 40.0),
    )


def _progress() -> Callable[[float], None]:
    """Says how far the check is, every tenth of it."""
    began, said = time.monotonic(), 0.0

    def say(share: float) -> None:
        nonlocal said
        if share >= said + 0.1 or share >= 1.0:
            said = share
            left = (time.monotonic() - began) * (1.0 - share) / share
            print(f"check {100 * share:.0f} %  {left:.0f} s left", flush=True)

    return say


def _rounds(
    one_round: Callable[[Any], tuple[Any, Any]], state: Any, rounds: int, files: Any, say: Callable[..., None]
) -> None:
    """Runs the rounds that are left, saving after each."""
    began, done_before = time.monotonic(), int(state.rounds_done)
    if done_before == 0:
        say("compiling the first round (about a minute)", flush=True)
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
            f"{left:.0f} s left",
            flush=True,
        )


if __name__ == "__main__":
    run_command(main)
