"""One actor's networks and input normalisers: brax's parts, put together for an actor with its own value input.

The standard deviation of the actions is a learnt vector that does not depend on the input (brax's `log` form), so the
noise band can be imposed on the parameter itself and the policy that acted is always the one that is stored.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from mjx_exo.learning.brax_parts import distribution, networks, running_statistics, specs
from mjx_exo.learning.contract import ActorSpec

Statistics = running_statistics.RunningStatisticsState
MeanStd = running_statistics.NestedMeanStd

MEAN_LAYER_VARIANCE = 0.01
"""Variance scale of the last policy layer: actions start near zero, so noise alone decides the first steps."""


@dataclasses.dataclass(frozen=True)
class ActorNetworks:
    """The pure functions of one actor; parameters are passed in."""

    policy: networks.FeedForwardNetwork
    """apply(None, params, normalised observation (..., o)) -> mean, std, each (..., action_size)."""
    value: networks.FeedForwardNetwork
    """apply(None, params, normalised privileged input (..., p)) -> (...)."""
    distribution: distribution.NormalDistribution


def make_actor_networks(spec: ActorSpec, hidden: tuple[int, ...]) -> ActorNetworks:
    """Policy and value network of one actor, separate, with SiLU hidden layers of the sizes given."""
    value = networks.make_value_network(
        spec.privileged_size,
        preprocess_observations_fn=_already_normalised,
        hidden_layer_sizes=hidden,
        activation=linen.silu,
    )
    policy = make_policy_network(spec.observation_size, spec.action_size, hidden)
    return ActorNetworks(policy, value, distribution.NormalDistribution(spec.action_size))


def make_policy_network(
    observation_size: int, action_size: int, hidden: tuple[int, ...]
) -> networks.FeedForwardNetwork:
    """The policy alone, as `ActorNetworks.policy`."""
    return networks.make_policy_network(
        action_size,
        observation_size,
        preprocess_observations_fn=_already_normalised,
        hidden_layer_sizes=hidden,
        activation=linen.silu,
        distribution_type="normal",
        noise_std_type="log",
        mean_kernel_init=jax.nn.initializers.variance_scaling(MEAN_LAYER_VARIANCE, "fan_in", "uniform"),
    )


def _already_normalised(inputs: jax.Array, _: Any) -> jax.Array:
    return inputs


def log_std(policy_params: Any) -> jax.Array:
    """(action_size,) logarithm of the actions' standard deviation."""
    return policy_params["params"]["std_logparam"]["log_value"]


def with_log_std(policy_params: Any, value: jax.Array) -> Any:
    """The same parameters with another logarithm of the standard deviation, (action_size,)."""
    return {"params": {**policy_params["params"], "std_logparam": {"log_value": value}}}


def init_statistics(size: int) -> Statistics:
    """Running mean and standard deviation of an input of that size, before any sample."""
    return running_statistics.init_state(specs.Array((size,), jnp.dtype("float32")))


def update_statistics(
    statistics: Statistics, inputs: jax.Array, fixed: jax.Array | None, std_floor: float
) -> Statistics:
    """Statistics with inputs (..., size) added. Inputs marked in `fixed`, (size,) bool, keep mean 0 and std 1."""
    updated = running_statistics.update(statistics, inputs, std_min_value=std_floor)
    if fixed is None:
        return updated
    return updated.replace(mean=jnp.where(fixed, 0.0, updated.mean), std=jnp.where(fixed, 1.0, updated.std))


def normalise(inputs: jax.Array, statistics: MeanStd, clip: float) -> jax.Array:
    """Inputs (..., size) with the running mean taken off, divided by the running std, clipped to ± `clip`."""
    return running_statistics.normalize(inputs, statistics, max_abs_value=clip)
