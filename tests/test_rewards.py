"""What single reward terms are worth, and to whom."""

from __future__ import annotations

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from mjx_exo.walking import exo_rewards
from mjx_exo.walking.rewards import (
    clock_agreement,
    fatigue,
    heading_agreement,
    heel_agreement,
    pitching,
    standing_agreement,
    stretch,
)


def test_standing_is_worth_most_with_the_weight_above_the_middle_of_both_feet():
    load, still, balanced = jnp.full((5, 2), 0.5), jnp.zeros((5, 2)), jnp.array([0.0, 0.2, 0.4, 0.6, 1.0])
    worth = np.asarray(standing_agreement(load, still, balanced))[:, 0]
    assert worth[2] == 1.0 and worth[0] < worth[1] < 1.0 and worth[4] < worth[3] < 1.0
    assert (np.asarray(standing_agreement(0.0 * load, still, balanced)) == 0).all()


def test_toes_may_not_come_down_before_the_foot_has_landed():
    phase, down = jnp.array([[0.97, 0.90, 0.04, 0.04]]), jnp.full((1, 4), -0.05)
    load, loaded = jnp.array([[0.0, 0.0, 0.3, 0.0]]), jnp.array([[0.0, 0.0, 0.3, 0.3]])
    level = jnp.zeros((1, 4))
    np.testing.assert_allclose(heel_agreement(phase, load, loaded, down, level), [[-1.0, -1.0, 0.0, 0.0]])
    np.testing.assert_allclose(heel_agreement(phase, load, loaded, -down, level), [[1.0, 1.0, 0.0, 0.0]])
    late = heel_agreement(jnp.array([[0.99, 0.04]]), load[:, :2], load[:, :2], -down[:, :2], level[:, :2])
    np.testing.assert_array_equal(late, 0.0)  # or feet would stay in the air for it
    landing = heel_agreement(
        phase[:, 2:3], load[:, 2:3], jnp.zeros((1, 1)), jnp.array([[-0.05, 0.0, 0.05, 0.08, 0.13]]).T, level[:, :1]
    )
    np.testing.assert_allclose(landing[:, 0], [-6.0, -3.0, 0.0, 0.0, -3.0], atol=1e-6)  # touching twice earns nothing


def test_a_leg_that_reaches_out_earns_what_a_foot_pulled_up_does_not():
    phase, load, up = jnp.full((1, 3), 0.9), jnp.zeros((1, 3)), jnp.full((1, 3), 0.05)
    ankle = jnp.array([[0.0, -0.3, 0.25]])  # the last one bent upwards, by what lifts the toes as far
    np.testing.assert_allclose(heel_agreement(phase, load, load, up, ankle), [[1.0, 1.0, 0.0]], atol=1e-6)


def test_only_a_straight_knee_and_far_extended_hips_and_calves_are_stretched():
    people_in_stance = (
        jnp.array([[-0.13, 0.3]]),
        jnp.array([[0.15, 0.3]]),
        jnp.array([[0.04, -0.3]]),
    )  # hip, knee, ankle
    assert float(stretch(*people_in_stance)[0]) == 0.0
    for joint, sign in enumerate((-1.0, -1.0, 1.0)):  # extension, extension, dorsiflexion
        moved = [angle + sign * 0.1 * (i == joint) for i, angle in enumerate(people_in_stance)]
        further = [angle + sign * 0.2 * (i == joint) for i, angle in enumerate(people_in_stance)]
        assert 0.0 < float(stretch(*moved)[0]) < float(stretch(*further)[0])


def test_who_walks_beside_the_line_is_to_turn_towards_it():
    offset, speed = jnp.array([0.5, 0.5, 0.5, 2.0]), jnp.full(4, 1.0)  # to the left of it
    yaw = jnp.array([-0.15, 0.0, 0.15, -0.2])
    worth = np.asarray(heading_agreement(offset, yaw, speed * yaw, speed))
    assert worth[0] == pytest.approx(1.0) and worth[3] == pytest.approx(1.0)
    assert 1.0 > worth[1] > worth[2]
    still = heading_agreement(offset, jnp.zeros(4), jnp.zeros(4), jnp.zeros(4))
    np.testing.assert_allclose(still, 1.0)  # who stands may stand where they are


def test_a_trunk_that_nods_pays_for_it_and_one_that_turns_or_leans_sideways_does_not():
    turning = jnp.array([[0.0, 0.5, 0.0], [0.0, -0.5, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.5]])  # forwards, left, up
    np.testing.assert_allclose(pitching(turning), [0.25, 0.25, 0.0, 0.0])


def test_a_perfect_step_is_worth_less_than_standing_once_standing_is_asked_for():
    phase, load = jnp.array([[0.2, 0.7]] * 2), jnp.array([[1.0, 0.0]] * 2)
    worth = clock_agreement(phase, load, jnp.zeros((2, 2)), jnp.array([False, True]))
    np.testing.assert_allclose(worth, [[1.0, 1.0], [0.6, 0.6]])


def test_one_muscle_at_work_tires_more_than_two_that_share_it():
    alone, shared, idle = fatigue(jnp.array([[0.6, 0.0], [0.3, 0.3], [0.0, 0.0]]))
    assert float(alone) == pytest.approx(0.108) and float(shared) == pytest.approx(0.027) and float(idle) == 0.0


def exo_parts(torque_nm_kg, hip_moment_nm_kg, power_w=(0.0, 0.0)):
    """Terms of the device for one wearer of 80 kg, right and left; the device's power as given."""
    power = 80.0 * jnp.array([power_w])
    readings = SimpleNamespace(
        exo_power_w=power, exo_positive_power_w=jnp.maximum(power, 0.0), positive_power_w=jnp.full((1, 4), 20.0)
    )
    physics = SimpleNamespace(activation=jnp.full((1, 26), 0.1), exo_torque_nm=80.0 * jnp.array([torque_nm_kg]))
    exo = SimpleNamespace(wanted_nm=jnp.zeros((1, 2)), requested_nm=jnp.zeros((1, 2)))
    command = SimpleNamespace(speed_m_s=jnp.ones(1))
    state = SimpleNamespace(readings=readings, physics=physics, exo=exo, command=command)
    limits = SimpleNamespace(limit_nm=jnp.full((1, 1), 18.0))
    return exo_rewards.reward_terms(
        state, state, limits, jnp.full(1, 80.0), jnp.array([hip_moment_nm_kg]), jnp.full(1, 5.0)
    )


def test_a_device_is_paid_for_the_moment_it_takes_over_and_not_for_pushing_against_the_muscles():
    helps, opposes = exo_parts((0.1, -0.2), (0.5, -0.5)), exo_parts((-0.1, 0.2), (0.5, -0.5))
    assert helps["relief"][0] > 0.0
    np.testing.assert_allclose(opposes["relief"], -helps["relief"], rtol=1e-6)
    np.testing.assert_allclose(exo_parts((0.2, -0.2), (0.0, 0.0))["relief"], 0.0, atol=1e-6)
    braking, driving = exo_parts((0.1, 0.1), (0.0, 0.0), (-0.1, 0.0)), exo_parts((0.1, 0.1), (0.0, 0.0), (0.1, 0.0))
    assert braking["agreement"][0] < -driving["agreement"][0] < 0.0  # braking costs more than driving gains
    assert set(helps) == set(exo_rewards.TERMS)
    strong = exo_parts((0.2, -0.4), (0.5, -0.5))
    np.testing.assert_allclose(strong["heat"], 4.0 * helps["heat"], rtol=1e-6)  # twice the torque, four times the loss
    assert helps["heat"][0] < 0.0 and helps["metabolic"][0] < 0.0 and helps["activation"][0] < 0.0
    costs = sum(float(helps[name][0]) for name in ("metabolic", "activation", "joint_power", "heat", "smoothness"))
    assert helps["alive"][0] + costs > 0.0  # or falling early would pay
