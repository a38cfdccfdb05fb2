"""A store of what the sensors said and what the teacher would have done, from which windows are sliced.

A window of 125 samples is asked for at every tick, so storing windows would keep every sample 125 times. Kept is the
recording itself, time by environment, in a ring: the newest rows replace the oldest. Training takes whole stretches of
it; one pass of the network over a stretch answers for many ticks, about ten times cheaper than window by window.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct


class Rollout(NamedTuple):
    """T samples of N environments at the student's rate.

    signals: [T, N, C] what the sensors delivered, SI, channel order of the student.
    torque: [T, N, 2] what the teacher commands in that state, Nm/kg [right, left], flexion positive.
    valid: [T, N] whether that label is worth learning.
    reset: [T, N] whether the sample is the first of an episode, so that nothing before it belongs to it.
    """

    signals: jax.Array
    torque: jax.Array
    valid: jax.Array
    reset: jax.Array


@struct.dataclass
class WindowStore:
    """The ring. Rows are ticks; `usable` says where a label is valid AND a whole receptive field of its episode leads
    up to it.

    signals: [capacity, N, C]. torque: [capacity, N, 2]. usable: [capacity, N]. age: [N] samples since the episode began
    at the last row written. cursor: the row written next. filled: rows that hold something.
    """

    signals: jax.Array
    torque: jax.Array
    usable: jax.Array
    age: jax.Array
    cursor: jax.Array
    filled: jax.Array


class Stretches(NamedTuple):
    """B stretches of consecutive samples: signals [B, field - 1 + S, C], and for the last S ticks of each torque
    [B, S, 2] and usable [B, S]."""

    signals: jax.Array
    torque: jax.Array
    usable: jax.Array


def empty_store(capacity: int, num_envs: int, channels: int) -> WindowStore:
    """Room for `capacity` ticks of N environments."""
    return WindowStore(
        signals=jnp.zeros((capacity, num_envs, channels)),
        torque=jnp.zeros((capacity, num_envs, 2)),
        usable=jnp.zeros((capacity, num_envs), bool),
        age=jnp.full((num_envs,), -1, jnp.int32),
        cursor=jnp.zeros((), jnp.int32),
        filled=jnp.zeros((), jnp.int32),
    )


def samples_since_reset(age: jax.Array, reset: jax.Array) -> jax.Array:
    """[T, N] index of each sample in its episode; `age` [N] is that of the sample before (-1: there is none)."""

    def tick(before: jax.Array, starts: jax.Array) -> tuple[jax.Array, jax.Array]:
        now = jnp.where(starts, 0, before + 1)
        return now, now

    return jax.lax.scan(tick, age, reset)[1]


def append(store: WindowStore, rollout: Rollout, field: int) -> WindowStore:
    """Adds a rollout that goes on where the last one ended; field: the student's receptive field in samples.

    Environments that do not go on must say so by `reset` in the first row.
    """
    capacity, ticks = store.usable.shape[0], rollout.valid.shape[0]
    if ticks > capacity:
        raise ValueError(f"a rollout of {ticks} samples does not fit a store of {capacity}")
    rows = (store.cursor + jnp.arange(ticks)) % capacity
    age = samples_since_reset(store.age, rollout.reset.astype(bool))
    usable = rollout.valid.astype(bool) & (age >= field - 1)
    return store.replace(
        signals=store.signals.at[rows].set(rollout.signals),
        torque=store.torque.at[rows].set(rollout.torque),
        usable=store.usable.at[rows].set(usable),
        age=age[-1],
        cursor=(store.cursor + ticks) % capacity,
        filled=jnp.minimum(store.filled + ticks, capacity),
    )


def draw_stretches(store: WindowStore, key: jax.Array, batch: int, outputs: int, field: int) -> Stretches:
    """`batch` stretches at random times of random environments, with `outputs` ticks to learn in each.

    At least `field - 1 + outputs` rows must have been written; fewer would wrap round onto themselves.
    """
    capacity, num_envs = store.usable.shape
    length = field - 1 + outputs
    if length > capacity:
        raise ValueError(f"a stretch of {length} samples does not fit a store of {capacity}")
    time_key, env_key = jax.random.split(key)
    oldest = (store.cursor - store.filled) % capacity
    first = jax.random.randint(time_key, (batch, 1), 0, jnp.maximum(store.filled - length, 0) + 1)
    rows = (oldest + first + jnp.arange(length)) % capacity
    envs = jax.random.randint(env_key, (batch, 1), 0, num_envs)
    answers = rows[:, field - 1 :]
    return Stretches(store.signals[rows, envs], store.torque[answers, envs], store.usable[answers, envs])
