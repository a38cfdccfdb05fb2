"""The learner's settings: typed, frozen, checked when made.

Defaults are the hyperparameters with which a trial taught 26 muscles to walk in about two million steps.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mjx_exo.errors import UserError


@dataclasses.dataclass(frozen=True)
class ActorConfig:
    """How one actor learns."""

    hidden: tuple[int, ...] = (256, 128)
    """Units of each hidden layer (SiLU) of the policy and of the value network; the two share nothing."""
    learning_rate: float = 5e-4
    """Adam step size of the policy at the start; steered by the KL divergence afterwards."""
    learning_rate_bounds: tuple[float, float] = (1e-5, 2e-3)
    """Lowest and highest policy step size that the steering may choose."""
    rate_fall_share: float = 0.0
    """Share of the run (0..1) at whose end the policy's step size falls to zero, linearly: the last updates then wander
    less about what they have found. It multiplies the steered one, which rises to its upper bound meanwhile, because
    small steps diverge little. 0: never."""
    value_learning_rate: float = 5e-4
    """Adam step size of the value network, constant."""
    kl_target: float = 0.012
    """KL divergence (nats) between the policy before and after an update that the step size is steered to."""
    kl_target_end: float = 0.0
    """The same once the noise has fallen, geometrically in between; 0: it stays. With little noise an update of the
    same divergence learns less and drifts as far."""
    kl_factor: float = 1.5
    """The step size is divided (multiplied) by this when the divergence is above twice (below half) its target."""
    discount: float = 0.985
    """Discount of future reward per control step (gamma)."""
    gae_lambda: float = 0.95
    """Weight of longer returns in the advantage estimate (lambda)."""
    clip: float = 0.2
    """Probability ratios are clipped to 1 ± this."""
    reward_scale: float = 0.1
    """Rewards are multiplied by this before anything is learnt from them."""
    max_gradient_norm: float = 1.0
    """Gradients of the policy and of the value network are clipped to this norm, each on its own."""
    entropy_cost: float = 0.0
    """Weight of the entropy bonus at the start; it falls to zero together with the noise."""
    std_start: float = 0.5
    """Standard deviation of the actions at the start, and its ceiling until the noise begins to fall."""
    std_end: float = 0.1
    """Ceiling of the standard deviation once the noise has fallen."""
    std_floor_share: float = 0.4
    """Floor of the standard deviation, as a share of the ceiling of the moment."""
    noise_falls_after_s: float = 7.0
    """The noise falls only while the mean episode lasts at least this long, s; 0 lets it fall from the start."""
    noise_falls_latest: float = 0.6
    """Share of the run (0..1) after which the noise falls however long the episodes are."""
    noise_fall_share: float = 0.3
    """Share of the run (0..1) that the whole fall from `std_start` to `std_end` takes."""
    learns_from: float = 0.0
    """Share of the run (0..1) after which this actor learns; 1 keeps it as it is for the whole run."""
    value_first: float = 0.0
    """Share of the run (0..1) in which the policy stays as it is while its value function learns; for a policy that
    comes without one."""
    noise_before_learning: bool = False
    """Whether the actor explores while it does not learn yet; otherwise it acts by its mean."""

    def __post_init__(self) -> None:
        _require("hidden", self.hidden, len(self.hidden) > 0 and min(self.hidden) > 0, "one or more sizes above 0")
        low, high = self.learning_rate_bounds
        _require("learning_rate_bounds", self.learning_rate_bounds, 0 < low <= high, "0 < low <= high")
        for name in ("learning_rate", "value_learning_rate", "kl_target", "reward_scale", "max_gradient_norm"):
            _require(name, getattr(self, name), getattr(self, name) > 0, "above 0")
        _require("kl_factor", self.kl_factor, self.kl_factor > 1, "above 1")
        _require("clip", self.clip, 0 < self.clip < 1, "between 0 and 1")
        for name in ("discount", "gae_lambda", "noise_falls_latest", "learns_from", "value_first", "rate_fall_share"):
            _require(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "0 to 1")
        _require("noise_fall_share", self.noise_fall_share, 0 < self.noise_fall_share <= 1, "above 0, at most 1")
        _require("std_floor_share", self.std_floor_share, 0 < self.std_floor_share <= 1, "above 0, at most 1")
        _require("std_start", self.std_start, self.std_start > 0, "above 0")
        _require("std_end", self.std_end, 0 < self.std_end <= self.std_start, "above 0, at most std_start")
        for name in ("entropy_cost", "noise_falls_after_s", "kl_target_end"):
            _require(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")

    @property
    def frozen(self) -> bool:
        """True if this actor never learns."""
        return self.learns_from >= 1.0


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """How long and on what batches everybody learns, and how each actor does."""

    total_steps: int = 4_000_000
    """Environment steps of the whole run, all environments together."""
    unroll: int = 32
    """Control steps of each environment between two updates."""
    epochs: int = 4
    """Passes over the collected steps in one update."""
    minibatches: int = 8
    """Gradient steps per pass."""
    observation_std_floor: float = 1e-2
    """Smallest standard deviation an input is divided by."""
    observation_clip: float = 10.0
    """Normalised inputs are clipped to ± this."""
    actor: ActorConfig = dataclasses.field(default_factory=ActorConfig)
    """Settings of every actor that has none of its own."""
    actors: Mapping[str, ActorConfig] = dataclasses.field(default_factory=dict)
    """Settings of single actors, by name."""

    def __post_init__(self) -> None:
        for name in ("total_steps", "unroll", "epochs", "minibatches", "observation_std_floor", "observation_clip"):
            _require(name, getattr(self, name), getattr(self, name) > 0, "above 0")

    def of(self, actor: str) -> ActorConfig:
        """The settings of the actor of that name."""
        return self.actors.get(actor, self.actor)

    def steps_per_update(self, num_envs: int) -> int:
        """Environment steps between two updates; raises `UserError` if they cannot be cut into minibatches."""
        steps = num_envs * self.unroll
        if steps % self.minibatches:
            raise UserError(
                f"minibatches is {self.minibatches}, but {num_envs} environments x unroll {self.unroll} = {steps} "
                "steps cannot be divided by it"
            )
        return steps

    def updates(self, num_envs: int) -> int:
        """Updates of the whole run, at least one."""
        return max(1, -(-self.total_steps // self.steps_per_update(num_envs)))


def settings_hash(settings: Mapping[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of settings written as canonical JSON."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _require(name: str, value: Any, holds: bool, allowed: str) -> None:
    if not holds:
        raise UserError(f"{name} is {value}; allowed: {allowed}")
