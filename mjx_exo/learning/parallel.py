"""Training shared by several devices, of one process or of many.

Every device steps its part of the environments and learns from its part of every minibatch; what the actors know is the
same everywhere. There is one program for all (`jit` over a mesh), so the result is that of one device for the same
global batch, up to the order of sums. The environment's physics must be able to run on the mesh: MJX is, host callbacks
are not.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mjx_exo.errors import UserError
from mjx_exo.learning.config import PPOConfig
from mjx_exo.learning.contract import Environment
from mjx_exo.learning.ppo import PPO
from mjx_exo.learning.state import Batch, TrainState

AXIS = "environments"

Rollout = Callable[[TrainState], tuple[TrainState, Batch]]
Update = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


def join_processes(coordinator: str, count: int, index: int) -> None:
    """Makes this process number `index` of `count`; `coordinator` is `host:port` of process 0.

    Must be called before anything else of JAX. On processors the processes talk through gloo.
    """
    if not 0 <= index < count:
        raise UserError(f"process index {index} is not allowed; 0 to {count - 1} for {count} processes")
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, count, index)


def device_mesh(num_envs: int) -> Mesh | None:
    """All devices of all processes along one axis; None if there is only one.

    Raises `UserError` if the environments cannot be shared out evenly.
    """
    devices = jax.devices()
    if len(devices) == 1:
        return None
    if num_envs % len(devices):
        raise UserError(f"num_envs = {num_envs} cannot be shared by {len(devices)} devices; take a multiple")
    return Mesh(np.array(devices), (AXIS,))


class ParallelTraining:
    """`PPO` over a mesh: the same three functions, compiled, with every array where it belongs."""

    def __init__(self, env: Environment[Any], config: PPOConfig, mesh: Mesh) -> None:
        """Raises `UserError` if minibatches cannot be shared out evenly."""
        self.ppo = PPO(env, config, spread=self._spread)
        self.mesh = mesh
        rows = self.ppo.steps_per_update // config.minibatches
        if rows % mesh.size:
            raise UserError(f"minibatches of {rows} steps cannot be shared by {mesh.size} devices; take a multiple")
        key = jax.eval_shape(lambda: jax.random.key(0))
        state = jax.eval_shape(self.ppo.init, key)
        _, batch = jax.eval_shape(self.ppo.rollout, state)
        self.state_sharding, self.batch_sharding = self.of_state(state), self.of_batch(batch)
        placed = (self.state_sharding, self.batch_sharding)
        self.init: Callable[[jax.Array], TrainState] = jax.jit(self.ppo.init, out_shardings=self.state_sharding)
        self.rollout: Rollout = jax.jit(self.ppo.rollout, in_shardings=placed[:1], out_shardings=placed)
        self.update: Update = jax.jit(
            self.ppo.update, in_shardings=placed, out_shardings=(self.state_sharding, self._on(PartitionSpec()))
        )

    def of_state(self, state: TrainState) -> TrainState:
        """Where each array of a training state lies: per environment shared out, everything else everywhere."""
        everywhere = self._on(PartitionSpec())

        def place(leaf: Any) -> NamedSharding:
            shared = leaf.ndim > 0 and leaf.shape[0] == self.ppo.env.num_envs
            return self._on(PartitionSpec(AXIS)) if shared else everywhere

        def copy(_: Any) -> NamedSharding:
            return everywhere

        return jax.tree.map(copy, state).replace(
            env=jax.tree.map(place, state.env), episodes=jax.tree.map(place, state.episodes)
        )

    def of_batch(self, batch: Batch) -> Batch:
        """Where each array of a rollout lies: [T, N, …] shared out along N."""
        by_time, rows = self._on(PartitionSpec(None, AXIS)), self._on(PartitionSpec(AXIS))
        actors = {
            name: jax.tree.map(lambda _: by_time, actor).replace(final_privileged=rows)
            for name, actor in batch.actors.items()
        }
        stats = dict.fromkeys(batch.stats, self._on(PartitionSpec()))
        return Batch(actors, by_time, by_time, stats)

    def _spread(self, minibatches: Any) -> Any:
        """Minibatches [B, rows, …] with their rows shared out, so that each device computes part of every gradient."""
        rows = self._on(PartitionSpec(None, AXIS))
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, rows), minibatches)

    def _on(self, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(self.mesh, spec)
