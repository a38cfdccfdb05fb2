"""The arithmetic of PPO, one function per idea, all pure: estimates, losses, steering, noise."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mjx_exo.learning import networks
from mjx_exo.learning.brax_parts import compute_gae
from mjx_exo.learning.config import ActorConfig
from mjx_exo.learning.state import ActorState, Stats


def estimate(
    config: ActorConfig,
    reward: jax.Array,
    values: jax.Array,
    final_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Value targets and advantages, [T, N] each, from unscaled rewards and values [T, N] and the value [N] after them.

    Nothing follows a terminated step. A truncated step's successor was never seen, so it teaches nothing: its
    advantage is 0 and its target its own value, which is what the steps before it build on.
    """
    return compute_gae(
        truncation=truncated,
        termination=terminated,
        rewards=reward * config.reward_scale,
        values=values,
        bootstrap_value=final_value,
        lambda_=config.gae_lambda,
        discount=config.discount,
    )


def shuffled_order(key: jax.Array, size: int) -> jax.Array:
    """(size,) int32: the numbers 0 … size - 1 in random order.

    One sort of random bits that carry their own index; four times cheaper on a processor than
    `jax.random.permutation`, which alone would be a tenth of an update. Equal bits keep their order.
    """
    index_bits = max(1, (size - 1).bit_length())
    index = jnp.arange(size, dtype=jnp.uint32)
    tagged = (jax.random.bits(key, (size,), jnp.uint32) >> index_bits << index_bits) | index
    return (jnp.sort(tagged) & jnp.uint32((1 << index_bits) - 1)).astype(jnp.int32)


def policy_loss(
    params: Any, rows: dict[str, jax.Array], nets: networks.ActorNetworks, config: ActorConfig, before: ActorState
) -> tuple[jax.Array, Stats]:
    """Clipped surrogate loss minus the entropy bonus, a scalar, over rows (B, …); `before` is the actor that acted."""
    mean, std = nets.policy.apply(None, params, rows["observation"])
    ratio = jnp.exp(nets.distribution.log_prob((mean, std), rows["action"]) - rows["log_prob"])
    clipped = jnp.clip(ratio, 1 - config.clip, 1 + config.clip)
    surrogate = -jnp.mean(jnp.minimum(ratio * rows["advantage"], clipped * rows["advantage"]))
    old_std = jnp.exp(networks.log_std(before.policy_params))
    old = nets.distribution.create_dist((rows["mean"], old_std))
    new = nets.distribution.create_dist((mean, std))
    entropy = jnp.sum(networks.log_std(params))
    loss = surrogate - config.entropy_cost * (1 - before.noise_fallen) * entropy
    clip_share = jnp.mean((jnp.abs(ratio - 1) > config.clip).astype(jnp.float32))
    return loss, {"policy_loss": surrogate, "kl": jnp.mean(new.kl_divergence(old)), "clip_share": clip_share}


def value_loss(params: Any, rows: dict[str, jax.Array], nets: networks.ActorNetworks) -> jax.Array:
    """Half the mean squared error of the value function, a scalar, over rows (B, …)."""
    return 0.5 * jnp.mean(jnp.square(nets.value.apply(None, params, rows["privileged"]) - rows["target"]))


def steer(config: ActorConfig, learning_rate: jax.Array, kl: jax.Array, noise_fallen: jax.Array) -> jax.Array:
    """The next step size: smaller if the last update moved the policy too far, larger if hardly, within its bounds."""
    target = config.kl_target * ((config.kl_target_end or config.kl_target) / config.kl_target) ** noise_fallen
    smaller = jnp.where(kl > 2 * target, learning_rate / config.kl_factor, learning_rate)
    steered = jnp.where(kl < 0.5 * target, learning_rate * config.kl_factor, smaller)
    return jnp.clip(steered, *config.learning_rate_bounds)


def rate_left(config: ActorConfig, progress: jax.Array) -> jax.Array:
    """Share of the policy's step size that is left at `progress` (0..1) of the run."""
    if config.rate_fall_share == 0.0:
        return jnp.ones_like(progress)
    return jnp.clip((1.0 - progress) / config.rate_fall_share, 0.0, 1.0)


def noise_ceiling(config: ActorConfig, fallen: jax.Array) -> jax.Array:
    """Largest standard deviation of the actions when the noise has fallen by that share (0..1), geometrically."""
    return config.std_start * (config.std_end / config.std_start) ** fallen


def let_noise_fall(config: ActorConfig, fallen: jax.Array, stats: Stats, updates: int) -> jax.Array:
    """How far the noise has fallen after one more of `updates` updates.

    Excitation is clipped at zero and rectifies noise, so a policy that learnt in loud noise does not walk without it;
    but with little noise nothing is found. So it falls, and only once the episodes last.
    """
    lasts = stats["episode_seconds"] >= config.noise_falls_after_s
    may_fall = lasts | (stats["progress"] >= config.noise_falls_latest)
    return jnp.minimum(1.0, fallen + jnp.where(may_fall, 1.0 / (config.noise_fall_share * updates), 0.0))
