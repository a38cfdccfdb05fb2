"""Recordings and CSV files: what is written comes back, what is wrong is named."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mjx_exo.errors import UserError
from mjx_exo.gait.example import normal_walking
from mjx_exo.gait.files import plain, write_bytes
from mjx_exo.gait.metrics import summarise
from mjx_exo.gait.recording import Recording, from_batch, load, save
from mjx_exo.gait.user_csv import read_csv, write_csv


def test_recordings_survive_a_file(tmp_path):
    walker = normal_walking(3.0)
    save(tmp_path / "trials.npz", [walker, dataclasses.replace(walker, fell=True, activation=None)])
    first, second = load(tmp_path / "trials.npz")
    assert second.fell
    assert second.activation is None
    assert first.joint_names == walker.joint_names
    for name, value in walker.arrays().items():
        np.testing.assert_array_equal(first.arrays()[name], value)
    assert [path.name for path in tmp_path.iterdir()] == ["trials.npz"]


def test_a_file_that_is_no_recording(tmp_path):
    (tmp_path / "other.npz").write_bytes(b"PK nonsense")
    with pytest.raises(UserError, match=r"other\.npz: not a recording"):
        load(tmp_path / "other.npz")
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "absent.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exo_torque_nm_kg": np.zeros((5, 2))}, r"exo_torque_nm_kg has shape \(5, 2\), expected \(301, 2\)"),
        ({"body_mass_kg": 0.0}, "body_mass_kg = 0.0 must be positive"),
        ({"time_s": np.concatenate([np.arange(300) / 100.0, [9.0]])}, "not evenly spaced"),
        ({"muscle_groups": ("abd",)}, "muscle_groups"),
    ],
)
def test_contradictions_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(normal_walking(3.0), **change)


def test_trials_from_a_batched_rollout():
    steps, batch = 200, 3
    time = np.arange(steps) / 100.0
    gyro = np.arange(steps * batch * 2, dtype=float).reshape(steps, batch, 2)
    arrays = {"time_s": time, "thigh_gyro_rad_s": gyro, "body_mass_kg": np.array([60.0, 70.0, 80.0])}
    trials = from_batch(arrays, [200, 50, 0], [False, True, True], command_speed_m_s=1.2)
    assert [trial.time_s.size for trial in trials] == [200, 50, 2]
    assert [trial.fell for trial in trials] == [False, True, True]
    assert trials[1].body_mass_kg == 70.0
    np.testing.assert_array_equal(trials[1].thigh_gyro_rad_s, gyro[:50, 1])


def test_between_cuts_every_signal():
    part = normal_walking(5.0).between(1.0, 2.0)
    assert part.time_s.size == part.activation.shape[0] == part.ground_force_n.shape[0] == 101
    with pytest.raises(UserError, match=r"nothing between 7 s and 8 s, it has 0\.\.5 s"):
        normal_walking(5.0).between(7.0, 8.0)


def test_a_csv_gives_the_same_verdict_as_the_recording(tmp_path):
    walker = normal_walking(8.0)
    write_csv(tmp_path / "own.csv", walker)
    back = read_csv(tmp_path / "own.csv")
    assert back.body_mass_kg == walker.body_mass_kg
    before, after = (summarise([trial], 1.25, 0.0).measures for trial in (walker, back))
    for name in ("r_hip", "rmse_knee_deg", "stance_percent", "positive_joint_power_W_kg", "activation_mean"):
        assert after[name] == pytest.approx(before[name], rel=1e-6), name


def csv_with(tmp_path, header, rows, first="# body_mass_kg = 80\n"):
    path = tmp_path / "walk.csv"
    path.write_text(first + header + "\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_units_are_converted(tmp_path):
    rows = [f"{i / 100};90;180;8;-40" for i in range(20)]
    header = "time_s;hip_flexion_r_deg;hip_flexion_velocity_r_deg_s;hip_flexion_moment_r_Nm;slope_deg"
    trial = read_csv(csv_with(tmp_path, header, rows))
    assert trial.joint("joint_angle_rad", "hip_flexion", "right") == pytest.approx(np.pi / 2)
    assert trial.joint("joint_velocity_rad_s", "hip_flexion", "right") == pytest.approx(np.pi)
    assert trial.joint("biological_moment_nm_kg", "hip_flexion", "right") == pytest.approx(0.1)
    assert trial.slope_rad == pytest.approx(np.deg2rad(-40))
    assert trial.joint("joint_angle_rad", "hip_flexion", "left") is None


def test_force_in_body_weights_and_newton_agree(tmp_path):
    weight = 80 * 9.81
    rows = [f"{i / 100},1.0,{weight}" for i in range(20)]
    with pytest.raises(UserError, match="grf_vertical is missing for the left side"):
        read_csv(csv_with(tmp_path, "time_s,grf_vertical_r_bw,speed_m_s", rows))
    trial = read_csv(csv_with(tmp_path, "time_s,grf_vertical_r_bw,grf_vertical_l_N", rows))
    np.testing.assert_allclose(trial.vertical_force_bw("right"), trial.vertical_force_bw("left"))


def test_short_gaps_are_bridged_and_long_ones_named(tmp_path):
    rows = [f"{i / 100},{'' if 5 <= i < 8 else i}" for i in range(50)]
    trial = read_csv(csv_with(tmp_path, "time_s,knee_flexion_r_deg", rows))
    np.testing.assert_allclose(np.rad2deg(trial.joint_angle_rad[:, 0]), np.arange(50.0))
    rows = [f"{i / 100},{'nan' if 5 <= i < 30 else i}" for i in range(50)]
    with pytest.raises(UserError, match=r"knee_flexion_r_deg: missing from 0\.05 s"):
        read_csv(csv_with(tmp_path, "time_s,knee_flexion_r_deg", rows))


GOOD = [f"{i / 100},{i}" for i in range(20)]


@pytest.mark.parametrize(
    ("header", "rows", "first", "message"),
    [
        ("time_s,hip_flexoin_r_deg", GOOD, None, r"unknown column 'hip_flexoin_r_deg'; did you mean hip_flexion_r_deg"),
        ("time_s,hip_flexion_r", GOOD, None, "unknown column 'hip_flexion_r'"),
        ("t,hip_flexion_r_deg", GOOD, None, "no column time_s"),
        ("time_s,temperature", GOOD, None, "no known signal"),
        ("time_s,hip_flexion_r_deg", GOOD, "", "body mass unknown"),
        ("time_s,hip_flexion_r_deg", GOOD, "# body_mass_kg = heavy\n", "'heavy' is not a number"),
        ("time_s,hip_flexion_r_deg", GOOD, "# body_mass_kg = 8000\n", "8000 is outside 10..300"),
        (
            "time_s,hip_flexion_r_deg",
            ["0,1", "0.01,x"],
            None,
            "line 4, column 'hip_flexion_r_deg': 'x' is not a number",
        ),
        ("time_s,hip_flexion_r_deg", ["0,1", "0.01"], None, "line 4 has 1 cells, the header 2"),
        ("time_s,hip_flexion_r_deg", ["0,1", "0.02,1", "0.01,1"], None, "time must grow"),
        ("time_s,hip_flexion_r_deg", ["0,1", "0.01,1", "0.02,1", "5,1"], None, "nothing between 0.02 s and 5 s"),
        ("time_s,time_s", GOOD, None, "'time_s' appears twice"),
        ("time_s,hip_flexion_r_deg", [], None, "no samples"),
    ],
)
def test_mistakes_in_a_csv_are_named(tmp_path, header, rows, first, message):
    path = csv_with(tmp_path, header, rows, "# body_mass_kg = 80\n" if first is None else first)
    with pytest.raises(UserError, match=message):
        read_csv(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_csv(tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match="not a CSV"):
        read_csv(tmp_path / "binary.csv")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_bytes(path, b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_json_has_no_nan():
    assert plain({"a": np.float32(0.5), "b": [np.nan, np.inf], "c": np.arange(2)}) == {
        "a": 0.5,
        "b": [None, None],
        "c": [0, 1],
    }


def test_recording_without_joints_has_no_joint():
    trial = Recording(time_s=np.arange(10) / 100.0, body_mass_kg=70.0)
    assert trial.joint("joint_angle_rad", "hip_flexion", "right") is None
    assert trial.rate_hz == pytest.approx(100.0)
