"""The student in the simulated wearer's loop: what it is told, who drives, what is learnt from."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from export.to_onnx import export_student
from mjx_exo.controllers import ControlledEnv
from mjx_exo.errors import UserError
from mjx_exo.student_controller import load_controller
from mjx_exo.student_device import student_device, toml_text
from mjx_exo.student_driving import NOBODY, STUDENT, TEACHER, StudentDriving
from mjx_exo.student_sensing import ACCELEROMETER, ENCODER, GYRO, StudentSensors
from mjx_exo.student_standing import StandingPeople
from mjx_exo.student_transfer import ForeignTeacher
from mjx_exo.teacher import load_teacher
from mjx_exo.walking import sensors
from mjx_exo.walking.build import build_environment
from mjx_exo.walking.config import CommandConfig
from mjx_exo.walking.device_side import SMOOTHING_S
from mjx_exo.walking.features import sagittal_gyro
from policies.storage import load_student, save_student
from policies.student import StudentConfig, init_params

N, STEPS, PEOPLE = 4, 6, 2
ALL = (*GYRO, *ACCELEROMETER, *ENCODER)
PROFILE = student_device("hip_3200g", "gyro_three_axes,accelerometer,hip_encoder")
SMALL = {"channels": 4, "kernel_size": 3, "dilations": (1, 2), "window_samples": 7}  # an episode has 8 ticks


@pytest.fixture(scope="module")
def teacher():
    return load_teacher("teacher")


@pytest.fixture(scope="module")
def env(teacher):
    """Two people, told to stand or to walk."""
    command = CommandConfig(speed_m_s=(1.0, 1.4), stand_share=0.5)
    return teacher.environment(N, 0.08, command=command, wearers=2, threads=1)


@pytest.fixture(scope="module")
def driving(env, teacher):
    return StudentDriving(env, teacher, StudentConfig.for_profile(PROFILE, **SMALL), PROFILE, people=PEOPLE)


@pytest.fixture(scope="module")
def params(driving):
    fresh = init_params(driving.config, jax.random.key(0))
    fresh["params"]["head"]["bias"] = fresh["params"]["head"]["bias"] + 0.4  # an answer that is easily told apart
    return fresh


@pytest.fixture(scope="module")
def start(driving):
    return jax.jit(driving.init)(jax.random.key(1))


def mounted(env, **angles) -> sensors.SensorParameters:
    """Sensors without errors, turned by rotation vectors [3] in rad."""
    perfect = sensors.perfect_sensor(env.num_envs, PROFILE.link.rate_hz)
    turn = jnp.asarray(angles.get("turn", (0.0, 0.0, 0.0)))
    return perfect.replace(mounting=perfect.mounting + turn)


@functools.partial(jax.jit, static_argnums=0)
def _read(here: StudentSensors, parameters, moment):
    state = here.init(parameters, jax.random.key(0), moment)
    return state, here.step(parameters, state, jax.random.key(1), moment)[1]


def test_signals_come_signal_by_signal_right_before_left_and_true_on_true_sensors(env, start):
    here = StudentSensors(env, ALL, PROFILE)
    still = start.env.replace(
        physics=start.env.physics._replace(qvel=0.0 * start.env.physics.qvel),
        command=start.env.command._replace(slope_rad=jnp.full(N, math.radians(5.0))),
    )
    state, signals = _read(here, mounted(env), still)
    value = {name: np.asarray(signals[:, 2 * i : 2 * i + 2]) for i, name in enumerate(ALL)}
    k = env.kinematics_of(still)
    np.testing.assert_allclose(value["thigh_gyro"], sagittal_gyro(k.thigh_gyro_rad_s), atol=1e-5)
    offset = np.asarray(state.offset)
    hip = still.physics.qpos[:, 7:][:, env.walkers.legs[:, env.walkers.hip]]
    np.testing.assert_allclose(value["hip_flexion"] - offset[:, :, 3], hip, atol=0.01)
    np.testing.assert_allclose(value["hip_flexion_velocity"], 0.0, atol=0.1)


def test_a_thigh_at_rest_feels_gravity_along_itself(env, start):
    here = StudentSensors(env, ACCELEROMETER, PROFILE)
    qpos = jnp.zeros_like(start.env.physics.qpos).at[:, 2].set(1.0).at[:, 3].set(1.0)
    flexed = qpos.at[:, 7 + env.walkers.legs[0, env.walkers.hip]].set(math.radians(30.0))  # right hip
    still = start.env.replace(
        physics=start.env.physics._replace(qpos=flexed, qvel=0.0 * start.env.physics.qvel),
        sensors=0.0 * start.env.sensors,
        command=start.env.command._replace(slope_rad=jnp.zeros(N)),
    )
    state, signals = _read(here, mounted(env), still)
    felt = np.asarray(signals).reshape(N, 3, 2) - np.swapaxes(np.asarray(state.offset), 1, 2)
    tolerance = 0.08
    np.testing.assert_allclose(felt[:, :, 1], np.tile([0.0, 0.0, 9.81], (N, 1)), atol=tolerance)
    # A thigh that is flexed by 30 degrees has its knee in front, so its forward axis points up a little.
    half = [9.81 * math.sin(math.radians(30.0)), 0.0, 9.81 * math.cos(math.radians(30.0))]
    np.testing.assert_allclose(felt[:, :, 0], np.tile(half, (N, 1)), atol=tolerance)
    # A housing turned about the forward axis reads gravity inward, mirrored alike on both sides.
    _, turned = _read(here, mounted(env, turn=(0.0, math.radians(10.0), 0.0)), still.replace(
        physics=still.physics._replace(qpos=qpos)))  # fmt: skip
    inward = np.asarray(turned).reshape(N, 3, 2)[:, 1] - np.asarray(state.offset)[:, :, 1]
    np.testing.assert_allclose(np.abs(inward), 9.81 * math.sin(math.radians(10.0)), atol=tolerance)
    np.testing.assert_allclose(inward[:, 0], inward[:, 1], atol=2 * tolerance)


@pytest.fixture(scope="module")
def rolled(driving, params, start):
    """Ticks of a student, a teacher and nobody who drive at the same time."""
    driver = jnp.array([STUDENT, TEACHER, NOBODY, STUDENT])

    def one(state, _):
        state, ticks = driving.step(params, state, driver)
        return state, (ticks, state.env.exo.requested_nm, state.fresh)

    return jax.jit(lambda s: jax.lax.scan(one, s, None, length=STEPS))(start)


def test_who_drives_is_settled_per_environment(env, rolled):
    _, (ticks, requested, fresh) = rolled
    assert np.all(np.asarray(requested)[:, 2] == 0.0)
    last = 3  # before the episode of 0.08 s ends
    mass = np.asarray(env.body_mass_kg)
    rate, period_s, late_s = PROFILE.torque.rate_limit_nm_s, env.tick_s, np.asarray(env.device_side.late_s)[:, 0]
    for n, source in ((0, ticks.student), (1, ticks.teacher)):
        wanted = np.asarray(source)[:last].reshape(-1, N, 2)[:, n] * mass[n]
        now = applied = np.zeros(2)
        for row in wanted:
            before, now = now, applied + np.clip(row - applied, -rate * period_s, rate * period_s)
            for command, time_s in ((before, late_s[n]), (now, period_s - late_s[n])):
                applied = applied + np.clip(command - applied, -rate * time_s, rate * time_s)
        np.testing.assert_allclose(np.asarray(requested)[last - 1, n], now, atol=0.05)
    assert np.asarray(fresh).any()


def test_the_teacher_is_as_slow_in_what_it_teaches_as_when_it_drives(env, rolled):
    _, (ticks, _, _) = rolled
    teacher, reset = np.asarray(ticks.teacher).reshape(-1, N, 2), np.asarray(ticks.reset).reshape(-1, N)
    largest = (np.asarray(env.device_side.limits.limit_nm) / np.asarray(env.body_mass_kg)[:, None])[None]
    before = np.where(reset[1:, :, None], 0.0, teacher[:-1])  # an episode begins without torque
    moved = np.concatenate([teacher[:1], teacher[1:] - before])
    share = 1.0 - np.exp(-env.tick_s / SMOOTHING_S)
    assert np.all(np.abs(moved) <= share * 2.0 * largest + 1e-6)
    assert np.abs(moved).max() > 0.05 * share * largest.min()
    assert np.all(np.abs(teacher[reset]) <= share * np.broadcast_to(largest, teacher.shape)[reset] + 1e-6)


def test_a_new_episode_empties_the_students_memory(driving, rolled):
    ticks = rolled[1][0]
    reset = np.asarray(ticks.reset).reshape(-1, N)
    student = np.asarray(ticks.student).reshape(-1, N, 2)
    field = driving.config.receptive_field
    since = np.zeros(N, int)
    for row, torque in zip(reset, student, strict=True):
        since = np.where(row, 1, since + 1)
        assert not torque[since < field].any()
        assert np.all(np.abs(torque[since >= field]) > 0.01)
    assert reset[0].all() and reset[1:].any()


def test_what_is_learnt_from_has_people_who_stand_and_new_sensors(driving, params, start):
    collect = jax.jit(lambda p, s: driving.collect(p, s, jnp.float32(1.0), STEPS))
    state, rollout = collect(params, start)
    ticks = STEPS * driving.env.ticks
    assert driving.columns == N + PEOPLE
    assert rollout.signals.shape == (ticks, N + PEOPLE, 2 * len(ALL))
    assert not np.asarray(rollout.torque[:, N:]).any() and np.asarray(rollout.torque[:, :N]).any()
    assert np.asarray(rollout.reset[0]).all()
    up = 2 * ALL.index("thigh_accel_up")
    np.testing.assert_allclose(rollout.signals[:, N:, up : up + 2], 9.81, atol=1e-4)
    assert np.abs(np.asarray(state.parameters.bias) - np.asarray(start.parameters.bias)).max(axis=(1, 2)).min() > 0
    again, second = collect(params, state)
    assert not np.array_equal(second.signals[:, N:], rollout.signals[:, N:])
    assert jax.tree.structure(again) == jax.tree.structure(start)


def test_who_stands_when_told_to_is_labelled_with_no_torque(driving, params, start):
    still = start.env.command._replace(speed_m_s=jnp.zeros(N), speed_target_m_s=jnp.zeros(N))
    stands = start.replace(env=start.env.replace(command=still, speed_filtered_m_s=jnp.zeros(N)))
    labelled = jax.jit(lambda s, zero: driving.collect(params, s, jnp.float32(0.0), 1, zero)[1].torque)
    assert not np.asarray(labelled(stands, jnp.bool_(True)))[0].any()
    assert np.asarray(labelled(stands, jnp.bool_(False)))[0, :N].any()


def test_swaying_people_sway_as_much_as_they_should():
    profile = student_device("hip_3200g")
    people = StandingPeople(64, profile, StudentConfig.for_profile(profile, **SMALL))
    _, rollout = jax.jit(lambda key: people.roll(people.init(key), 300, 0.01))(jax.random.key(0))
    spread = np.asarray(rollout.signals).std(axis=0).mean()
    assert 0.5 < spread / sensors.sway_rad_s(profile) < 4.0
    assert np.abs(rollout.signals).max() < 1.0
    assert not np.asarray(rollout.torque).any() and np.asarray(rollout.valid).all()


def test_a_teacher_sees_on_its_own_body_what_it_always_sees(driving, env, teacher, start):
    """The way over named joints, with which it labels other bodies, changes nothing on its own."""
    own = jax.jit(driving._teachers_own)(start.env)
    foreign = jax.jit(ForeignTeacher(teacher, env).torque)(start.env)
    assert np.abs(np.asarray(own)).max() > 1e-3
    np.testing.assert_allclose(foreign, own, atol=1e-6)


def test_a_teacher_labels_a_body_of_eighty_muscles_by_the_joints_it_knows(teacher):
    env = build_environment(dataclasses.replace(teacher.config.walking, body="myolegs", num_envs=2, wearers=2))
    there = ForeignTeacher(teacher, env)
    state = jax.jit(env.reset)(jax.random.key(0))
    torque = np.asarray(jax.jit(there.torque)(state))
    assert np.all(np.isfinite(torque)) and np.all(np.abs(torque) <= env.device_side.limits.limit_nm + 1e-4)
    assert np.abs(torque).max() > 1e-3
    # What only the other body has does not matter: the subtalar joint.
    subtalar = env.walkers.legs[:, list(env.engine.body.leg.paths.joints).index("subtalar_inversion")]
    turned = state.physics._replace(qpos=state.physics.qpos.at[:, 7 + subtalar].add(0.3))
    np.testing.assert_array_equal(jax.jit(there.torque)(state.replace(physics=turned)), torque)


def test_an_exported_file_of_rich_inputs_drives_the_device(env, driving, params, tmp_path):
    folder = save_student(tmp_path / "rich", driving.config, params)
    export_student(load_student(folder), folder / "student.onnx", windows=20)
    with pytest.raises(UserError, match="does not measure thigh_gyro_adduction"):
        load_controller(folder / "student.onnx", "hip_3200g")
    (folder / "device.toml").write_text(toml_text(PROFILE))
    student = load_controller(folder / "student.onnx", "hip_3200g")
    controlled = ControlledEnv(env, student)
    action = {"human": jnp.zeros((N, controlled.human_action_size))}

    def one(state, _):
        state = controlled.step(state, action)
        return state, (state.memory.seen, state.exo.requested_nm, state.memory.window)

    _, (seen, asked, window) = jax.jit(
        lambda key: jax.lax.scan(one, controlled.reset(key), None, length=STEPS)
    )(jax.random.key(0))  # fmt: skip
    seen, asked = np.asarray(seen), np.asarray(asked)
    assert seen[3].max() == 0 and seen[2].max() == 6, "an episode of four steps ends and empties the window"
    assert not asked.any()
    long = student.init(controlled, controlled.reset(jax.random.key(0)), jax.random.key(1))
    full = long.replace(window=window[2], seen=jnp.full(N, 7))
    wanted, _ = jax.jit(lambda m, s: student.step(controlled, m, s))(full, controlled.reset(jax.random.key(0)))
    assert np.all(np.abs(wanted) > 0.0)
    assert window.shape == (STEPS, N, 7, 2 * len(ALL)) and np.all(np.isfinite(window))
