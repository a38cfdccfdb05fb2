"""A policy's own muscle activations while it walks, as the CSV that synergies are extracted from.

A policy trained on raw muscles was told nothing of modules: what structure its walking has, the task put there. One
trained on synergies gives its own basis back, up to the clipping of excitations, which is a check of the method.
"""

from __future__ import annotations

import dataclasses

from mjx_exo.errors import UserError

SETTLE_S = 2.0  # after the start, before activations count


@dataclasses.dataclass(frozen=True)
class Walk:
    """How a policy walks for the extraction (with --policy)."""

    speeds: tuple[float, ...] = (1.25,)
    """Speeds in m/s."""
    trials: int = 8
    """Walks at each speed, from starts spread over the gait cycle."""
    seconds: float = 12.0
    """Length of a walk in s; its first 2 s are left out."""
    seed: int = 0
    """Seed of the starts."""


def walk_activations(policy: str, walk: Walk) -> tuple[str, str]:
    """Activations of the leg muscles of all walks without a fall, one after the other, and a line saying which.

    Level ground, no device, the published wearer, deterministic policy. Returns the CSV's text and the line. Raises
    `UserError` for settings that cannot be walked, or if no walk lasts.
    """
    _check(walk)
    import jax
    import jax.numpy as jnp
    import numpy as np

    from mjx_exo.musculoskeletal.synergy_files import activations_csv
    from mjx_exo.teacher import load_teacher
    from mjx_exo.walking.rollout import run_trials, start_walking

    teacher = load_teacher(policy)
    count = walk.trials * len(walk.speeds)
    env = teacher.environment(count, walk.seconds + 1.0, human_only=True, wearers=1, device_mode="absent")
    speed = jnp.asarray(np.repeat(np.array(walk.speeds, np.float32), walk.trials))
    state = start_walking(env, jax.random.key(walk.seed), speed, 0.0)
    trials = run_trials(env, teacher.act, state, walk.seconds)
    lasted = np.flatnonzero(trials.steps == len(trials.series["activation"]))
    if not len(lasted):
        raise UserError(f"{policy}: none of {count} walks of {walk.seconds:g} s went without a fall")
    muscles = env.engine.body.leg.paths.muscles
    activation = trials.series["activation"][round(SETTLE_S / env.control_dt) :, lasted, : 2 * len(muscles)]
    values = activation.swapaxes(0, 1).reshape(-1, 2, len(muscles)).astype(np.float64)
    time_s = np.arange(len(values)) * env.control_dt
    speeds = ", ".join(f"{v:g}" for v in walk.speeds)
    return activations_csv(time_s, muscles, values), f"{len(lasted)} of {count} walks without a fall, {speeds} m/s"


def _check(walk: Walk) -> None:
    if not walk.speeds or not all(0.0 < v <= 3.0 for v in walk.speeds):
        raise UserError(f"speeds {walk.speeds} are not allowed; one or more between 0 and 3 m/s")
    if walk.trials < 1:
        raise UserError(f"trials {walk.trials} is not allowed; at least 1")
    if not walk.seconds >= SETTLE_S + 2.0:
        raise UserError(f"seconds {walk.seconds:g} is not allowed; at least {SETTLE_S + 2.0:g}")
