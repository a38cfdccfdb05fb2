"""What the learner asks of an environment, written down once so that neither room imports the other.

Everything is batched: N environments step together, and `reset`, `step` and `curriculum` are pure functions that
may be traced. The walking environment and the toy one of the tests both fulfil this by shape alone.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax


class ActorSpec(Protocol):
    """One actor's sizes. Two optional attributes name the inputs that the environment scales by hand.

    `observation_fixed` and `privileged_fixed` (sequences of bool, one per input, or absent) mark inputs that the
    running normaliser leaves alone. A command that is constant at first has no variance; normalised, it would throw
    the policy when its range opens.
    """

    name: str
    observation_size: int
    privileged_size: int
    action_size: int


class EnvState(Protocol):
    """A pytree (flax.struct) with at least these fields; saving it whole must be enough to continue exactly."""

    observation: dict[str, jax.Array]
    """Per actor (N, observation_size): what its policy sees."""
    privileged: dict[str, jax.Array]
    """Per actor (N, privileged_size): what its value function sees."""
    reward: dict[str, jax.Array]
    """Per actor (N,), for the step just taken."""
    terminated: jax.Array
    """(N,) 1.0 where the step ended the episode by failure; the observation is then already the next episode's."""
    truncated: jax.Array
    """(N,) 1.0 where the step ended the episode by the time limit; never together with `terminated`."""
    metrics: dict[str, jax.Array]
    """(N,) each. Names that begin with `episode` count only where an episode ends; the others at every step."""

    def replace(self, **changes: Any) -> EnvState:
        """The same state with some fields changed."""
        ...


class Environment(Protocol):
    """N environments that step together and reset themselves."""

    num_envs: int
    control_dt: float
    """Seconds per step."""
    actors: tuple[ActorSpec, ...]

    def reset(self, key: jax.Array) -> EnvState:
        """N fresh episodes."""
        ...

    def step(self, state: EnvState, action: dict[str, jax.Array]) -> EnvState:
        """One control step; actions, (N, action_size) per actor, are unbounded and centred on 0."""
        ...

    def curriculum(self, state: EnvState, stats: dict[str, jax.Array]) -> EnvState:
        """Called once per update with the rollout's scalars: `progress` (0..1), `episode_seconds`, `fall_share`,
        and the mean of every metric under its own name."""
        ...
