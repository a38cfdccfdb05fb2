"""The student: sides mirror exactly, torque is bounded, its three forms agree, and it survives the way to disk."""

from __future__ import annotations

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError
from policies.storage import load_student, save_student
from policies.student import Student, StudentConfig, init_params, init_stream, reset_stream, sensors_of, signals_of

SMALL = StudentConfig(torque_limit_nm_per_kg=0.25, channels=8, kernel_size=3, dilations=(1, 2, 4), window_samples=20)
RICH = dataclasses.replace(
    SMALL,
    signals=("thigh_gyro", "thigh_gyro_rotation", "hip_flexion"),
    input_scale=(2.0, 1.0, 0.5),
    mirror_signs=(1, -1, 1),
)


def big_params(config: StudentConfig, seed: int = 0):
    """Parameters whose torque fills the range (fresh ones command next to nothing)."""
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(seed))
    params["params"]["head"]["kernel"] = params["params"]["head"]["kernel"] * 30.0
    params["params"]["head"]["bias"] = params["params"]["head"]["bias"] + 0.2
    return params


@functools.partial(jax.jit, static_argnums=(0, 1))
def apply(config: StudentConfig, method: str, params, *arguments):
    return Student(config).apply(params, *arguments, method=method)


def signals(config: StudentConfig, samples: int, batch: int = 16, seed: int = 1) -> jax.Array:
    return 2.0 * jax.random.normal(jax.random.key(seed), (batch, samples, config.input_channels))


def mirrored(config: StudentConfig, x: jax.Array) -> jax.Array:
    pairs = x.reshape(*x.shape[:-1], len(config.signals), 2)[..., ::-1] * np.array(config.mirror_signs)[:, None]
    return pairs.reshape(x.shape)


@pytest.mark.parametrize("config", [SMALL, RICH])
def test_mirroring_the_wearer_mirrors_the_torque_exactly(config):
    params, x = big_params(config), signals(config, config.window_samples)
    torque = apply(config, "__call__", params, x)
    assert torque.shape == (16, 2)
    assert float(jnp.std(torque[:, 0] - torque[:, 1])) > 1e-3
    np.testing.assert_array_equal(apply(config, "__call__", params, mirrored(config, x)), torque[:, ::-1])


def test_torque_never_exceeds_the_limit_whatever_comes_in():
    config = dataclasses.replace(SMALL, torque_limit_nm_per_kg=0.1)
    params = jax.tree.map(lambda leaf: leaf * 50.0, big_params(config))
    torque = np.asarray(apply(config, "__call__", params, 1e4 * signals(config, 20)), np.float64)
    assert np.all(np.isfinite(torque))
    assert np.max(np.abs(torque)) > 0.0999
    assert np.max(np.abs(torque)) <= 0.1


@pytest.mark.parametrize("config", [SMALL, RICH, dataclasses.replace(SMALL, dilations=(1, 3, 3, 6), window_samples=30)])
def test_window_sequence_and_stream_agree(config):
    params, field = big_params(config), config.receptive_field
    x = signals(config, 45, batch=3)
    sequence = apply(config, "sequence", params, x)
    assert sequence.shape == (3, 45 - field + 1, 2)
    stream, streamed = init_stream(config, 3), []
    for t in range(45):
        stream, torque = apply(config, "stream", params, stream, x[:, t])
        streamed.append(torque)
    np.testing.assert_allclose(jnp.stack(streamed[field - 1 :], 1), sequence, atol=1e-6)
    assert all(not np.any(torque) for torque in streamed[: field - 1])
    for t in range(config.window_samples, 46, 5):
        window = apply(config, "__call__", params, x[:, t - config.window_samples : t])
        np.testing.assert_allclose(window, sequence[:, t - field], atol=1e-6)


def test_a_reset_stream_says_nothing_until_it_has_a_whole_field_of_new_samples():
    params, field = big_params(SMALL), SMALL.receptive_field
    x = signals(SMALL, 40, batch=2)
    stream, rows = init_stream(SMALL, 2), []
    for t in range(40):
        if t == 20:
            stream = reset_stream(stream, jnp.array([True, False]))
        stream, torque = apply(SMALL, "stream", params, stream, x[:, t])
        rows.append(np.asarray(torque))
    rows = np.stack(rows)
    assert not rows[20 : 20 + field - 1, 0].any()
    assert np.all(rows[20 : 20 + field - 1, 1] != 0)
    np.testing.assert_allclose(
        rows[20 + field - 1, 0], apply(SMALL, "__call__", params, x[:, 15 : 20 + field])[0], atol=1e-6
    )


def test_output_depends_on_the_receptive_field_and_on_nothing_older_or_later():
    config = dataclasses.replace(SMALL, window_samples=20)
    assert config.receptive_field == 15
    params, x = big_params(config), signals(config, 20, batch=1)
    gradient = jax.grad(lambda w: Student(config).apply(params, w)[0, 0])(x)[0]
    assert not np.any(gradient[:5])
    assert np.all(np.any(np.asarray(gradient[5:]) != 0, axis=-1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window_samples": 14}, "receptive field of 15"),
        ({"dilations": (1, 2, 3)}, "multiples"),
        ({"dilations": (2, 4)}, "1 first"),
        ({"torque_limit_nm_per_kg": 0.0}, "positive"),
        ({"signals": ("thigh_gyro", "heart_rate")}, "allowed: thigh_gyro"),
        ({"mirror_signs": (2,)}, "-1 or 1"),
        ({"input_scale": (1.0, 1.0)}, "one per signal"),
    ],
)
def test_a_student_that_cannot_be_is_refused_by_name(change, message):
    with pytest.raises(UserError, match=message) as caught:
        dataclasses.replace(SMALL, **change)
    assert next(iter(change)) in str(caught.value)


def test_profile_decides_limit_rate_and_inputs():
    profile = DeviceProfile.load("hip_1900g")
    config = StudentConfig.for_profile(profile)
    assert config.torque_limit_nm_per_kg == profile.torque.limit_nm_per_kg
    assert config.window_samples >= config.receptive_field
    assert profile.contract(config.window_samples).difference(config.contract) is None
    assert "Nm/kg" in DeviceProfile.load("hip_3200g").contract().difference(
        dataclasses.replace(config, profile="", profile_hash="").contract
    )
    rich = signals_of(("hip_encoder", "gyro_sagittal", "gyro_three_axes"))
    assert [signal.name for signal in rich][:2] == ["thigh_gyro", "thigh_gyro_adduction"]
    assert len(rich) == 5
    assert sensors_of(tuple(signal.name for signal in rich)) == ("gyro_three_axes", "hip_encoder")
    assert sensors_of(("thigh_gyro",)) == ("gyro_sagittal",)
    with pytest.raises(UserError, match="sonar"):
        signals_of(("sonar",))


def test_saved_student_comes_back_exactly_and_replaces_the_earlier_one(tmp_path):
    params = big_params(RICH)
    examples = np.asarray(signals(RICH, 40, batch=2))
    save_student(tmp_path / "s", RICH, big_params(RICH, seed=9))
    save_student(tmp_path / "s", RICH, params, {"rounds": 3, "learning_rate": 1e-3}, examples)
    assert len(list((tmp_path / "s").iterdir())) == 2
    saved = load_student(tmp_path / "s")
    assert saved.config == RICH
    assert saved.training == {"rounds": 3, "learning_rate": 1e-3}
    np.testing.assert_array_equal(saved.examples, examples)
    x = signals(RICH, 20)
    np.testing.assert_array_equal(apply(RICH, "__call__", saved.params, x), apply(RICH, "__call__", params, x))


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/s: cannot be written"):
        save_student(tmp_path / "file" / "s", SMALL, big_params(SMALL))


def test_what_is_no_student_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match="is no student"):
        load_student(tmp_path / "nothing")
    (tmp_path / "student.json").write_text(json.dumps({"format": "something/2"}))
    with pytest.raises(UserError, match="something/2"):
        load_student(tmp_path)
    directory = save_student(tmp_path / "s", SMALL, big_params(SMALL))
    content = json.loads((directory / "student.json").read_text())
    for change, message in [
        ({"params_hash": "0" * 16}, "parameters are not the ones"),
        ({"params_file": "params-gone.npz"}, "cannot be read"),
        ({"config": {**content["config"], "channels": 9}}, "do not have the sizes"),
        ({"config": {**content["config"], "colour": "red"}}, "colour"),
    ]:
        (directory / "student.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(UserError, match=message) as caught:
            load_student(directory)
        assert "\n" not in str(caught.value)
