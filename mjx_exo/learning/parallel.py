"""Training shared by several devices, of one process or of many.

Every device steps its part of the environments and learns from its part of every minibatch; what the actors know is the
same everywhere. There is one program for all (`jit` over a mesh), so the result is that of one device for the same
global batch, up to the order of sums. The environment's physics must be able to run on the mesh: MJX is, host callbacks
are not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mjx_exo.errors import UserError
from mjx_exo.learning.config import PPOConfig
from mjx_exo.learning.contract import Environment
from mjx_exo.learning.ppo import PPO
from mjx_exo.learning.state import ActorState, Batch, TrainState

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
    try:
        # Process 0 checks and draws at the end while the others wait to leave.
        jax.distributed.initialize(coordinator, count, index, shutdown_timeout_seconds=3600)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"process {index} of {count} cannot join at coordinator {coordinator}: {reason}") from error


def leads(mesh: Mesh | None) -> bool:
    """Whether this process writes and shows: number 0 of those on the mesh, or the only one."""
    return mesh is None or jax.process_index() == 0


def heard(mesh: Mesh | None, *said: bool) -> np.ndarray:
    """What every process says to some yes/no questions, bool [processes, questions]; all must call it."""
    answers = np.array(said)
    if mesh is None or jax.process_count() == 1:
        return answers[None]
    return np.asarray(multihost_utils.process_allgather(answers)).reshape(-1, len(said))


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


class SingleTraining:
    """`PPO` on one device, with the functions of `ParallelTraining`."""

    def __init__(self, env: Environment[Any], config: PPOConfig) -> None:
        self.ppo = PPO(env, config)
        self.init, self.rollout, self.update = (jax.jit(f) for f in (self.ppo.init, self.ppo.rollout, self.ppo.update))

    def place(self, state: TrainState) -> TrainState:
        """The state itself: there is one place."""
        return state

    def place_actors(self, actors: Mapping[str, ActorState]) -> dict[str, ActorState]:
        """The actors themselves."""
        return dict(actors)

    def gather(self, tree: Any) -> Any:
        """The tree itself."""
        return tree


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

    def place(self, state: TrainState) -> TrainState:
        """A state that every process has whole, with every array where it belongs."""
        return jax.tree.map(_put, state, self.state_sharding)

    def place_actors(self, actors: Mapping[str, ActorState]) -> dict[str, ActorState]:
        """Actors that every process has whole, copied to every device."""
        return {name: jax.tree.map(_put, actor, self.state_sharding.actors[name]) for name, actor in actors.items()}

    def gather(self, tree: Any) -> Any:
        """Shared arrays whole, on this process's first device. All processes must call it together."""
        everywhere = jax.jit(lambda x: x, out_shardings=self._on(PartitionSpec()))(tree)
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), everywhere)

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


def _put(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
    """One array, which every process has whole, laid out; each process takes the rows of its own devices."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda rows: whole[rows])


def make_training(
    env: Environment[Any], config: PPOConfig, mesh: Mesh | None = None
) -> SingleTraining | ParallelTraining:
    """The learner's functions for one device or for those of a mesh."""
    return SingleTraining(env, config) if mesh is None else ParallelTraining(env, config, mesh)
