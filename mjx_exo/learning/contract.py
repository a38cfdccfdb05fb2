"""What the learner asks of an environment, written down once so that neither room imports the other.

Everything is batched: N environments step together, and `reset`, `step` and `curriculum` are pure functions that
may be traced. The walking environment and the toy one of the tests both fulfil this by shape alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self, TypeVar

import jax


class ActorSpec(Protocol):
    """One actor's sizes. Two optional attributes name the inputs that the environment scales by hand.

    `observation_fixed` and `privileged_fixed` (sequences of bool, one per input, or absent) mark inputs that the
    running normaliser leaves alone. A command that is constant at first has no variance; normalised, it would throw
    the policy when its range opens.
    """

    @property
    def name(self) -> str:
        """What the actor is called in every dictionary."""
        ...

    @property
    def observation_size(self) -> int:
        """Inputs of its policy."""
        ...

    @property
    def privileged_size(self) -> int:
        """Inputs of its value function."""
        ...

    @property
    def action_size(self) -> int:
        """Outputs of its policy."""
        ...


class EnvState(Protocol):
    """A pytree (flax.struct) with at least these fields; saving it whole must be enough to continue exactly."""

    @property
    def observation(self) -> dict[str, jax.Array]:
        """Per actor (N, observation_size): what its policy sees."""
        ...

    @property
    def privileged(self) -> dict[str, jax.Array]:
        """Per actor (N, privileged_size): what its value function sees."""
        ...

    @property
    def reward(self) -> dict[str, jax.Array]:
        """Per actor (N,), for the step just taken."""
        ...

    @property
    def terminated(self) -> jax.Array:
        """(N,) 1.0 where the step ended the episode by failure; the observation is then already the next episode's."""
        ...

    @property
    def truncated(self) -> jax.Array:
        """(N,) 1.0 where the step ended the episode by the time limit; never together with `terminated`."""
        ...

    @property
    def metrics(self) -> dict[str, jax.Array]:
        """(N,) each. Names that begin with `episode` count only where an episode ends; the others at every step."""
        ...

    def replace(self, **changes: Any) -> Self:
        """The same state with some fields changed."""
        ...


State = TypeVar("State", bound=EnvState)


class Environment(Protocol[State]):
    """N environments that step together and reset themselves; `State` is the environment's own kind of state."""

    @property
    def num_envs(self) -> int:
        """N."""
        ...

    @property
    def control_dt(self) -> float:
        """Seconds per step."""
        ...

    @property
    def actors(self) -> Sequence[ActorSpec]:
        """Who acts, always in the same order."""
        ...

    def reset(self, key: jax.Array) -> State:
        """N fresh episodes."""
        ...

    def step(self, state: State, action: dict[str, jax.Array]) -> State:
        """One control step; actions, (N, action_size) per actor, are unbounded and centred on 0."""
        ...

    def curriculum(self, state: State, stats: dict[str, jax.Array]) -> State:
        """Called once per update with the rollout's scalars: `progress` (0..1), `episode_seconds`, `fall_share`,
        and the mean of every metric under its own name."""
        ...
