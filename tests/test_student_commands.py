"""The student's commands: what they refuse, what they plan, and that a stopped release goes on."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from export import standalone
from mjx_exo import distill, student_release, student_robustness, student_transfer
from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError
from mjx_exo.student_controller import load_controller
from mjx_exo.student_device import student_device, toml_text
from mjx_exo.teacher import PRETRAINED
from mjx_exo.walking import sensors
from tests.tiny_policy import write_policy

STUDENT = PRETRAINED / "student"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["no_such", "--out", "x"], "no policy in no_such"),
        (["teacher", "--out", "x", "--rounds", "-1"], "--rounds"),
        (["teacher", "--out", "x", "--stand-share", "2"], "--stand-share"),
        (["teacher", "--out", "x", "--lost-share", "0.9"], "--lost-share"),
        (["teacher", "--out", "x", "--sensors", "sonar"], "sonar"),
        (["teacher", "--out", "x", "--device", "hip_9t"], "hip_9t"),
        (["teacher", "--out", "x", "--consistency", "1"], "perturbation"),
        (["teacher", "--out", "x", "--check-wearers", "0"], "wearers"),
        (["teacher", "--out", "x", "--rounds", "0"], "is no student"),
    ],
)
def test_distill_refuses_in_one_line_before_anything_is_built(words, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=named) as caught:
        distill.main(words)
    assert "\n" not in str(caught.value)


def test_an_output_that_cannot_be_written_is_named_before_anything_is_learnt(tmp_path):
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file" / "student")
    with pytest.raises(UserError, match="cannot write"):
        distill.main(["teacher", "--out", out])
    with pytest.raises(UserError, match="cannot write"):
        student_robustness.main([str(STUDENT), "--teacher", "teacher", "--out", out])
    with pytest.raises(UserError, match="cannot write"):
        student_transfer.main([str(STUDENT), "--teacher", "teacher", "--out", out])
    with pytest.raises(UserError, match="cannot be written"):
        standalone.write_standalone(STUDENT / "student.onnx", Path(out))


def test_what_is_no_student_is_refused_by_every_command_that_takes_one(tmp_path):
    out = str(tmp_path / "out")
    teacher = str(PRETRAINED / "teacher")
    for command in (student_robustness, student_transfer):
        with pytest.raises(UserError, match="is no student"):
            command.main([teacher, "--teacher", "teacher", "--out", out])
    with pytest.raises(UserError, match=r"allowed: 1\.\.2"):
        student_transfer.main([str(STUDENT), "--teacher", "teacher", "--out", out, "--step-ms", "5"])
    assert not Path(out).exists()


def test_a_users_mistake_ends_with_code_2(tmp_path):
    command = [sys.executable, "-m", "mjx_exo.distill", str(tmp_path), "--out", str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no policy in") and len(done.stderr.splitlines()) == 1


def test_a_device_with_other_sensors_has_another_name_and_comes_back_from_its_file(tmp_path):
    profile = student_device("hip_3200g", "gyro_three_axes,hip_encoder")
    assert profile.name == "hip_3200g_gyro_three_axes_hip_encoder"
    assert profile.profile_hash() != DeviceProfile.load("hip_3200g").profile_hash()
    (tmp_path / "device.toml").write_text(toml_text(profile))
    assert DeviceProfile.load(tmp_path / "device.toml") == profile
    assert student_device("hip_3200g") == DeviceProfile.load("hip_3200g")


def test_a_file_for_a_device_with_other_sensors_does_not_drive(tmp_path):
    path = tmp_path / "student.onnx"
    write_policy(path)
    content = DeviceProfile.load("hip_3200g").to_dict()
    content["imu"]["sensors"] = ["gyro_three_axes"]
    other = tmp_path / "mine.toml"
    other.write_text(toml_text(DeviceProfile.from_dict(content)))
    with pytest.raises(UserError, match="measures thigh_gyro_adduction, thigh_gyro_rotation, which the student"):
        load_controller(path, str(other))
    with pytest.raises(UserError, match=r"gone\.onnx"):
        load_controller(tmp_path / "gone.onnx")


def test_each_error_of_a_sweep_is_set_in_its_own_unit():
    perfect = sensors.perfect_sensor(2)
    level = np.array([0.0, 20.0])
    turned = student_robustness.with_error(perfect, "misalignment about the thigh", level)
    np.testing.assert_allclose(jnp.linalg.norm(turned.mounting, axis=-1), np.radians([[0, 0], [20, 20]]), rtol=1e-6)
    both = student_robustness.with_error(turned, "misalignment forward", level)
    assert np.count_nonzero(both.mounting) == 4
    np.testing.assert_allclose(student_robustness.with_error(perfect, "latency", level).latency_s, [0, 0.02])
    np.testing.assert_allclose(student_robustness.with_error(perfect, "lost samples", level).lost_share, [0, 0.2])
    np.testing.assert_allclose(student_robustness.with_error(perfect, "noise", level).noise_rad_s, level)
    reach = {sweep.name: sweep.levels for sweep in student_robustness.SWEEPS}
    assert max(reach["latency"]) == 50 and max(reach["lost samples"]) == 5
    for name in ("misalignment about the thigh", "misalignment forward"):
        assert (min(reach[name]), max(reach[name])) == (-20, 20)


def test_the_robustness_page_shows_students_beside_each_other(tmp_path):
    row = {"r_profile": 0.9, "r_raw": 0.9, "rmse_Nm_kg": 0.02, "fall_free": 1.0}
    row |= {"saved_percent": 2.0, "saved_by_teacher_percent": 2.5}
    rows = {"noise": [row | {"level": 0.0}, row | {"level": 0.1}]}
    page = student_robustness.write_robustness_page(tmp_path, {"thigh_gyro": rows, "three axes": rows}, "teacher")
    text = page.read_text()
    assert "three axes" in text and "The teacher saves 2.5 %" in text and "noise, rad/s" in text
    assert (tmp_path / "robustness.png").stat().st_size > 5000


def release(out: Path, **changes) -> argparse.Namespace:
    arguments = student_release.parser().parse_args(["teacher", "--out", str(out)])
    return argparse.Namespace(**{**vars(arguments), **changes})


def test_a_release_plans_every_step_that_a_student_is_judged_by(tmp_path):
    arguments = release(
        tmp_path, human=["person80"], richer=["gyro_three_axes,hip_encoder"], distill="--rounds 3 --noise 0.1"
    )
    commands = [command for _, command in student_release.plan(arguments)]
    named = [command[0] for command in commands]
    for module in ("distill", "student_robustness", "student_transfer", "evaluate"):
        assert f"mjx_exo.{module}" in named
    assert named.count("export.to_onnx") == 3 and "export.standalone" in named
    learnt = distill.parser().parse_args(commands[0][1:])
    assert (learnt.rounds, learnt.noise, learnt.out) == (3, 0.1, tmp_path)
    richer = distill.parser().parse_args(commands[1][1:])
    assert richer.sensors == "gyro_three_axes,hip_encoder" and richer.out != tmp_path
    by_name = dict(zip(named, commands, strict=True))
    swept = student_robustness.parser().parse_args(by_name["mjx_exo.student_robustness"][1:])
    assert swept.students == [tmp_path, richer.out]
    assert student_transfer.parser().parse_args(by_name["mjx_exo.student_transfer"][1:]).human == ["person80"]
    from mjx_exo import evaluate

    assert evaluate.parser().parse_args(by_name["mjx_exo.evaluate"][1:]).controller == tmp_path / "student.onnx"


def test_a_stopped_release_goes_on_after_the_steps_that_are_done(tmp_path, capsys):
    steps, ran = student_release.Steps(tmp_path, False), []
    steps.do("one", lambda: ran.append(1))
    with pytest.raises(UserError, match=r"'two' failed with exit code"):
        steps.run("two", ["mjx_exo.no_such_command"])
    with pytest.raises(UserError, match="--resume"):
        student_release.Steps(tmp_path, False)
    again = student_release.Steps(tmp_path, True)
    again.do("one", lambda: ran.append(1))
    again.do("two", lambda: ran.append(2))
    assert ran == [1, 2]
    assert set(json.loads((tmp_path / "release.json").read_text())) == {"one", "two"}


def test_what_was_reached_is_said_for_every_target():
    lines = student_release.reached(
        {"r_profile_mean": 0.99, "rmse_Nm_kg": 0.03, "targets_met": {"r_profile_mean": True, "rmse_Nm_kg": False}}
    )
    assert any("r_profile_mean" in line and line.endswith(": reached") for line in lines)
    assert any("rmse_Nm_kg" in line and line.endswith("NOT reached") for line in lines)
    assert any("onnx_max_abs_diff" in line and line.endswith("unknown") for line in lines)


def test_an_export_checks_itself_in_an_empty_folder(tmp_path):
    files = standalone.write_standalone(STUDENT / "student.onnx", tmp_path / "alone")
    assert {path.name for path in files} == {"student.onnx", "golden.json", "check.py", "check.mjs"}
    student_release.check_alone(tmp_path / "alone")
    golden = json.loads((tmp_path / "alone" / "golden.json").read_text())
    golden["torques"][0][0] += 1e-3
    (tmp_path / "alone" / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(UserError, match="the Python check disagrees"):
        student_release.check_alone(tmp_path / "alone")


def test_an_export_checks_itself_in_javascript(tmp_path):
    if shutil.which("node") is None:
        pytest.skip("there is no node")
    standalone.write_standalone(STUDENT / "student.onnx", tmp_path)
    check = [shutil.which("node"), str(tmp_path / "check.mjs")]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    if done.returncode == student_release.NO_RUNTIME:
        pytest.skip("onnxruntime for JavaScript is not installed")
    assert done.returncode == 0, done.stderr
    assert "8 windows" in done.stdout
    golden = json.loads((tmp_path / "golden.json").read_text())
    golden["torques"][0][1] += 1e-3
    (tmp_path / "golden.json").write_text(json.dumps(golden))
    assert subprocess.run(check, capture_output=True, check=False).returncode == 1


def test_a_streaming_file_is_no_file_for_strangers(tmp_path):
    write_policy(tmp_path / "s.onnx", form="streaming")
    with pytest.raises(UserError, match="streaming"):
        standalone.write_standalone(tmp_path / "s.onnx", tmp_path / "out")
