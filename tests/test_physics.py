"""What both engines promise: signs by pushing, forces that balance, the same answer every time."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_exo.conventions import mirrored_name
from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError
from mjx_exo.musculoskeletal.skeleton import sensor_slices
from mjx_exo.musculoskeletal.wearer import Wearer
from mjx_exo.physics.interface import Drive, EngineConfig, PhysicsState
from mjx_exo.physics.native import NativeEngine
from mjx_exo.physics.published import PublishedEngine
from mjx_exo.walking.build import build_environment
from mjx_exo.walking.commands import GRAVITY_M_S2, gravity
from mjx_exo.walking.config import CommandConfig, WalkingConfig
from mjx_exo.walking.start_states import build_start_states

N = 8
SENSOR = sensor_slices()
DOWN = np.array([0.0, 0.0, -GRAVITY_M_S2])
PROFILE = "hip_3200g"


@pytest.fixture(scope="module")
def starts(body):
    return build_start_states(body, (Wearer(),), 0.9)


@pytest.fixture(scope="module")
def native(body):
    return NativeEngine(body, N, config=EngineConfig(timestep_s=0.005, threads=2))


@pytest.fixture(scope="module")
def published(body):
    return PublishedEngine(body, N, config=EngineConfig(timestep_s=0.002, threads=2))


@pytest.fixture(scope="module", params=["native", "published"])
def engine(request):
    return request.getfixturevalue(request.param)


def resting(engine, height_m=3.0) -> PhysicsState:
    """Upright in the air, everything else zero."""
    state = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), engine.shapes()[0])
    state.qpos[:, 2], state.qpos[:, 3] = height_m, 1.0
    return state


def walking(engine, starts, activation=0.1) -> PhysicsState:
    """Spread over the gait cycle, on the floor, moving."""
    rows = np.arange(engine.num_envs) * 3 % 24
    state = resting(engine)
    return state._replace(
        qpos=starts.qpos[0, rows], qvel=starts.qvel[0, rows], activation=state.activation + np.float32(activation)
    )


def drive(engine, excitation=0.0, exo_nm=(0.0, 0.0), push_n=(0.0, 0.0, 0.0), gravity_m_s2=(0.0, 0.0, 0.0)) -> Drive:
    n, muscles = engine.num_envs, len(engine.body.muscle_names)
    return Drive(
        np.broadcast_to(np.float32(excitation), (n, muscles)),
        *(np.broadcast_to(np.asarray(x, np.float32), (n, len(x))) for x in (exo_nm, push_n, gravity_m_s2)),
    )


def joint(engine, name: str) -> int:
    return engine.body.joint_names.index(name)


# ---------------------------------------------------------------- signs


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    ("name", "sensor", "axis", "sign"),
    [
        ("hip_flexion", "heel_position", 0, 1),
        ("hip_adduction", "heel_position", 1, 1),
        ("hip_rotation", "toe_position", 1, 1),
        ("knee_flexion", "heel_position", 0, -1),
        ("ankle_dorsiflexion", "toe_position", 2, 1),
        ("mtp_extension", "toe_position", 2, 1),
    ],
)
def test_a_positive_angle_moves_heel_or_toe_the_way_its_name_says(engine, side, name, sensor, axis, sign):
    state = resting(engine)
    state.qpos[0, 7 + joint(engine, f"{name}_{'rl'[side]}")] = 0.2
    _, readings = engine.step_numpy(state, drive(engine), 1)
    places = readings.sensors[:, SENSOR[sensor]].reshape(N, 2, 3)
    moved = (places[0] - places[1])[:, axis] * sign
    inwards = -1.0 if axis == 1 and side == 1 else 1.0  # towards the midline is right for the left leg
    assert inwards * moved[side] > 0.004
    assert abs(moved[1 - side]) < 1e-4, "the other leg must stay"


def test_a_thigh_swinging_forward_reads_positive_on_its_gyroscope(engine):
    state = resting(engine)
    state.qvel[0, 6 + joint(engine, "hip_flexion_r")] = 2.0
    state.qvel[1, 6 + joint(engine, "hip_flexion_l")] = 2.0
    state.qvel[2, 4] = 1.0  # the whole body pitches forward: thighs swing back
    _, readings = engine.step_numpy(state, drive(engine), 1)
    flexion = -readings.sensors[:, SENSOR["thigh_gyro"]].reshape(N, 2, 3)[..., 1]
    np.testing.assert_allclose(flexion[:3], [[2, 0], [0, 2], [-1, -1]], atol=0.02)


@pytest.mark.parametrize("side", [0, 1])
def test_positive_device_torque_flexes_its_hip_and_follows_with_a_lag(engine, side):
    torque = np.zeros(2)
    torque[side] = 5.0
    state, readings = engine.step_numpy(resting(engine), drive(engine, exo_nm=torque), 10)
    relaxed, _ = engine.step_numpy(resting(engine), drive(engine), 10)
    hips = [6 + joint(engine, f"hip_flexion_{s}") for s in "rl"]
    speed = (state.qvel - relaxed.qvel)[0, hips]
    assert speed[side] > 0.03 and speed[side] > 2.0 * abs(speed[1 - side])
    duration = 10 * engine.config.timestep_s
    expected = 5.0 * (1.0 - math.exp(-2.0 * math.pi * 10.0 * duration))  # 10 Hz without a profile
    assert state.exo_torque_nm[0, side] == pytest.approx(expected, rel=1e-4)
    assert abs(readings.exo_power_w[0, side]) > 0.0 == readings.exo_power_w[0, 1 - side]


@pytest.mark.parametrize(
    ("muscle", "joint_name", "sign"),
    [("iliopsoas", "hip_flexion", 1), ("glutmax", "hip_flexion", -1), ("abd", "hip_adduction", -1),
     ("add", "hip_adduction", 1), ("vasti", "knee_flexion", -1), ("bifemsh", "knee_flexion", 1),
     ("soleus", "ankle_dorsiflexion", -1), ("tibant", "ankle_dorsiflexion", 1), ("edl", "mtp_extension", 1)],
)  # fmt: skip
def test_each_muscle_turns_its_own_sides_joint(engine, muscle, joint_name, sign):
    state = resting(engine)
    names = engine.body.muscle_names
    for row, side in enumerate("rl"):
        state.qpos[row, 7 + joint(engine, f"knee_flexion_{side}")] = 0.4
        state.activation[row, names.index(f"{muscle}_{side}")] = 0.5
    _, active = engine.step_numpy(state, drive(engine), 1)
    _, rest = engine.step_numpy(state._replace(activation=0 * state.activation), drive(engine), 1)
    moment = active.muscle_moment_nm - rest.muscle_moment_nm
    columns = [joint(engine, f"{joint_name}_{side}") for side in "rl"]
    own = moment[[0, 1], columns]
    assert np.all(sign * own > 0.5) and own[0] == pytest.approx(own[1], rel=0.02)
    assert np.abs(moment[[0, 1], columns[::-1]]).max() < 1e-3


# ---------------------------------------------------------------- forces


@pytest.mark.parametrize("slope_rad", [0.0, 0.1, -0.1])
def test_uphill_pulls_backwards(engine, slope_rad):
    pull = np.asarray(gravity(jnp.full(1, slope_rad)))[0]
    falling, _ = engine.step_numpy(resting(engine), drive(engine, gravity_m_s2=pull), 10)
    floating, _ = engine.step_numpy(resting(engine), drive(engine), 10)
    acceleration = (falling.qvel - floating.qvel)[0, :3] / (10 * engine.config.timestep_s)
    expected = [-GRAVITY_M_S2 * math.sin(slope_rad), 0.0, -GRAVITY_M_S2 * math.cos(slope_rad)]
    np.testing.assert_allclose(acceleration, expected, atol=0.01)


def test_a_push_moves_the_body_its_way(native, published):
    speeds = []
    for engine in (native, published):
        state = resting(engine)
        state.qpos[1, 3:7] = [math.cos(0.5), 0.0, 0.0, math.sin(0.5)]  # facing left: the push is in the world
        steps = round(0.1 / engine.config.timestep_s)
        after, _ = engine.step_numpy(state, drive(engine, push_n=(100.0, 50.0, 0.0)), steps)
        assert after.qvel[0, 0] > 0.1 and after.qvel[0, 1] > 0.05
        assert after.qvel[1, 0] > 0.1 and after.qvel[1, 1] > 0.05
        speeds.append(after.qvel[:2, :3])
    np.testing.assert_allclose(speeds[0], speeds[1], atol=0.03)


def test_standing_on_both_feet_the_floor_carries_the_weight(engine, starts):
    """The first moments of standing, before the body sways: ground force is weight, shared evenly, pointing up."""
    state = resting(engine)
    state.qpos[:] = 0.0
    state.qpos[:, 2], state.qpos[:, 3] = starts.standing_height_m[0], 1.0  # straight legs, which do not sag
    state.activation[:] = 0.05
    down = drive(engine, 0.05, gravity_m_s2=DOWN)
    state, _ = engine.step_numpy(state, down, round(0.03 / engine.config.timestep_s))
    state, readings = engine.step_numpy(state, down, round(0.05 / engine.config.timestep_s))
    force = readings.foot_force_n[0]
    weight = engine.body.mass_kg * GRAVITY_M_S2
    assert force[:, 2].sum() == pytest.approx(weight, rel=0.06)
    assert force[0, 2] == pytest.approx(force[1, 2], rel=0.02)
    assert np.abs(force[:, :2].sum(0)).max() < 0.1 * weight


def test_in_the_air_nothing_carries(engine):
    _, readings = engine.step_numpy(resting(engine), drive(engine, gravity_m_s2=DOWN), 3)
    np.testing.assert_array_equal(readings.foot_force_n, 0.0)


def test_limits_hold_and_push_back(engine):
    """Full excitation of one muscle after the other does not force a joint far out of its range."""
    muscles = len(engine.body.muscle_names) // 2
    ranges = np.array([h.range_rad for h in engine.body.hinges])
    for first in range(0, muscles, N):
        state, excitation = resting(engine), np.zeros((N, 2 * muscles), np.float32)
        for row, m in enumerate(range(first, min(first + N, muscles))):
            excitation[row, m] = 0.4
        held = drive(engine)._replace(excitation=excitation)
        for _ in range(4):
            state, readings = engine.step_numpy(state, held, round(0.1 / engine.config.timestep_s))
        angles = state.qpos[:, 7:]
        assert np.isfinite(angles).all()
        assert (angles - ranges[:, 1]).max() < 0.35 and (ranges[:, 0] - angles).max() < 0.35
        outside = (angles > ranges[:, 1] + 0.01) | (angles < ranges[:, 0] - 0.01)
        inwards = np.sign(ranges.mean(1) - angles)
        assert np.all((readings.limit_moment_nm * inwards)[outside] > 0.0)


def test_wearing_the_device_makes_the_hips_slower(body):
    profile = DeviceProfile.load(PROFILE)
    for build, step_s in ((NativeEngine, 0.005), (PublishedEngine, 0.002)):
        speeds = []
        for worn in (None, profile):
            engine = build(body, 1, config=EngineConfig(timestep_s=step_s, threads=1), worn=worn)
            state = resting(engine)._replace(exo_torque_nm=np.full((1, 2), 5.0, np.float32))
            state, _ = engine.step_numpy(state, drive(engine, exo_nm=(5.0, 5.0)), round(0.02 / step_s))
            speeds.append(state.qvel[0, 6 + joint(engine, "hip_flexion_r")])
        assert 0.8 * speeds[0] < speeds[1] < 0.999 * speeds[0]


# ---------------------------------------------------------------- the native engine


def same(a, b) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_same_input_same_output_whatever_ran_before_and_on_any_threads(engine, body, starts):
    state, push = walking(engine, starts), drive(engine, 0.2, (3.0, -2.0), (20.0, 0.0, 0.0), DOWN)
    first = engine.step_numpy(state, push, 4)
    engine.step_numpy(first[0], drive(engine, 1.0, gravity_m_s2=-3 * DOWN), 4)
    broken = state._replace(qvel=np.full_like(state.qvel, np.nan))
    engine.step_numpy(broken, push, 4)
    same(first, engine.step_numpy(state, push, 4))
    alone = type(engine)(body, N, config=EngineConfig(timestep_s=engine.config.timestep_s, threads=1))
    same(first, alone.step_numpy(state, push, 4))


def test_one_call_of_four_steps_is_four_calls_of_one(engine, starts):
    state, held = walking(engine, starts), drive(engine, 0.2, (4.0, 1.0), gravity_m_s2=DOWN)
    at_once, readings = engine.step_numpy(state, held, 4)
    parts = []
    for _ in range(4):
        state, part = engine.step_numpy(state, held, 1)
        parts.append(part)
    np.testing.assert_allclose(at_once.qpos, state.qpos, atol=2e-6)
    np.testing.assert_allclose(at_once.qvel, state.qvel, atol=2e-3)
    np.testing.assert_allclose(at_once.activation, state.activation, atol=1e-6)
    for name in ("foot_force_n", "muscle_moment_nm", "positive_power_w", "exo_power_w"):
        mean = np.mean([getattr(p, name) for p in parts], axis=0)
        np.testing.assert_allclose(getattr(readings, name), mean, rtol=1e-3, atol=0.05, err_msg=name)
    np.testing.assert_allclose(readings.sensors, parts[-1].sensors, rtol=1e-3, atol=0.05)


def test_inside_jit_the_step_is_the_same(native, starts):
    state, held = walking(native, starts), drive(native, 0.2, gravity_m_s2=DOWN)
    same(native.step_numpy(state, held, 2), jax.jit(lambda s, d: native.step(s, d, 2))(state, held))


def test_each_environment_carries_its_own_wearer(body):
    wearers = (Wearer(), Wearer(mass_kg=120.0))
    engine = NativeEngine(body, 4, wearers, EngineConfig(threads=2))
    assert list(engine.wearer_of) == [0, 0, 1, 1]
    pushed, _ = engine.step_numpy(resting(engine), drive(engine, push_n=(100.0, 0.0, 0.0)), 2)
    floating, _ = engine.step_numpy(resting(engine), drive(engine), 2)
    speed = (pushed.qvel - floating.qvel)[:, 0]
    assert speed[0] == speed[1] and speed[2] == speed[3]
    assert speed[0] / speed[2] == pytest.approx(120.0 / body.mass_kg, rel=0.02)


def test_halving_the_step_changes_little(body, starts):
    ends = []
    for step_s in (0.005, 0.0025, 0.00125):
        engine = NativeEngine(body, N, config=EngineConfig(timestep_s=step_s, threads=2))
        state, _ = engine.step_numpy(
            walking(engine, starts), drive(engine, 0.1, gravity_m_s2=DOWN), round(0.1 / step_s)
        )
        ends.append(state.qpos[:, 7:])
    coarse, fine = np.abs(ends[0] - ends[2]), np.abs(ends[1] - ends[2])
    assert np.degrees(np.median(coarse)) < 1.0 and np.median(fine) < np.median(coarse)


# ---------------------------------------------------------------- the published body


def test_compiled_and_published_body_move_alike_in_the_air(body):
    """From the same postures, relaxed, both bodies fall apart the same way: 20 ms of joint acceleration within 5 %."""
    rng = np.random.default_rng(0)
    changes = []
    angles, speeds = rng.uniform(0.05, 0.35, (N, 12)), rng.uniform(-1, 1, (N, 12))
    for build in (NativeEngine, PublishedEngine):
        engine = build(body, N, config=EngineConfig(timestep_s=0.001, threads=2))
        state = resting(engine)
        state.qpos[:, 7:], state.qvel[:, 6:] = angles, speeds
        state.qpos[:, 7 + joint(engine, "hip_adduction_r")] *= -1.0  # legs apart: published legs can touch
        state.qpos[:, 7 + joint(engine, "hip_adduction_l")] *= -1.0
        after, _ = engine.step_numpy(state, drive(engine, gravity_m_s2=DOWN), 20)
        changes.append(after.qvel - state.qvel)
    difference = np.sqrt(np.mean((changes[0] - changes[1]) ** 2))
    assert difference < 0.05 * np.sqrt(np.mean(changes[0] ** 2))


def test_compiled_and_published_body_read_alike(native, published, starts):
    engines = (native, published)
    readings = [e.step_numpy(walking(e, starts, 0.3), drive(e, 0.3, gravity_m_s2=DOWN), 1)[1] for e in engines]
    for name in ("fibre_length", "fibre_velocity", "muscle_force_n", "muscle_moment_nm", "passive_moment_nm"):
        a, b = (getattr(r, name) for r in readings)
        assert np.sqrt(np.mean((a - b) ** 2)) < 0.03 * np.sqrt(np.mean(a**2)), name
    a, b = (r.sensors for r in readings)
    for name in ("thigh_gyro", "heel_position", "toe_position", "heel_velocity", "toe_velocity"):
        assert np.abs(a - b)[:, SENSOR[name]].max() < 0.05, name


def test_stiffened_constraints_hold_under_load(published, starts):
    state = walking(published, starts, 0.5)
    state, _ = published.step_numpy(state, drive(published, 0.5, gravity_m_s2=DOWN), 50)
    kept = state.internal[:, 1 : 1 + len(published.published.coordinates.master)]
    wanted, _ = published.published.coordinates.dependents(state.qpos[:, 7:], state.qvel[:, 6:])
    assert np.abs(kept - wanted).max() < 1e-3


def test_coordinates_go_there_and_back(published):
    rng = np.random.default_rng(2)
    c = published.published.coordinates
    qpos, qvel = rng.normal(size=(5, 19)), rng.normal(size=(5, 18))
    again = c.from_published(*c.to_published(qpos, qvel, *c.dependents(qpos[:, 7:], qvel[:, 6:])))
    np.testing.assert_allclose(again[0], qpos, atol=1e-12)
    np.testing.assert_allclose(again[1], qvel, atol=1e-12)


def test_the_published_body_refuses_what_it_cannot_be(body):
    with pytest.raises(UserError, match="wearer"):
        PublishedEngine(body, 2, (Wearer(mass_kg=60.0),))
    with pytest.raises(UserError, match=r"0\.005 s.*0\.001 to 0\.002"):
        build_environment(WalkingConfig(engine="published", num_envs=2))


# ---------------------------------------------------------------- the environment's mirror image


def mirror_hinges(body, values):
    """[N, J] hinge values of the mirror image."""
    names = body.joint_names
    return values[:, np.array([names.index(mirrored_name(n)) for n in names])]


def mirror_state(env, state):
    """The environment state seen in a mirror: sides change places, lateral signs flip, half a cycle later."""
    body, physics = env.engine.body, state.physics
    polar, axial = np.array([1.0, -1.0, 1.0]), np.array([-1.0, 1.0, -1.0])
    names = body.muscle_names
    muscles = np.array([names.index(mirrored_name(n)) for n in names])

    def velocities(v):
        return jnp.concatenate([v[:, :3] * polar, v[:, 3:6] * axial, mirror_hinges(body, v[:, 6:])], -1)

    q = physics.qpos
    qpos = jnp.concatenate([q[:, :3] * polar, q[:, 3:4], q[:, 4:7] * axial, mirror_hinges(body, q[:, 7:])], -1)
    vectors = state.sensors.reshape(-1, 6, 2, 3)[:, :, ::-1]
    vectors = jnp.concatenate([vectors[:, :1] * axial, vectors[:, 1:] * polar], 1)
    n = q.shape[0]
    sensors = vectors.reshape(n, -1)
    pair = state.previous_action.reshape(n, 2, -1)[:, ::-1].reshape(n, -1)
    return state.replace(
        physics=physics._replace(
            qpos=qpos, qvel=velocities(physics.qvel), warmstart=velocities(physics.warmstart),
            activation=physics.activation[:, muscles], exo_torque_nm=physics.exo_torque_nm[:, ::-1],
        ),
        sensors=sensors,
        readings=state.readings._replace(sensors=sensors, foot_force_n=state.readings.foot_force_n[:, ::-1] * polar),
        command=state.command._replace(push_n=state.command.push_n * polar),
        phase=(state.phase + 0.5) % 1.0,
        previous_action=pair,
    )  # fmt: skip


def test_a_mirrored_walker_with_the_same_action_does_the_mirror_image():
    env = build_environment(
        WalkingConfig(num_envs=N, threads=2, command=CommandConfig(speed_m_s=(1.0, 1.5), slope_rad=(-0.05, 0.05)))
    )
    step = jax.jit(env.step)
    state = jax.jit(env.reset)(jax.random.key(3))
    action = {"human": jax.random.normal(jax.random.key(4), (N, env.human_action_size))}
    for _ in range(3):
        state = step(state, action)
    assert not bool((state.terminated + state.truncated).any())
    direct, reflected = step(state, action), step(env.observed(mirror_state(env, state)), action)
    there = mirror_state(env, direct)
    np.testing.assert_allclose(there.physics.qpos, reflected.physics.qpos, atol=2e-4)
    np.testing.assert_allclose(there.physics.qvel, reflected.physics.qvel, atol=5e-2)
    np.testing.assert_allclose(there.physics.activation, reflected.physics.activation, atol=1e-5)
    np.testing.assert_allclose(direct.observation["human"], reflected.observation["human"], atol=5e-2)
    np.testing.assert_allclose(direct.reward["human"], reflected.reward["human"], atol=5e-3)


def test_the_walking_environment_runs_on_the_published_body_unchanged():
    env = build_environment(WalkingConfig(engine="published", num_envs=2, physics_step_s=0.002, threads=2))
    other = build_environment(WalkingConfig(engine="native", num_envs=2, threads=2))
    assert [a.observation_size for a in env.actors] == [a.observation_size for a in other.actors]
    key, action = jax.random.key(0), {"human": jnp.zeros((2, env.human_action_size))}
    after = [jax.jit(e.step)(e.reset(key), action) for e in (env, other)]
    for state in after:
        assert bool(jnp.isfinite(state.observation["human"]).all())
    difference = np.abs(after[0].physics.qpos - after[1].physics.qpos)
    assert difference[:, :7].max() < 0.01 and np.median(difference) < 0.02
