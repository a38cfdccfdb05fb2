"""A policy file is believed only after its contract, its shapes and its golden vectors have been checked."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
from tiny_policy import WINDOW, contract, torque_of, write_policy

from mjx_exo.conventions import GYRO_CHANNELS, TORQUE_CHANNELS
from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError
from mjx_exo.exchange import GOLDEN_KEY, METADATA_KEY, decode_golden, encode_golden
from runtime.channels import READERS, channels_of
from runtime.policy import Policy
from runtime.settings import check_policy, choose_profile, loop_contract


@pytest.fixture
def policy(tmp_path) -> Policy:
    return Policy.load(write_policy(tmp_path / "student.onnx", training_hash="abc"), warm_up=2)


def test_it_computes_what_the_graph_says_on_the_last_samples(policy):
    samples = np.random.default_rng(1).normal(0.0, 2.0, (50, 2)).astype(np.float32)
    for i, row in enumerate(samples):
        assert policy.full == (i >= WINDOW)
        policy.push(row)
    assert policy.full
    np.testing.assert_allclose(policy.infer(), torque_of(samples[None, -WINDOW:], 0.25)[0], atol=1e-6)
    policy.flush()
    assert not policy.full


def test_metadata_is_read_in_full_precision(policy):
    assert policy.contract == contract()
    assert policy.metadata["training_hash"] == "abc" and len(policy.digest) == 16


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gyro_channels": GYRO_CHANNELS[::-1]}, "swapped sides"),
        ({"torque_channels": TORQUE_CHANNELS[::-1]}, "swapped sides"),
        ({"gyro_signs": (1, -1)}, "flipped sign"),
        ({"torque_signs": (-1, 1)}, "flipped sign"),
        ({"gyro_unit": "deg/s"}, "wrong unit"),
        ({"rate_hz": 75.0}, "wrong rate: the device samples at 100 Hz"),
        ({"rate_hz": 200.0}, "wrong rate: the device samples at 100 Hz, the student needs 200 Hz"),
        ({"profile_hash": "0123456789abcdef"}, "wrong device profile"),
        ({"torque_limit_nm_per_kg": 0.3}, "wrong torque limit"),
    ],
)
def test_a_policy_for_something_else_is_refused_with_the_sentence_that_says_which(tmp_path, change, words):
    path = write_policy(tmp_path / "student.onnx", contract(**change))
    with pytest.raises(UserError) as error:
        check_policy(Policy.load(path, warm_up=0), DeviceProfile.load("hip_3200g"))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_policy_for_another_device_is_refused(policy):
    with pytest.raises(UserError, match="wrong device profile"):
        check_policy(policy, choose_profile(policy, "hip_1900g", None))


def test_a_faster_device_is_accepted_and_a_slower_refused(policy):
    check_policy(policy, choose_profile(policy, None, 200.0))
    check_policy(policy, choose_profile(policy, None, 500.0))
    for rate in (50.0, 150.0):
        with pytest.raises(UserError, match="wrong rate"):
            check_policy(policy, choose_profile(policy, None, rate))
    with pytest.raises(UserError, match="rate_hz = 900"):
        choose_profile(policy, None, 900.0)


def test_golden_vectors_that_do_not_come_out_stop_the_start(tmp_path):
    path = write_policy(tmp_path / "student.onnx", golden_error=1e-4)
    with pytest.raises(UserError, match="golden vectors differ by"):
        Policy.load(path)


def test_files_that_are_no_policy_are_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        Policy.load(tmp_path / "absent.onnx")
    (tmp_path / "noise.onnx").write_bytes(b"no model at all")
    with pytest.raises(UserError, match="not a model"):
        Policy.load(tmp_path / "noise.onnx")
    model = onnx.load(write_policy(tmp_path / "bare.onnx"))
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(UserError, match="carries no mjx_exo metadata"):
        Policy.load(tmp_path / "bare.onnx")


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        (METADATA_KEY, "{", "not JSON"),
        (METADATA_KEY, json.dumps(dataclasses.replace(contract(), window=31).to_dict()), "the metadata says float"),
        (METADATA_KEY, "{}", "has no field"),
        (GOLDEN_KEY, "{}", "golden vectors cannot be read"),
        (GOLDEN_KEY, encode_golden(np.zeros((2, 5, 2)), np.zeros((2, 2))), "golden windows"),
        (GOLDEN_KEY, encode_golden(np.zeros((2, WINDOW, 2)), np.zeros((3, 2))), "golden vectors have shapes"),
        (GOLDEN_KEY, encode_golden(np.full((1, WINDOW, 2), np.nan), np.zeros((1, 2))), "golden vectors differ"),
    ],
)
def test_damaged_metadata_is_named(tmp_path, key, text, words):
    model = onnx.load(write_policy(tmp_path / "student.onnx"))
    for entry in model.metadata_props:
        if entry.key == key:
            entry.value = text
    onnx.save(model, tmp_path / "student.onnx")
    with pytest.raises(UserError, match=words):
        Policy.load(tmp_path / "student.onnx")


def test_the_streaming_form_is_refused(tmp_path):
    with pytest.raises(UserError, match="export without --streaming"):
        Policy.load(write_policy(tmp_path / "student.onnx", form="streaming"))


def test_golden_vectors_survive_as_text():
    windows, torques = np.random.default_rng(2).normal(size=(3, 7, 2)), np.random.default_rng(3).normal(size=(3, 2))
    back = decode_golden(encode_golden(windows, torques))
    np.testing.assert_array_equal(back[0], windows.astype(np.float32))
    np.testing.assert_array_equal(back[1], torques.astype(np.float32))


def test_the_loop_and_the_student_name_the_channels_of_every_sensor_alike():
    student = pytest.importorskip("policies.student")
    for sensor, signals in student.SENSOR_SIGNALS.items():
        names = channels_of((sensor,))
        assert names == tuple(f"{signal.name}_{side}" for signal in signals for side in "rl")
        assert set(names) <= set(READERS)


def test_the_loops_contract_is_the_students():
    student = pytest.importorskip("policies.student")
    profile = DeviceProfile.load("hip_3200g")
    config = student.StudentConfig.for_profile(profile)
    assert loop_contract(profile, config.rate_hz).difference(config.contract) is None
