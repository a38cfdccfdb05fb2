"""The contract tells two parties that disagree in which thing they do, and nothing but that."""

import dataclasses
import json

import pytest

from mjx_exo import conventions as c
from mjx_exo.errors import UserError

FULL = dataclasses.replace(c.CONTRACT, window=95, profile="hip_3200g", profile_hash="ff", torque_limit_nm_per_kg=0.25)


def test_names_have_a_side_and_a_mirror_image():
    assert c.joint_name("hip_flexion", "right") == "hip_flexion_r"
    assert c.mirrored_name("hip_flexion_r") == "hip_flexion_l"
    assert c.mirrored_name("pelvis_tilt") == "pelvis_tilt"
    assert c.side_of("soleus_l") == "left" and c.side_of("torso") is None
    assert len(c.leg_joint_names("left")) == 7
    assert "subtalar_inversion_l" not in c.leg_joint_names("left", subtalar=False)


def test_every_joint_says_what_positive_means():
    assert set(c.LEG_JOINTS) <= set(c.POSITIVE_DIRECTION)


def test_channels_are_right_then_left():
    assert [c.side_of(name) for name in c.GYRO_CHANNELS + c.TORQUE_CHANNELS] == [*c.SIDES, *c.SIDES]


def test_contract_survives_json_exactly():
    contract = dataclasses.replace(c.CONTRACT, rate_hz=100.0 / 3.0, torque_limit_nm_per_kg=0.1 + 0.2, window=95)
    data = json.loads(json.dumps({**contract.to_dict(), "something_else": 1}))
    assert c.SignalContract.from_dict(data) == contract


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gyro_channels": c.GYRO_CHANNELS[::-1]}, "swapped sides"),
        ({"torque_channels": c.TORQUE_CHANNELS[::-1]}, "swapped sides"),
        ({"gyro_channels": ("a", "b")}, "wrong gyroscope channels"),
        ({"gyro_signs": (1, -1)}, "flipped sign: the gyroscope channel thigh_gyro_l counts flexion positive"),
        ({"torque_signs": (-1, -1)}, "flipped sign"),
        ({"gyro_unit": "deg/s"}, "wrong unit"),
        ({"torque_unit": "Nm"}, "wrong unit"),
        ({"rate_hz": 200.0}, "wrong rate: the loop runs at 100 Hz, student.onnx at 200 Hz"),
        ({"window": 64}, "wrong window"),
        ({"profile": "hip_1900g"}, "wrong device profile"),
        ({"profile_hash": "00"}, "different versions"),
        ({"torque_limit_nm_per_kg": 0.3}, "wrong torque limit"),
    ],
)
def test_a_difference_is_named_in_one_sentence(change, words):
    sentence = FULL.difference(dataclasses.replace(FULL, **change), "the loop", "student.onnx")
    assert words in sentence and "\n" not in sentence and "student.onnx" in sentence
    assert FULL.difference(FULL) is None


def test_what_one_party_leaves_open_is_not_a_difference():
    assert FULL.difference(c.CONTRACT) is None


@pytest.mark.parametrize("broken", [{"rate_hz": "fast"}, {"gyro_channels": "right"}, {"window": True}])
def test_a_broken_contract_is_refused_in_one_line(broken):
    with pytest.raises(UserError, match=next(iter(broken))):
        c.SignalContract.from_dict({**c.CONTRACT.to_dict(), **broken}, "student.onnx")


def test_a_missing_field_is_named():
    data = c.CONTRACT.to_dict()
    del data["gyro_signs"]
    with pytest.raises(UserError, match="gyro_signs"):
        c.SignalContract.from_dict(data, "student.onnx")
