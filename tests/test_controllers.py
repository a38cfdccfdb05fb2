"""What drives the device without learning: a reference controller and an exported student beside a human actor."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest

from mjx_exo.controllers import ControlledEnv, OnnxStudent, ReferenceDriver
from mjx_exo.errors import UserError
from mjx_exo.presets import QUICK
from mjx_exo.walking.build import build_environment
from mjx_exo.walking.reference_controllers import reference_controller
from tests.tiny_policy import WINDOW, contract, write_policy

DEVICE = "hip_3200g"
STEPS = 8  # control steps of two ticks


@pytest.fixture(scope="module")
def bare():
    """Two wearers with an active device."""
    return build_environment(
        dataclasses.replace(QUICK.walking, num_envs=4, wearers=2, device=DEVICE, device_mode="active")
    )


def walk(env, steps=STEPS):
    """States [steps] with a human who does nothing in particular."""

    def step(state, _):
        state = env.step(state, {"human": jnp.zeros((env.num_envs, env.human_action_size))})
        return state, state

    start = jax.jit(env.reset)(jax.random.key(0))
    return start, jax.jit(lambda s: jax.lax.scan(step, s, None, length=steps))(start)[1]


def batched(path, **metadata):
    """A tiny student that takes any number of windows, as a real export does."""
    write_policy(path, **metadata)
    model = onnx.load(path)
    for node in (model.graph.input[0], model.graph.output[0]):
        node.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, path)
    return path


def test_a_reference_controller_drives_with_parameters_of_its_own_in_every_environment(bare):
    gains = jnp.array([0.0, 0.05, 0.1, 0.1])
    parameters = reference_controller("delayed_feedback").parameters._replace(gain_nm_kg=gains, delay_s=0.0)
    env = ControlledEnv(bare, ReferenceDriver("delayed_feedback", parameters))
    assert [actor.name for actor in env.actors] == ["human"]
    start, states = walk(env)
    asked = np.asarray(states.exo.requested_nm)
    assert np.all(asked[:, 0] == 0.0) and np.all(np.abs(asked[-1, 1:]) > 0.1)
    np.testing.assert_allclose(asked[..., 0], -asked[..., 1], atol=1e-4)
    # Without a delay: a leg that is flexed more than the other is pushed back.
    hip = np.asarray(jax.vmap(env.hip_angle_rad)(states))
    assert np.all(np.sign(asked[-1, 1:, 0]) == np.sign(hip[-1, 1:, 1] - hip[-1, 1:, 0]))
    # The state is one pytree of the environment's own kind: what a checkpoint needs is all in it.
    assert jax.tree.structure(start) == jax.tree.structure(jax.tree.map(lambda x: x[0], states))


def test_an_exported_file_is_silent_until_its_window_is_true_then_drives(bare, tmp_path):
    student = OnnxStudent.load(batched(tmp_path / "student.onnx"), DEVICE)
    env = ControlledEnv(bare, student)
    _, states = walk(env, WINDOW // 2 + 4)
    seen, asked = np.asarray(states.memory.seen), np.asarray(states.exo.requested_nm)
    assert np.all(asked[seen < WINDOW] == 0.0) and np.all(np.abs(asked[-1][seen[-1] >= WINDOW]) > 0.0)
    np.testing.assert_array_equal(seen[0], [2] * env.num_envs)
    limit = np.asarray(env.device_side.limits.limit_nm)
    assert np.all(np.abs(asked) <= limit + 1e-5)
    # What is asked for, before any limit, is the file's answer to the window in memory.
    last = jax.tree.map(lambda x: x[-1], states)
    whole = last.memory.replace(seen=jnp.full(env.num_envs, WINDOW))
    wanted, memory = jax.jit(lambda memory, state: student.step(env, memory, state))(whole, last)
    answer = student.answer(np.asarray(memory.window)) * np.asarray(env.body_mass_kg)[:, None]
    np.testing.assert_allclose(wanted, answer, rtol=1e-5)
    assert np.all(np.abs(answer) > 0)


def test_memory_starts_anew_with_the_episode(bare, tmp_path):
    student = OnnxStudent.load(batched(tmp_path / "student.onnx"), DEVICE)
    env = ControlledEnv(bare, student)
    state = jax.jit(env.reset)(jax.random.key(1))
    memory = state.memory.replace(seen=jnp.full(env.num_envs, 40))
    done = jnp.array([True, False, False, True])
    assert np.asarray(student.restart(env, memory, state, done).seen).tolist() == [0, 40, 40, 0]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"signals": contract("hip_1900g")}, "hip_1900g"),
        ({"form": "streaming"}, "streaming"),
        ({"golden_error": 1e-3}, "golden"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(changes, named, tmp_path):
    with pytest.raises(UserError, match=named) as caught:
        OnnxStudent.load(batched(tmp_path / "student.onnx", **changes), DEVICE)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"gone\.onnx"):
        OnnxStudent.load(tmp_path / "gone.onnx", DEVICE)


def test_a_device_that_is_off_cannot_be_driven():
    off = build_environment(dataclasses.replace(QUICK.walking, num_envs=2, device=DEVICE, device_mode="worn"))
    with pytest.raises(UserError, match="worn"):
        ControlledEnv(off, ReferenceDriver("bursts"))
