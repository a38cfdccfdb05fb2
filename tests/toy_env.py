"""A trivial environment that fulfils the learner's contract: two actors, failure, time limit, noise, curriculum.

The `human` pushes a point on a line back to zero, the `exo` guesses a number it is shown. Both are learnt in seconds,
and what one does leaves the other's reward alone, so that a test can tell which of them learnt.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct


@dataclasses.dataclass(frozen=True)
class ToyActor:
    name: str
    observation_size: int
    privileged_size: int
    action_size: int
    observation_fixed: tuple[bool, ...] | None = None


@struct.dataclass
class ToyState:
    observation: dict[str, jax.Array]
    privileged: dict[str, jax.Array]
    reward: dict[str, jax.Array]
    terminated: jax.Array
    truncated: jax.Array
    metrics: dict[str, jax.Array]
    key: jax.Array
    position: jax.Array
    shown: jax.Array
    steps: jax.Array
    level: jax.Array
    age: jax.Array


def _push_on_host(position: np.ndarray, push: np.ndarray) -> np.ndarray:
    return np.asarray(position, np.float32) + np.float32(0.2) * np.asarray(push, np.float32)


class ToyEnv:
    """`episode_steps` is the time limit; beyond ±2 the episode fails. `poison_at` makes the human's reward NaN at the
    environments' step of that number; `callback` moves the point on the host, as the native engine does."""

    def __init__(
        self, num_envs: int = 32, episode_steps: int = 20, poison_at: int = -1, callback: bool = False
    ) -> None:
        self.num_envs = num_envs
        self.control_dt = 0.1
        self.episode_steps = episode_steps
        self.poison_at = poison_at
        self.callback = callback
        self.actors = (ToyActor("human", 2, 3, 1, observation_fixed=(False, True)), ToyActor("exo", 1, 1, 1))

    def reset(self, key: jax.Array) -> ToyState:
        key, place_key = jax.random.split(key)
        zeros = jnp.zeros((self.num_envs,))
        position, shown = self._fresh(place_key)
        age = jnp.zeros((), jnp.int32)
        steps = jnp.arange(self.num_envs) % self.episode_steps
        observation, privileged = self._observe(position, shown, zeros[0], steps)
        metrics = {"reward/human": zeros, "speed_m_s": zeros, "episode_level": zeros}
        reward = {"human": zeros, "exo": zeros}
        return ToyState(
            observation, privileged, reward, zeros, zeros, metrics, key, position, shown, steps, zeros[0], age
        )

    def _fresh(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return tuple(jax.random.uniform(key, (2, self.num_envs), minval=-1.5, maxval=1.5))

    def _observe(self, position: Any, shown: Any, level: Any, steps: Any) -> tuple[dict, dict]:
        levels = jnp.full((self.num_envs,), level)
        human = jnp.stack([position, levels], axis=-1)
        seen = {"human": human, "exo": shown[:, None]}
        time = (steps / self.episode_steps)[:, None].astype(jnp.float32)
        return seen, {"human": jnp.concatenate([human, time], axis=-1), "exo": shown[:, None]}

    def step(self, state: ToyState, action: dict[str, jax.Array]) -> ToyState:
        key, place_key, noise_key = jax.random.split(state.key, 3)
        push = jnp.clip(action["human"][:, 0], -2, 2) + 0.1 * jax.random.normal(noise_key, (self.num_envs,))
        if self.callback:
            position = jax.pure_callback(
                _push_on_host, jax.ShapeDtypeStruct((self.num_envs,), jnp.float32), state.position, push
            )
        else:
            position = state.position + 0.2 * push
        human = 1 - jnp.abs(position) + jnp.where(state.age == self.poison_at, jnp.nan, 0.0)
        reward = {"human": human, "exo": -jnp.square(action["exo"][:, 0] - state.shown)}
        steps = state.steps + 1
        terminated = (jnp.abs(position) > 2).astype(jnp.float32)
        truncated = (steps >= self.episode_steps).astype(jnp.float32) * (1 - terminated)
        done = terminated + truncated > 0
        fresh_position, fresh_shown = self._fresh(place_key)
        metrics = {
            "reward/human": human,
            "speed_m_s": jnp.abs(position - state.position) / self.control_dt,
            "episode_level": jnp.full((self.num_envs,), state.level),
        }
        position = jnp.where(done, fresh_position, position)
        shown = jnp.where(done, fresh_shown, state.shown)
        steps = jnp.where(done, 0, steps)
        observation, privileged = self._observe(position, shown, state.level, steps)
        return ToyState(
            observation,
            privileged,
            reward,
            terminated,
            truncated,
            metrics,
            key,
            position,
            shown,
            steps,
            state.level,
            state.age + 1,
        )

    def curriculum(self, state: ToyState, stats: dict[str, jax.Array]) -> ToyState:
        return state.replace(level=stats["progress"])
