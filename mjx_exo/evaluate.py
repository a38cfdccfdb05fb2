"""`python -m mjx_exo.evaluate POLICY`: how far, how human and how costly, over a grid of speeds and slopes.

The policy walks deterministically, many trials per cell from starts spread over the gait cycle, with a physics step at
which halving it no longer changes the figures. Leaves a self-contained report.html with its figures, tidy CSV,
summary.json and an animation of each condition; needs neither display nor GPU.

With --controller the policy's human wears an active device that an exported student drives: the ONNX file itself, fed
by virtual sensors whose errors are drawn at random for every trial.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

from mjx_exo.errors import UserError, run_command

SETTLE_S = 3.0
STEP_S = 0.001
BATCH = 512
HELD_OUT = 4242  # added to the training's wearer seed: people it never met


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m mjx_exo.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("policy", help="run folder, policy folder or name of a pretrained policy")
    p.add_argument("--out", type=Path, help="folder of the report (default: evaluation/ beside the policy)")
    p.add_argument("--speeds", default="0.6:1.8:0.2", help="m/s, LOW:HIGH:STEP or a list 0.8,1.2 (0.6:1.8:0.2)")
    p.add_argument("--slopes", default="-6:6:2", help="degrees, uphill positive (-6:6:2; write --slopes=-6:6:2)")
    p.add_argument("--trials", type=int, default=64, help="trials per cell (64)")
    p.add_argument("--seconds", type=float, default=20.0, help="length of a trial (20)")
    p.add_argument("--step-ms", type=float, default=1e3 * STEP_S, help="physics step in ms (1)")
    p.add_argument("--engine", default="auto", help="auto, native, mjx, or published: the published tendon model")
    p.add_argument("--controller", type=Path, help="exported student (student.onnx) that drives the device")
    p.add_argument("--wearers", type=int, default=0, help="people to walk with, none trained on (0: the trained ones)")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--no-animations", action="store_true", help="leave the animations out")
    return p


def numbers(text: str, option: str) -> list[float]:
    """`LOW:HIGH:STEP` or `a,b,c` as a list; `UserError` naming the option otherwise."""
    try:
        if ":" in text:
            low, high, step = (float(part) for part in text.split(":"))
            if not (step > 0 and high >= low):
                raise ValueError
            return [round(low + i * step, 9) for i in range(math.floor((high - low) / step + 1e-9) + 1)]
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} {text!r} is neither LOW:HIGH:STEP with STEP > 0 nor a list like 0.8,1.2") from None
    return values


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0."""
    arguments = parser().parse_args(sys.argv[1:] if argv is None else argv)
    speeds = numbers(arguments.speeds, "--speeds")
    slopes = numbers(arguments.slopes, "--slopes")
    if not all(0.0 < v <= 3.0 for v in speeds) or not all(abs(s) <= 15.0 for s in slopes):
        raise UserError("--speeds must lie in 0..3 m/s and --slopes in -15..15 degrees")
    if arguments.wearers < 0:
        raise UserError(f"--wearers is {arguments.wearers}; allowed: 0 or more")
    if arguments.trials < 1 or not arguments.seconds > SETTLE_S + 2.0:
        raise UserError(f"--trials must be at least 1 and --seconds above {SETTLE_S + 2.0:g}")
    from mjx_exo.cache import use_jax_cache
    from mjx_exo.teacher import find_policy, load_teacher

    use_jax_cache()
    teacher = load_teacher(arguments.policy)
    kind = "evaluation" if arguments.controller is None else f"evaluation-{arguments.controller.stem}"
    out = arguments.out or find_policy(arguments.policy).parent / kind
    grid = [(v, math.radians(s)) for s in slopes for v in speeds]
    page = evaluate(teacher, grid, arguments, out)
    print(f"report: {page}")
    return 0


def evaluate(teacher: Any, grid: list[tuple[float, float]], arguments: argparse.Namespace, out: Path) -> Path:
    """Walks every cell of the grid and writes the report; returns the path of the HTML."""
    from mjx_exo.gait import animation
    from mjx_exo.gait.metrics import summarise
    from mjx_exo.gait.report import gait_report

    conditions, animations = [], {}
    began = time.monotonic()
    cells_at_once = max(1, BATCH // arguments.trials)
    for start in range(0, len(grid), cells_at_once):
        cells = grid[start : start + cells_at_once]
        for (speed, slope), recordings in zip(cells, walk_cells(teacher, cells, arguments), strict=True):
            condition = summarise(recordings, speed, slope, SETTLE_S)
            conditions.append(condition)
            walked = [r for r in recordings if not r.fell]
            if walked and not arguments.no_animations:
                name = f"speed_{speed:.1f}_slope_{math.degrees(slope):+.0f}".replace(".", "_")
                name = name.replace("+", "up_").replace("-", "down_")
                animations[name] = animation.gif(walked[0], SETTLE_S, 2.5, frames_per_s=12.5, width=300, height=240)
            done = len(conditions)
            left = (time.monotonic() - began) / done * (len(grid) - done)
            m = condition.measures
            print(
                f"{done}/{len(grid)}  {speed:.1f} m/s {math.degrees(slope):+.0f}°  no fall {m['fall_free_share']:.2f}  "
                f"speed {m.get('speed_m_s', math.nan):.2f}  r {m['r_hip']:.2f} {m['r_knee']:.2f} {m['r_ankle']:.2f}  "
                f"{m['cot_J_kg_m']:.2f} J/kg/m  {left:.0f} s left",
                flush=True,
            )
    lead = [
        f"{teacher.source}: body {teacher.config.walking.body}, engine {arguments.engine}, physics step "
        f"{arguments.step_ms:g} ms, {arguments.trials} trials of {arguments.seconds:g} s per cell, "
        "deterministic policy.",
    ]
    if arguments.controller is not None:
        lead.append(f"Device driven by {arguments.controller.name}, run by onnxruntime, from virtual sensors.")
    fixed = ("stride_frequency_hz", "stride_time_s", "cadence_steps_min") if _clocked(teacher) else ()
    return gait_report(out, f"How {teacher.source} walks", conditions, lead, fixed, animations)


def _clocked(teacher: Any) -> bool:
    return teacher.config.walking.clock_freedom == 0


def _walker(teacher: Any, count: int, arguments: argparse.Namespace) -> tuple[Any, Any]:
    """`count` environments, and who acts in them; with --controller the exported file drives the device."""
    base = teacher.config.walking
    changes: dict[str, Any] = {"engine": arguments.engine, "physics_step_s": 1e-3 * arguments.step_ms}
    if arguments.wearers:
        changes |= {"wearers": arguments.wearers, "wearer_seed": base.wearer_seed + HELD_OUT}
    if arguments.controller is None:
        return teacher.environment(count, arguments.seconds + 1.0, **changes), teacher.act
    from mjx_exo.controllers import ControlledEnv, human_only
    from mjx_exo.student_controller import load_controller

    student = load_controller(arguments.controller, base.device)
    changes |= {"device": base.device or student.contract.profile, "device_mode": "active"}
    env = teacher.environment(count, arguments.seconds + 1.0, human_only=True, **changes)
    return ControlledEnv(env, student), human_only(lambda seen: teacher.policy.act("human", seen))


def walk_cells(teacher: Any, cells: list[tuple[float, float]], arguments: argparse.Namespace) -> list[list[Any]]:
    """Recordings of each cell, all trials in one batch; a trial that fell at once is kept as a fall."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from mjx_exo.walking.rollout import run_trials, start_walking, to_recordings

    count = arguments.trials * len(cells)
    env, act = _walker(teacher, count, arguments)
    cell_of = np.arange(count) % len(cells)  # wearers are neighbours: every cell gets all of them
    speed = jnp.asarray(np.array([c[0] for c in cells], np.float32)[cell_of])
    slope = jnp.asarray(np.array([c[1] for c in cells], np.float32)[cell_of])
    state = start_walking(env, jax.random.key(arguments.seed), speed, slope)
    trials = run_trials(env, act, state, arguments.seconds)
    recordings = to_recordings(env, trials)
    result: list[list[Any]] = [[] for _ in cells]
    for index, recording in enumerate(recordings):
        result[cell_of[index]].append(recording)
    return result


if __name__ == "__main__":
    run_command(main)
