"""`python -m benchmarks.published_walk`: a policy trained on the compiled body drives the published one.

The published model keeps its own tendons, muscles, joints and collision meshes; nothing is retrained. Beside it, the
same trials on the compiled body.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mjx_exo.errors import run_command

STEP_MS = {"published": 2.0, "native": 5.0}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.published_walk", description=__doc__)
    p.add_argument("--policy", default="teacher", help="run folder, policy folder or pretrained name (teacher)")
    p.add_argument("--trials", type=int, default=10)
    p.add_argument("--seconds", type=float, default=10.0)
    p.add_argument("--speed", type=float, default=1.25, help="m/s")
    p.add_argument("--seed", type=int, default=5)
    p.add_argument("--json", type=Path, help="write the rows here")
    return p


def walk(policy: str, engine: str, trials: int, seconds: float, speed_m_s: float, seed: int) -> dict[str, Any]:
    """One row: how the policy walks on an engine, level ground, no device."""
    import jax

    from mjx_exo.teacher import load_teacher
    from mjx_exo.walking.rollout import run_trials, start_walking, to_recordings
    from mjx_exo.walking.summary import walking_summary

    teacher = load_teacher(policy)
    env = teacher.environment(
        trials, seconds + 1.0, human_only=True, engine=engine, physics_step_s=1e-3 * STEP_MS[engine], wearers=1,
        device_mode="absent",
    )  # fmt: skip
    state = start_walking(env, jax.random.key(seed), speed_m_s, 0.0)
    done = run_trials(env, teacher.act, state, seconds)
    summary = walking_summary(done, to_recordings(env, done))
    return {"engine": engine, "body": teacher.config.walking.body, "step_ms": STEP_MS[engine], **summary}


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0, or 1 if fewer than 9 of 10 trials on the published body lasted."""
    arguments = parser().parse_args(sys.argv[1:] if argv is None else argv)
    from mjx_exo.gait.files import write_json

    rows = [
        walk(arguments.policy, engine, arguments.trials, arguments.seconds, arguments.speed, arguments.seed)
        for engine in ("native", "published")
    ]
    for row in rows:
        print(
            f"{row['engine']:10s} {row['step_ms']:.0f} ms  no fall {row['fall_free_share']:.2f}  "
            f"{row['episode_seconds_mean']:.1f} s  {row['speed_mean_m_s']:.2f} m/s  knee {row['knee_swing_deg']:.0f}°"
        )
    if arguments.json is not None:
        write_json(arguments.json, rows)
    return 0 if rows[1]["fall_free_share"] >= 0.9 else 1


if __name__ == "__main__":
    run_command(main)
