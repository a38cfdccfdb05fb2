"""Stops a training at the first number that is not finite, and keeps what is needed to see it happen again.

Learning on with a NaN destroys the policy within one update and hides where it came from. So every update reports
whether its observations, rewards, actions and parameters were finite; the first that were not end the run, and the
state from before that update is saved: from it the same rollout and update can be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mjx_exo.errors import UserError
from mjx_exo.learning.checkpoint import Checkpoints, Manifest, unflatten
from mjx_exo.learning.contract import Environment
from mjx_exo.learning.ppo import PPO, Batch, PPOConfig, TrainState

PREFIX = "finite/"

CAUSES = ("observation", "action", "reward", "parameters")
"""What `PPO.update` checks, in the order in which one makes the next."""


class NotFiniteError(UserError):
    """A training was stopped because a number was NaN or infinite."""


def not_finite(stats: Mapping[str, float]) -> list[str]:
    """Names of the things (`human/reward`, …) that held a number that is not finite, causes before consequences."""
    names = [name.removeprefix(PREFIX) for name, value in stats.items() if name.startswith(PREFIX) and value < 1]
    return sorted(names, key=lambda name: CAUSES.index(name.rpartition("/")[2]))


def describe_batch(batch: Batch) -> dict[str, dict[str, Any]]:
    """Per array of a rollout: smallest and largest finite value, how many are not finite, and the index of the first
    of those (time, environment, …)."""
    described = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        values = np.asarray(leaf)
        finite = np.isfinite(values)
        bad = np.argwhere(~finite)
        described[jax.tree_util.keystr(path, simple=True, separator="/")] = {
            "shape": list(values.shape),
            "min": float(values[finite].min()) if finite.any() else None,
            "max": float(values[finite].max()) if finite.any() else None,
            "not_finite": len(bad),
            "first_not_finite": bad[0].tolist() if len(bad) else None,
        }
    return described


def save_replay(folder: Path, before: TrainState, manifest: Manifest) -> Path:
    """Saves the state from before the update that failed; returns the checkpoint's folder."""
    checkpoints = Checkpoints(folder / "state")
    saved = checkpoints.save(before, manifest)
    checkpoints.close()
    return saved


def replay(folder: Path, env: Environment[Any], config: PPOConfig) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Repeats the iteration that failed. Returns the names of what is not finite and the description of its batch."""
    ppo = PPO(env, config)
    checkpoints = Checkpoints(folder / "state")
    arrays, _ = checkpoints.read()
    checkpoints.close()
    state = unflatten(arrays, jax.eval_shape(ppo.init, jax.random.key(0)), folder)
    state, batch = jax.jit(ppo.rollout)(state)
    _, stats = jax.jit(ppo.update)(state, batch)
    return not_finite({name: float(value) for name, value in stats.items()}), describe_batch(batch)
