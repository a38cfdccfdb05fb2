"""What the walker is asked: speed and slope, changing at a limited rate, and pushes it is not told about."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from mjx_exo.walking.config import CommandConfig

GRAVITY_M_S2 = 9.81
# Nobody is asked to walk more slowly: from standing, a command begins here, and on the way to standing it ends here.
# Below, a step is half a second of balance on one leg, and coming to a stop out of it ends in a fall backwards.
SLOWEST_WALK_M_S = 0.5
SLOW_WALK_M_S = 0.9  # who has to learn to stop starts from somewhere between the slowest walk and this
FROM_STANDING, FROM_ELSEWHERE = 0.25, 0.4  # shares of those who fell walking that begin standing, or otherwise
# A stop begins while the other foot leaves the floor and can still be put down beside this one. Whoever is told
# to stop elsewhere in a step goes on until then: at once, twice as many fell.
STOP_WHEN = (0.1, 0.3)  # in a step, from heel strike on
LAST_STEP_M_S = 0.24  # or at the heel strike of the last step, at up to this; counts as standing


class Command(NamedTuple):
    """Commands of N environments, the values they move towards, and the push that acts now."""

    speed_m_s: Array  # [N]
    speed_target_m_s: Array  # [N]
    slope_rad: Array  # [N], uphill positive
    slope_target_rad: Array  # [N]
    push_n: Array  # [N, 3], world
    push_left_s: Array  # [N]


def draw_command(key: Array, config: CommandConfig, num_envs: int, widen: Array) -> Command:
    """Fresh commands, already reached. `widen` (0…1) opens the ranges from their middle.

    Standing is asked for from the start: who has learned to walk only does not find it any more.
    """
    speed_key, slope_key = jax.random.split(key)
    speed = _draw(speed_key, config.speed_m_s, num_envs, widen)
    if config.stand_share > 0:
        stand = jax.random.uniform(jax.random.fold_in(speed_key, 1), (num_envs,)) < config.stand_share
        speed = jnp.where(stand, 0.0, speed)
    slope = _draw(slope_key, config.slope_rad, num_envs, widen)
    return Command(speed, speed, slope, slope, jnp.zeros((num_envs, 3)), jnp.zeros(num_envs))


def ask_again(key: Array, fresh: Command, before: Command, fell: Array, share: float) -> Command:
    """Fresh commands, but after `share` of the falls ([N] 0 or 1) the one the walker was on its way to before.

    Who fell on the way to standing comes to a stop again, out of a slow walk or in the middle of the last step: falling
    is not unlearned by standing. Who fell walking walks again: `FROM_STANDING` of them out of standing,
    `FROM_ELSEWHERE` out of another speed and slope, because most falls are on the way, and the others at once.
    """
    again_key, speed_key, step_key = jax.random.split(key, 3)
    again = (fell > 0) & (jax.random.uniform(again_key, fell.shape) < share)
    stops = again & standing(before.speed_target_m_s)
    walks = jax.random.bernoulli(step_key, shape=fell.shape)
    share_of_range = jax.random.uniform(speed_key, fell.shape)
    slow = SLOWEST_WALK_M_S + share_of_range * (SLOW_WALK_M_S - SLOWEST_WALK_M_S)
    speed = jnp.where(walks, slow, LAST_STEP_M_S * (0.1 + 0.9 * share_of_range))
    target = jnp.where(again, before.speed_target_m_s, fresh.speed_target_m_s)
    way = jax.random.uniform(jax.random.fold_in(key, 1), fell.shape)
    standing_first = again & ~stops & (way < FROM_STANDING)
    elsewhere = again & ~stops & ~standing_first & (way < FROM_STANDING + FROM_ELSEWHERE)
    slope_target = jnp.where(again, before.slope_target_rad, fresh.slope_rad)
    speed = jnp.where(stops, speed, jnp.where(elsewhere, fresh.speed_m_s, target))
    return fresh._replace(
        speed_m_s=jnp.where(standing_first, 0.0, speed),
        speed_target_m_s=target,
        slope_rad=jnp.where(elsewhere, fresh.slope_rad, slope_target),
        slope_target_rad=slope_target,
    )


def in_last_step(speed_m_s: Array) -> Array:
    """[N] True where a start at a commanded speed [N] is a heel strike from which the walker should come to stand."""
    return standing(speed_m_s) & (speed_m_s > 0)


def _draw(key: Array, span: tuple[float, float], num_envs: int, widen: Array) -> Array:
    low, high = span
    middle = 0.5 * (low + high)
    return middle + widen * 0.5 * (high - low) * jax.random.uniform(key, (num_envs,), minval=-1.0, maxval=1.0)


def standing(speed_m_s: Array) -> Array:
    """[N] True where a commanded speed [N] asks to stand still."""
    return speed_m_s < 0.5 * SLOWEST_WALK_M_S


def advance_command(
    key: Array, command: Command, phase: Array, config: CommandConfig, dt_s: float, widen: Array, harsh: Array
) -> Command:
    """One control step: new targets now and then, values follow at a limited rate, pushes come and go.

    phase: [N] of the gait clock, 0…1; a walk becomes a stop where `may_stop` says so. `harsh` (0…1) scales the pushes.
    """
    draw_key, when_key, push_key, size_key, angle_key = jax.random.split(key, 5)
    n = command.speed_m_s.shape[0]
    fresh = draw_command(draw_key, config, n, widen)
    if config.resample_s > 0:
        change = jax.random.uniform(when_key, (n,)) < dt_s / config.resample_s
        speed_target = jnp.where(change, fresh.speed_m_s, command.speed_target_m_s)
        slope_target = jnp.where(change, fresh.slope_rad, command.slope_target_rad)
    else:
        speed_target, slope_target = command.speed_target_m_s, command.slope_target_rad
    push, left = command.push_n, command.push_left_s - dt_s
    if config.push_n > 0:
        begin = (jax.random.uniform(push_key, (n,)) < dt_s / config.push_every_s) & (left <= 0)
        size = harsh * config.push_n * jax.random.uniform(size_key, (n,))
        angle = jax.random.uniform(angle_key, (n,), maxval=2 * jnp.pi)
        new = size[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle), jnp.zeros(n)], -1)
        left = jnp.where(begin, config.push_s, left)
        push = jnp.where(begin[:, None], new, jnp.where((left > 0)[:, None], push, 0.0))
    return Command(
        speed_m_s=_follow_speed(command.speed_m_s, speed_target, config.speed_rate_m_s2 * dt_s, may_stop(phase)),
        speed_target_m_s=speed_target,
        slope_rad=_follow(command.slope_rad, slope_target, config.slope_rate_rad_s * dt_s),
        slope_target_rad=slope_target,
        push_n=push,
        push_left_s=left,
    )


def _follow(value: Array, target: Array, step: float) -> Array:
    return value + jnp.clip(target - value, -step, step)


def may_stop(phase: Array) -> Array:
    """[N] True in the part of a step in which a stop may begin; phase [N] of the gait clock, 0…1."""
    in_step = (2.0 * phase) % 1.0
    return (in_step >= STOP_WHEN[0]) & (in_step < STOP_WHEN[1])


def _follow_speed(value: Array, target: Array, step: float, stop_now: Array) -> Array:
    """Like `_follow`, but what lies between standing and the slowest walk is skipped; down, only with `stop_now`."""
    floor = jnp.where(standing(target), 0.0, SLOWEST_WALK_M_S)
    near = jnp.maximum(_follow(value, target, step), jnp.minimum(floor, target))
    stops = standing(target) & (near < SLOWEST_WALK_M_S)
    return jnp.where(stops, jnp.where(stop_now | standing(value), target, SLOWEST_WALK_M_S), near)


def gravity(slope_rad: Array) -> Array:
    """Gravity [N, 3] of a slope [N]: uphill positive, walking along +x."""
    zero = jnp.zeros_like(slope_rad)
    return GRAVITY_M_S2 * jnp.stack([-jnp.sin(slope_rad), zero, -jnp.cos(slope_rad)], -1)
