"""What a user of the walking environment relies on."""

from __future__ import annotations

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from mjx_exo.errors import UserError
from mjx_exo.learning.progress import Snapshot, headline
from mjx_exo.musculoskeletal.bodies import BODIES
from mjx_exo.musculoskeletal.compiled import compile_body
from mjx_exo.musculoskeletal.skeleton import ContactOptions
from mjx_exo.musculoskeletal.wearer import Wearer
from mjx_exo.walking.build import build_environment
from mjx_exo.walking.commands import (
    SLOWEST_WALK_M_S,
    standing,
)
from mjx_exo.walking.config import LOOSE, STRICT, CommandConfig, CurriculumConfig, WalkingConfig
from mjx_exo.walking.gait_clock import balance, expected_speed, held, told_speed
from mjx_exo.walking.pacing import aim
from mjx_exo.walking.rollout import metabolic_power_w
from mjx_exo.walking.start_states import build_start_states, standing_row

N = 16


@pytest.fixture(scope="module")
def env():
    command = CommandConfig(speed_m_s=(0.8, 1.6), slope_rad=(-0.1, 0.1), push_n=50.0, resample_s=1.0)
    curriculum = CurriculumConfig(start_episode_s=6.0, rise_updates=10, widen_updates=5, fall_back=0.5)
    return build_environment(
        WalkingConfig(
            num_envs=N, episode_s=0.4, command=command, curriculum=curriculum, threads=2, pacing_per_s=0.5,
            loose=dataclasses.replace(LOOSE, metabolic=-0.5), strict=dataclasses.replace(STRICT, metabolic=-0.5),
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def reset(env):
    return jax.jit(env.reset)


@pytest.fixture(scope="module")
def step(env):
    return jax.jit(env.step)


@pytest.fixture(scope="module")
def rolled(env, reset, step):
    """States of 60 steps of random actions, from reset on."""
    state = reset(jax.random.key(0))
    states = [state]
    for key in jax.random.split(jax.random.key(1), 60):
        state = step(state, {"human": jax.random.normal(key, (N, env.human_action_size))})
        states.append(state)
    return states


def test_a_walker_that_is_too_slow_sees_a_higher_aim_and_is_rewarded_for_it(env, rolled):
    sizes = [(name, size) for name, size, _ in env.describe_observations()["human"]]
    column = sum(size for _, size in itertools.takewhile(lambda entry: entry[0] != "speed_command", sizes))
    for before, after in itertools.pairwise(rolled):
        told = aim(after.command, after.pacing_m_s)
        np.testing.assert_array_equal(after.observation["human"][:, column], told)
        going_on = np.asarray(after.time_s > before.time_s)
        moved = np.asarray(after.pacing_m_s - before.pacing_m_s)
        slow = np.asarray(before.speed_filtered_m_s < after.command.speed_m_s - 0.01)
        changing = np.asarray(after.command.speed_m_s != after.command.speed_target_m_s)
        assert (moved[going_on & slow & ~changing] > 0).all() and (moved[going_on & changing] == 0).all()
    paced = rolled[-1].replace(pacing_m_s=jnp.full(N, 0.1))
    np.testing.assert_array_equal(
        expected_speed(paced, env.kinematics_of(paced)), paced.command.speed_m_s + jnp.float32(0.1)
    )


def test_observations_have_the_sizes_the_table_says(env, rolled):
    table = env.describe_observations()["human"]
    actor = env.actors[0]
    assert sum(size for _, size, _ in table) == actor.observation_size == rolled[0].observation["human"].shape[1]
    assert len(actor.observation_fixed) == actor.observation_size
    assert rolled[0].privileged["human"].shape == (N, actor.privileged_size)
    assert ("clock", 2, True) in table


def test_everything_stays_finite(rolled):
    for state in rolled:
        for leaf in jax.tree.leaves(state):
            if jnp.issubdtype(leaf.dtype, jnp.floating):
                assert bool(jnp.isfinite(leaf).all())


def test_an_episode_ends_once_by_fall_or_by_time(rolled):
    terminated = np.array([s.terminated for s in rolled])
    truncated = np.array([s.truncated for s in rolled])
    assert not np.any((terminated > 0) & (truncated > 0))
    assert truncated.sum() > 0, "episodes of 0.4 s must run into the time limit"
    for before, after in itertools.pairwise(rolled):
        ended = np.asarray(after.terminated + after.truncated) > 0
        assert np.all(np.asarray(after.time_s)[ended] == 0.0)
        assert np.allclose(np.asarray(after.time_s - before.time_s)[~ended], 0.02, atol=1e-5)


def test_a_fallen_walker_is_terminated(env, reset, step):
    state = reset(jax.random.key(3))
    low = state.physics._replace(qpos=state.physics.qpos.at[0, 2].set(0.4))
    after = step(state.replace(physics=low), {"human": jnp.zeros((N, env.human_action_size))})
    assert float(after.terminated[0]) == 1.0
    assert float(after.physics.qpos[0, 2]) > 0.7, "a fresh episode stands"


def test_starts_are_in_motion_and_spread_over_the_cycle(env, rolled):
    state = rolled[0]
    speed = np.asarray(state.physics.qvel[:, 0] / state.command.speed_m_s)
    assert np.all((speed > 0.8) & (speed < 1.15))
    assert len(np.unique(np.asarray(state.phase))) > 5
    assert np.all(np.asarray(state.physics.qvel[:, 0]) > 0)


def test_starts_are_spread_beside_the_line_where_that_is_asked_for(env):
    assert not np.asarray(env.reset(jax.random.key(0)).physics.qpos[:, 1]).any()
    command = dataclasses.replace(env.config.command, aside_m=0.8)
    beside = build_environment(dataclasses.replace(env.config, command=command)).reset(jax.random.key(0))
    y = np.asarray(beside.physics.qpos[:, 1])
    assert y.min() < -0.3 and y.max() > 0.3 and np.abs(y).max() <= 0.8


def test_same_key_same_result(reset, rolled):
    again = reset(jax.random.key(0))
    for a, b in zip(jax.tree.leaves(again.observation), jax.tree.leaves(rolled[0].observation), strict=True):
        assert bool((a == b).all())


def test_every_reward_term_is_logged_and_sums_to_the_reward(rolled):
    state = rolled[5]
    terms = [v for name, v in state.metrics.items() if name.startswith("reward/")]
    assert len(terms) == len(dataclasses.fields(type(WalkingConfig().loose)))
    np.testing.assert_allclose(np.sum(terms, axis=0), np.asarray(state.reward["human"]), atol=1e-5)


def test_a_walker_pays_for_the_energy_that_the_evaluation_counts(env, rolled):
    state = rolled[5]
    going = np.asarray(state.terminated + state.truncated) == 0
    series = {name: np.asarray(getattr(state.readings, name))[None] for name in ("fibre_length", "fibre_velocity")}
    series["activation"] = np.asarray(state.physics.activation)[None]
    series["excitation"] = np.asarray(env.human_actions.excitation(state.previous_action))[None]
    rate_w_kg = metabolic_power_w(env, series)[0][0].sum(-1) / np.asarray(env.body_mass_kg)
    paid = np.asarray(state.metrics["reward/metabolic"])
    assert rate_w_kg.min() < 20.0 < rate_w_kg.max()
    told = aim(state.command, state.pacing_m_s)
    expected = -0.5 * np.minimum(rate_w_kg, 40.0) / (0.5 + np.maximum(np.asarray(told), 1.0))
    np.testing.assert_allclose(paid[going], expected[going], rtol=1e-3)


def test_the_task_hardens_while_episodes_last_and_softens_while_they_do_not(env, rolled):
    hard = env.curriculum(rolled[0], {"episode_seconds": jnp.float32(8.0)})
    assert float(hard.curriculum.strictness) == pytest.approx(0.1)
    soft = env.curriculum(hard, {"episode_seconds": jnp.float32(2.0)})
    assert float(soft.curriculum.strictness) == pytest.approx(0.05)
    assert float(soft.curriculum.widen) == float(hard.curriculum.widen) == pytest.approx(0.2), (
        "what was opened stays open"
    )


def test_a_training_shows_how_far_its_commands_are_open(env, step, rolled):
    opened = rolled[0]
    for _ in range(2):
        opened = env.curriculum(opened, {"episode_seconds": jnp.float32(8.0)})
    action = {"human": jnp.zeros((N, env.human_actions.size))}
    share = float(step(opened, action).metrics["commands_open"][0])
    shown = [headline(Snapshot(0, 1, 1.0, 1.0, 1.0, {"commands_open": value})) for value in (share, 1.0)]
    assert "commands 40 % open" in shown[0] and not any("open" in text for text in shown[1])


def test_a_walker_told_to_stand_starts_upright_and_still(env, reset):
    state = env.with_command(reset(jax.random.key(0)), jnp.zeros(N), jnp.zeros(N))
    joints = np.asarray(state.physics.qpos)[:, 7:].reshape(N, 2, -1)
    assert not np.asarray(state.physics.qvel).any() and np.abs(joints).max() < 0.15
    np.testing.assert_array_equal(joints[:, 0], joints[:, 1])
    assert held(state, env.kinematics_of(state)).all() and set(np.asarray(state.phase).tolist()) <= {0.0, 0.5}
    walking = env.with_command(reset(jax.random.key(0)), jnp.full(N, 1.25), jnp.zeros(N))
    assert not held(walking, env.kinematics_of(walking)).any() and (np.asarray(walking.physics.qvel)[:, 0] > 0.8).all()


def test_who_loses_balance_while_standing_takes_another_step(env, reset, step):
    still = env.with_command(reset(jax.random.key(0)), jnp.zeros(N), jnp.linspace(-0.1, 0.1, N))
    where = np.asarray(balance(env.kinematics_of(still), still.command.slope_rad))
    assert ((where > 0.2) & (where < 0.5)).all()  # 7 to 8 of 21 cm in front of the heels, on every slope
    moving = jnp.array([-0.9, -0.1, 0.1, 0.9] * (N // 4))
    pushed = still.replace(physics=still.physics._replace(qvel=still.physics.qvel.at[:, 0].set(moving)))
    steady = np.asarray(held(pushed, env.kinematics_of(pushed)))
    np.testing.assert_array_equal(steady, np.abs(moving) < 0.2)
    after = step(pushed, {"human": jnp.zeros((N, env.human_action_size))})
    stays = np.asarray(standing(after.command.speed_m_s))  # a new command may have come
    assert stays.sum() > N // 2
    np.testing.assert_array_equal((np.asarray(after.phase) == np.asarray(pushed.phase))[stays], steady[stays])
    told = np.asarray(told_speed(pushed, env.kinematics_of(pushed)))
    down = ~steady & (np.asarray(pushed.command.slope_rad) < 0)
    assert (told[down] < 0).all() and (told[~down] == 0).all(), "who comes to a stop downhill is told to brake"
    worth = np.asarray(after.metrics["reward/speed"]) / LOOSE.speed  # who earned as much in these steps would go on
    assert (worth[stays & ~steady] <= 0.6).all() and (worth[stays & steady] > 0.6).all()


def test_who_stands_at_the_start_of_training_sways_about_the_ankles(env):
    stands = dataclasses.replace(env.config, num_envs=64, command=CommandConfig(stand_share=1.0))
    crowd = build_environment(stands)
    state = jax.jit(crowd.reset)(jax.random.key(0))
    k = crowd.kinematics_of(state)
    sway = np.asarray(state.physics.qvel[:, 0])
    assert sway.min() < -0.15 and sway.max() > 0.25 and np.asarray(held(state, k)).mean() > 0.9
    after = crowd.kinematics_of(jax.jit(crowd.step)(state, {"human": jnp.zeros((64, crowd.human_action_size))}))
    assert np.abs(np.asarray(after.heel_velocity_m_s)[..., 0]).max() < 0.15  # the feet stay where they are


def test_who_fell_in_a_stop_starts_walking_or_at_the_heel_strike_of_the_last_step(env, reset):
    command = dataclasses.replace(env.config.command, retry_share=1.0, stand_share=0.5)
    again = build_environment(dataclasses.replace(env.config, command=command))
    state = reset(jax.random.key(0))
    lying = state.physics.qpos.at[:, 2].set(0.2)
    to_stand = state.command._replace(speed_target_m_s=jnp.zeros(N))
    fallen = state.replace(physics=state.physics._replace(qpos=lying), command=to_stand)
    after = jax.jit(again.step)(fallen, {"human": jnp.zeros((N, env.human_action_size))})
    assert after.terminated.all() and not np.asarray(after.command.speed_target_m_s).any()
    speed = np.asarray(after.command.speed_m_s)
    stopping = np.asarray(standing(speed))
    assert not held(after, env.kinematics_of(after)).any()  # another step is due
    assert 0 < stopping.sum() < N and (speed[~stopping] >= SLOWEST_WALK_M_S).all() and (speed[stopping] > 0).all()
    feet = np.asarray(env.kinematics_of(after).heel_m)[stopping, :, 0]
    leads_left = np.asarray(after.phase)[stopping] == 0.5
    np.testing.assert_array_equal(feet[:, 1] > feet[:, 0] + 0.3, leads_left)
    np.testing.assert_array_equal(feet[:, 0] > feet[:, 1] + 0.3, ~leads_left)


@pytest.mark.parametrize("body_name", BODIES)
def test_who_stands_has_the_weight_between_heels_and_toes_on_every_slope(body_name):
    body = compile_body(body_name)
    starts = build_start_states(body, (Wearer(),), 0.9)
    model = mujoco.MjModel.from_xml_string(body.model_xml(Wearer(), 0.005, ContactOptions()))
    data = mujoco.MjData(model)
    soles = np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_SPHERE)
    for slope_deg in (-7.0, -3.0, 0.0, 2.0, 7.0):
        slope = math.radians(slope_deg)
        data.qpos[:] = starts.qpos[0, int(standing_row(jnp.float32(slope)))]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        centre = data.subtree_com[0]
        above = centre[0] - math.tan(slope) * centre[2]  # where gravity through it meets the floor
        places = data.geom_xpos[soles]
        assert places[:, 0].min() + 0.04 < above < places[:, 0].max() - 0.08, slope_deg
        assert np.abs(places[:, 2] - model.geom_size[soles, 0]).max() < 0.004, "soles lie flat"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"body": "myolegs27"}, "myolegs26"),
        ({"engine": "bullet"}, "native"),
        ({"device_mode": "worn"}, "device"),
        ({"device_mode": "active", "device": "no_such"}, "no_such"),
        ({"num_envs": 0}, "num_envs"),
        ({"synergies": "none"}, "published"),
    ],
)
def test_what_cannot_be_built_is_named(change, named):
    with pytest.raises(UserError, match=named) as caught:
        build_environment(dataclasses.replace(WalkingConfig(num_envs=2), **change))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def assisted():
    return build_environment(WalkingConfig(num_envs=4, device="hip_3200g", device_mode="active", threads=2))


def test_the_device_obeys_its_profile_and_shares_the_wearers_mass(env, assisted):
    bare, env = env, assisted
    assert env.engine._jobs[0].model.body_mass.sum() - bare.engine._jobs[0].model.body_mass.sum() == pytest.approx(3.2)
    state = jax.jit(env.reset)(jax.random.key(0))
    step = jax.jit(env.step)
    before = np.asarray(state.exo.applied_nm)
    limit = np.asarray(env.device_side.limits.limit_nm)
    for key in jax.random.split(jax.random.key(1), 12):
        action = {
            "human": jnp.zeros((4, env.human_action_size)),
            "exo": 20.0 * jax.random.normal(key, (4, 2)),
        }
        state = step(state, action)
        now = np.asarray(state.exo.applied_nm)
        assert np.all(np.abs(now) <= limit + 1e-4)
        alive = np.asarray(state.terminated + state.truncated) == 0
        assert np.all(np.abs(now - before)[alive] <= 150.0 * 0.02 + 1e-3)
        before = now
    assert "clock" not in [name for name, *_ in env.describe_observations()["exo"]]


def test_the_gait_clock_does_not_reach_the_device(assisted):
    env = assisted
    state = jax.jit(env.reset)(jax.random.key(0))
    state = env.observed(state)  # by the same path as the shifted one: compiled code rounds otherwise
    shifted = env.observed(state.replace(phase=(state.phase + 0.25) % 1.0))
    np.testing.assert_array_equal(np.asarray(shifted.observation["exo"]), np.asarray(state.observation["exo"]))
    assert not np.array_equal(np.asarray(shifted.observation["human"]), np.asarray(state.observation["human"]))
