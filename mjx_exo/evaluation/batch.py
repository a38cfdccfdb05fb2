"""Many trials at once: one environment, compiled once, walks every cell and every course of commands."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mjx_exo.walking.env import EnvState, WalkingEnv
from mjx_exo.walking.rollout import Act, TrialRunner, Trials, start_walking

ORDER_S = 0.5
"""Commands are given on this grid of time."""
NATIVE_BATCH, ACCELERATOR_BATCH = 128, 1024
"""Environments at once. More make a step on the processor no cheaper, and recordings grow with them (130 MB of 26
muscles for 128 trials of 20 s); an accelerator wants many."""


class MakeWalker(Protocol):
    """Builds `count` environments for trials of up to `seconds`, and who acts in them.

    `changes` replaces fields of the policy's `WalkingConfig`.
    """

    def __call__(self, count: int, seconds: float, **changes: Any) -> tuple[WalkingEnv, Act]:
        """See the class."""
        ...


class Orders(NamedTuple):
    """What is commanded: row k holds from k · ORDER_S seconds on."""

    speed_m_s: Array  # [K, N]
    slope_rad: Array  # [K, N]


def follow(state: EnvState, time_s: Array, orders: Orders) -> EnvState:
    """The state with the targets that hold at `time_s`; the environment moves towards them at its limited rate."""
    row = jnp.minimum((time_s / ORDER_S + 1e-3).astype(jnp.int32), orders.speed_m_s.shape[0] - 1)
    targets = {"speed_target_m_s": orders.speed_m_s[row], "slope_target_rad": orders.slope_rad[row]}
    return state.replace(command=state.command._replace(**targets))


class Batch:
    """N environments that walk again and again without being built or compiled again."""

    def __init__(self, env: WalkingEnv, act: Act, longest_s: float):
        self.env, self._rows = env, math.ceil(longest_s / ORDER_S)
        self._runner = TrialRunner(env, act, follow)
        self._start: Callable[..., EnvState] = jax.jit(lambda key, v, slope: start_walking(env, key, v, slope))

    @property
    def size(self) -> int:
        """How many trials walk at once."""
        return self.env.num_envs

    def warm_up(self) -> None:
        """Compiles everything, so that the first real walk takes no longer than the others."""
        self.walk(0, np.full(self.size, 1.25), np.zeros(self.size), 2 * self.env.control_dt)

    def walk(self, seed: int, speed_m_s: np.ndarray, slope_rad: np.ndarray, seconds: float) -> Trials:
        """Walks what is commanded, from starts that `seed` decides.

        speed_m_s, slope_rad: [N], or [K, N] by `Orders`. A trial begins with its first command reached.
        """
        orders = Orders(self._order(speed_m_s), self._order(slope_rad))
        state = self._start(jax.random.key(seed), orders.speed_m_s[0], orders.slope_rad[0])
        return self._runner.run(state, seconds, orders)

    def _order(self, values: np.ndarray) -> Array:
        """[K, N] for this batch's K: the last row goes on."""
        rows = np.atleast_2d(np.asarray(values, np.float32))
        return jnp.asarray(rows[np.minimum(np.arange(self._rows), len(rows) - 1)])


def batch_size(trials: int, cells: int, native: bool) -> int:
    """Environments for `cells` cells of `trials` each: whole cells, as even as they can be divided."""
    at_once = max(1, (NATIVE_BATCH if native else ACCELERATOR_BATCH) // trials)
    groups = math.ceil(cells / at_once)
    return trials * math.ceil(cells / groups)
