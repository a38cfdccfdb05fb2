"""Muscles of a whole batch in JAX: angles and activations in, moments about the hinges out.

Everything is laid out with the environments last, so that a monomial, a length or a moment arm is one contiguous row
and one matrix product gives lengths and moment arms of both sides of all environments. Selections are written as
products with constant matrices of zeros and signs, because gathers are what makes this slow on accelerators.

Curves and dynamics are those of `musculoskeletal.muscle`, evaluated with `jax.numpy`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from mjx_exo.conventions import SIDES
from mjx_exo.musculoskeletal.compiled import CompiledBody, Limb
from mjx_exo.musculoskeletal.muscle import MuscleParameters, muscle_functions

_curves = muscle_functions(jnp)


class LimbArrays(NamedTuple):
    """Constants of one limb on both sides; T hinges of the body, J of the limb, M muscles, C crossings, K monomials."""

    place: np.ndarray  # [T, J, 2]: sign of hinge T as joint J of the right and left limb, else 0
    centre_rad: np.ndarray  # [J, 1, 1]
    half_range_rad: np.ndarray  # [J, 1, 1]
    parent: tuple[int, ...]  # [K]
    variable: tuple[int, ...]  # [K]
    matrix: np.ndarray  # [M + C, K]
    crossed: np.ndarray  # [C, J]: 1 where a crossing is of that joint
    crossing: np.ndarray  # [M, C]: 1 where a crossing is of that muscle


class MuscleOutput(NamedTuple):
    """What a set of muscles does, N environments."""

    moment_nm: Array  # [T, N] about all hinges
    damping_nm_s: Array  # [T, N], −∂moment/∂velocity, never negative
    force_n: Array  # [2 M, N] tension, right side first
    fibre_length: Array  # [2 M, N], optimal lengths
    fibre_velocity: Array  # [2 M, N], optimal lengths per second


def limb_arrays(body: CompiledBody, limb: Limb) -> LimbArrays:
    """The constants of `limb` in the form the batch needs."""
    paths = limb.paths
    joints, muscles, crossings = len(paths.joints), len(paths.muscles), len(paths.crossings)
    place = np.zeros((len(body.joint_names), joints, 2))
    for s, (side, signs) in enumerate(zip(SIDES, (np.ones(joints), limb.left_signs), strict=True)):
        place[body.joint_index(limb, side), np.arange(joints), s] = signs
    crossed, crossing = np.zeros((crossings, joints)), np.zeros((muscles, crossings))
    crossed[np.arange(crossings), paths.crossings[:, 1]] = 1.0
    crossing[paths.crossings[:, 0], np.arange(crossings)] = 1.0
    return LimbArrays(
        place=place,
        centre_rad=paths.centre_rad[:, None, None],
        half_range_rad=paths.half_range_rad[:, None, None],
        parent=tuple(map(int, paths.parent)),
        variable=tuple(map(int, paths.variable)),
        matrix=paths.matrix,
        crossed=crossed,
        crossing=crossing,
    )


def path_values(limb: LimbArrays, angles_rad: Array) -> Array:
    """Lengths and moment arms [M + C, 2, N] in m at the limb's own joint angles [J, 2, N], for the published body."""
    x = jnp.clip((angles_rad - limb.centre_rad) / limb.half_range_rad, -1.0, 1.0)
    rows = [jnp.ones_like(x[0])]
    for parent, variable in zip(limb.parent[1:], limb.variable[1:], strict=True):
        rows.append(rows[parent] * x[variable])
    return jnp.einsum("ck,ksn->csn", _like(limb.matrix, angles_rad), jnp.stack(rows))


def limb_output(
    limb: LimbArrays, q: Array, v: Array, activation: Array, scale: Array, parameters: MuscleParameters
) -> MuscleOutput:
    """What the muscles of one limb do on both sides.

    Args:
      q, v: [T, N] angles (rad) and velocities (rad/s) of all hinges.
      activation: [2 M, N], 0…1, right side first.
      scale: [N] or [1], path lengths relative to the published body.
      parameters: each [2 M, N] or [2 M, 1].
    """
    muscles = limb.crossing.shape[0]

    def by_side(rows: Array) -> Array:
        return jnp.swapaxes(rows.reshape(2, muscles, -1), 0, 1)

    def in_order(rows: Array) -> Array:
        return jnp.swapaxes(rows, 0, 1).reshape(2 * muscles, -1)

    place, crossed, crossing = (_like(a, q) for a in (limb.place, limb.crossed, limb.crossing))
    values = scale * path_values(limb, jnp.einsum("tjs,tn->jsn", place, q))
    length, arm = values[:muscles], values[muscles:]
    joint_velocity = jnp.einsum("cj,jsn->csn", crossed, jnp.einsum("tjs,tn->jsn", place, v))
    velocity = -jnp.einsum("mc,csn->msn", crossing, arm * joint_velocity)
    p = MuscleParameters(*(by_side(column) for column in parameters))
    force, slope = _curves.tension(by_side(activation), length, velocity, *p[:8])
    moment = jnp.einsum("cj,csn->jsn", crossed, arm * jnp.einsum("mc,msn->csn", crossing, force))
    damping = jnp.einsum("cj,csn->jsn", crossed, arm * arm * jnp.einsum("mc,msn->csn", crossing, slope))
    return MuscleOutput(
        moment_nm=jnp.einsum("tjs,jsn->tn", place, moment),
        damping_nm_s=jnp.einsum("tjs,jsn->tn", jnp.abs(place), damping),
        force_n=in_order(force),
        fibre_length=in_order((length - p.rest_length_m) / p.optimal_length_m),
        fibre_velocity=in_order(velocity / p.optimal_length_m),
    )


def body_output(
    limbs: tuple[LimbArrays, ...], q: Array, v: Array, activation: Array, scale: Array, parameters: MuscleParameters
) -> MuscleOutput:
    """What all muscles of a body do; arguments as in `limb_output`, muscles in the order of the body's."""
    parts, start = [], 0
    for limb in limbs:
        rows = slice(start, start + 2 * limb.crossing.shape[0])
        start = rows.stop
        column = MuscleParameters(*(p[rows] for p in parameters))
        parts.append(limb_output(limb, q, v, activation[rows], scale, column))
    if len(parts) == 1:
        return parts[0]
    return MuscleOutput(
        moment_nm=sum(p.moment_nm for p in parts),
        damping_nm_s=sum(p.damping_nm_s for p in parts),
        force_n=jnp.concatenate([p.force_n for p in parts]),
        fibre_length=jnp.concatenate([p.fibre_length for p in parts]),
        fibre_velocity=jnp.concatenate([p.fibre_velocity for p in parts]),
    )


def activate(activation: Array, excitation: Array, parameters: MuscleParameters, dt_s: float) -> Array:
    """Activation [M, N] after `dt_s` under excitation [M, N]."""
    return _curves.activate(activation, excitation, parameters.tau_activation_s, parameters.tau_deactivation_s, dt_s)


def _like(constant: np.ndarray, array: Array) -> Array:
    return jnp.asarray(constant, array.dtype)
