"""What a training run knows (`TrainState`) and what it has just seen (`Batch`): pytrees, nothing else.

Arrays keep the axes [T, N]: time, environment.
"""

from __future__ import annotations

from typing import Any

import jax
import optax
from flax import struct

from mjx_exo.learning import networks

Stats = dict[str, jax.Array]
"""Named scalars."""


@struct.dataclass
class ActorState:
    """Everything one actor has learnt and needs to go on learning."""

    policy_params: Any
    value_params: Any
    policy_optimizer: optax.OptState
    value_optimizer: optax.OptState
    observation_statistics: networks.Statistics
    privileged_statistics: networks.Statistics
    learning_rate: jax.Array
    """Scalar: Adam step size of the policy, steered."""
    noise_fallen: jax.Array
    """Scalar 0..1: how far the noise has fallen from `std_start` to `std_end`."""


@struct.dataclass
class EpisodeTracker:
    """Running episodes, and averages over about the last N finished ones."""

    steps: jax.Array
    """(N,) steps of the running episode so far."""
    returns: dict[str, jax.Array]
    """Per actor (N,): unscaled reward of the running episode so far."""
    finished: jax.Array
    """Scalar: number of finished episodes."""
    averages: Stats
    """Scalars over finished episodes: `episode_seconds`, `fall_share`, `<actor>/return`, metrics named episode…"""


@struct.dataclass
class TrainState:
    """The whole training state; saving and loading it continues the run exactly."""

    actors: dict[str, ActorState]
    env: Any
    episodes: EpisodeTracker
    key: jax.Array
    updates: jax.Array
    """Scalar: updates done so far."""


@struct.dataclass
class ActorBatch:
    """What one actor saw and did: T steps of N environments."""

    observation: jax.Array
    """[T, N, o] as the environment gave it."""
    privileged: jax.Array
    """[T, N, p] as the environment gave it."""
    final_privileged: jax.Array
    """[N, p] after the last step."""
    action: jax.Array
    """[T, N, a]."""
    mean: jax.Array
    """[T, N, a] mean of the policy that acted."""
    reward: jax.Array
    """[T, N] unscaled."""


@struct.dataclass
class Batch:
    """A rollout, ready for `PPO.update`."""

    actors: dict[str, ActorBatch]
    terminated: jax.Array
    """[T, N] 1 where the step ended an episode by failure."""
    truncated: jax.Array
    """[T, N] 1 where the step ended an episode by the time limit."""
    stats: Stats
