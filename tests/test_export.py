"""The exported file: it computes what Flax computes, says what it is, and a bad one never gets its final name."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import onnx
import onnxruntime as ort
import pytest

from export import golden, graph, to_onnx
from export.check import check_file
from mjx_exo.conventions import SignalContract
from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError
from mjx_exo.exchange import METADATA_KEY
from policies.storage import load_student, save_student
from policies.student import StudentConfig, init_params
from runtime.policy import Policy

PROFILE = DeviceProfile.load("hip_3200g")
SIZES = {"channels": 8, "kernel_size": 3, "dilations": (1, 2, 4), "window_samples": 20}
SENSORS = {"single": ("gyro_sagittal",), "rich": ("gyro_three_axes", "accelerometer", "hip_encoder")}


def with_sensors(sensors) -> DeviceProfile:
    return dataclasses.replace(PROFILE, name="mine", imu=dataclasses.replace(PROFILE.imu, sensors=sensors))


@pytest.fixture(scope="module", params=["single", "rich"])
def student(request, tmp_path_factory):
    """A student on disk whose torque fills its range; "rich" has signals that the mirror image flips, too."""
    config = StudentConfig.for_profile(with_sensors(SENSORS[request.param]), **SIZES)
    if request.param == "rich":
        config = dataclasses.replace(config, mirror_signs=(1, -1, 1, 1, 1, -1, 1, 1))
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))
    params["params"]["head"]["kernel"] = params["params"]["head"]["kernel"] * 30.0
    directory = tmp_path_factory.mktemp("student")
    examples = golden.walking_signals(config, 6, 120, seed=5)
    save_student(directory, config, params, {"rounds": 1}, examples)
    return directory


@pytest.fixture(scope="module")
def exported(student, tmp_path_factory):
    """Both forms of it, written by the command."""
    folder = tmp_path_factory.mktemp("exported")
    for form in ("window", "streaming"):
        assert to_onnx.run(settings(student, folder / form / "student.onnx", streaming=form == "streaming")) == 0
    return folder


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A single-axis student on disk."""
    config = StudentConfig.for_profile(PROFILE, **SIZES)
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))
    return save_student(tmp_path_factory.mktemp("single"), config, params)


def settings(student, out, **changes) -> to_onnx.Settings:
    return to_onnx.Settings(student=student, out=out, windows=60, **changes)


def metadata_of(path) -> dict:
    return json.loads({p.key: p.value for p in onnx.load(path).metadata_props}[METADATA_KEY])


@pytest.mark.parametrize("form", ["window", "streaming"])
def test_exported_file_computes_what_flax_computes(student, exported, form):
    out = exported / form / "student.onnx"
    assert [path.name for path in out.parent.iterdir()] == ["student.onnx"]
    saved, session = load_student(student), ort.InferenceSession(out)
    windows, recorded = golden.parity_windows(saved, 60, seed=7)
    assert recorded == 0.5
    expected = golden.flax_torques(saved, windows)
    assert np.std(expected) > 0.005
    np.testing.assert_allclose(golden.onnx_torques(session, windows), expected, atol=1e-5)
    assert np.abs(expected).max() <= PROFILE.torque.limit_nm_per_kg


def test_window_form_takes_batches(student, exported):
    out = exported / "window" / "student.onnx"
    saved, session = load_student(student), ort.InferenceSession(out)
    windows, _ = golden.parity_windows(saved, 60)
    batch = session.run(None, {"window": windows})[0]
    np.testing.assert_allclose(batch, golden.onnx_torques(session, windows), atol=1e-6)


def test_mirrored_window_gives_mirrored_torque_in_the_file(student, exported):
    out = exported / "window" / "student.onnx"
    saved, session = load_student(student), ort.InferenceSession(out)
    windows, _ = golden.parity_windows(saved, 10)
    pairs = windows.reshape(10, 20, -1, 2)[..., ::-1] * np.array(saved.config.mirror_signs)[:, None]
    mirrored = pairs.reshape(windows.shape).astype(np.float32)
    torque = session.run(None, {"window": windows})[0]
    assert np.abs(torque[:, 0] - torque[:, 1]).max() > 1e-3
    np.testing.assert_array_equal(session.run(None, {"window": mirrored})[0], torque[:, ::-1])


def test_streaming_file_is_silent_until_it_has_seen_a_field_and_after_each_reset(student, exported):
    out = exported / "streaming" / "student.onnx"
    saved, session = load_student(student), ort.InferenceSession(out)
    field = saved.config.receptive_field
    torque = golden.stream(session, saved.examples[0], reset_at=50)
    silent = np.all(torque == 0.0, axis=1)
    assert silent[: field - 1].all()
    assert silent[50 : 50 + field - 1].all()
    assert not silent[field - 1 : 50].any()
    assert not silent[50 + field - 1 :].any()
    window = saved.examples[0, 50 + field - 20 : 50 + field]
    expected = golden.flax_torques(saved, window[None])[0]
    np.testing.assert_allclose(torque[50 + field - 1], expected, atol=1e-5)


def test_metadata_is_the_contract_in_full_precision(student, exported):
    out = exported / "window" / "student.onnx"
    saved, document = load_student(student), metadata_of(out)
    contract = SignalContract.from_dict(document)
    assert contract == saved.config.contract
    assert contract.profile_hash == saved.config.profile_hash != ""
    assert document["torque_limit_nm_per_kg"] == PROFILE.torque.limit_nm_per_kg
    assert document["receptive_field"] == 15
    assert document["window"] == 20
    assert document["training_hash"] == saved.training_hash
    assert len(document["channel_units"]) == len(document["gyro_channels"])
    model = onnx.load(out)
    assert (model.ir_version, model.opset_import[0].version) == (10, 20)


def test_the_loop_loads_the_file_and_computes_the_same(student, exported):
    out = exported / "window" / "student.onnx"
    saved, policy = load_student(student), Policy.load(out, warm_up=1)
    policy.check(saved.config.contract)
    for sample in saved.examples[0, :20]:
        policy.push(sample)
    assert policy.full
    expected = golden.flax_torques(saved, saved.examples[:1, :20])[0]
    np.testing.assert_allclose(policy.infer(), expected, atol=1e-5)


def test_export_prints_the_parity(single, tmp_path, capsys):
    assert to_onnx.run(settings(single, tmp_path / "new" / "s.onnx", profile="hip_3200g")) == 0
    printed = capsys.readouterr().out
    assert "over 60 windows" in printed
    assert "allowed 1e-05" in printed


def test_the_parity_goes_into_the_summary_beside_the_student(single, tmp_path):
    folder = tmp_path / "student"
    shutil.copytree(single, folder)
    summary, saved = folder / "summary.json", load_student(single)
    for known, noted in ((saved.params_hash, True), ("of another student", False)):
        summary.write_text(json.dumps({"r_raw_mean": 0.9, "onnx_max_abs_diff": None, "params_hash": known,
                                       "targets_met": {"onnx_max_abs_diff": None}}))  # fmt: skip
        before = summary.read_text()
        assert to_onnx.run(settings(folder, tmp_path / "elsewhere.onnx")) == 0
        assert summary.read_text() == before
        assert to_onnx.run(settings(folder, folder / "student.onnx")) == 0
        content = json.loads(summary.read_text())
        assert content["r_raw_mean"] == 0.9
        assert (content["onnx_max_abs_diff"] is not None) == noted
        assert content["targets_met"]["onnx_max_abs_diff"] is (True if noted else None)
    assert json.loads(summary.read_text())["onnx_max_abs_diff"] is None
    summary.write_text("no JSON")
    assert to_onnx.run(settings(folder, folder / "student.onnx")) == 0
    assert summary.read_text() == "no JSON"


def test_many_windows_are_answered_in_parts(single):
    saved = load_student(single)
    windows, _ = golden.parity_windows(saved, golden.BATCH + 3)
    whole = golden.flax_torques(saved, windows)
    assert whole.shape == (golden.BATCH + 3, 2)
    np.testing.assert_allclose(whole[-3:], golden.flax_torques(saved, windows[-3:]), atol=1e-6)


def test_failed_parity_leaves_nothing_under_the_final_name(single, tmp_path, monkeypatch, capsys):
    honest = graph.window_model

    def wrong(config, params, metadata):
        return honest(dataclasses.replace(config, mirror_signs=(-1,)), params, metadata)

    monkeypatch.setattr(to_onnx, "window_model", wrong)
    out = tmp_path / "student.onnx"
    assert to_onnx.run(settings(single, out)) == 1
    assert list(tmp_path.iterdir()) == []
    assert "differ by" in capsys.readouterr().out
    out.write_bytes(b"an earlier file")
    assert to_onnx.run(settings(single, out)) == 1
    assert not out.exists()
    assert (tmp_path / "student.onnx.previous").read_bytes() == b"an earlier file"


def test_a_student_that_answers_nan_is_not_exported(single, tmp_path):
    saved = load_student(single)
    saved.params["params"]["head"]["bias"] = saved.params["params"]["head"]["bias"] * np.nan
    with pytest.raises(to_onnx.ParityError):
        to_onnx.export_student(saved, tmp_path / "s.onnx", windows=60)
    with pytest.raises(to_onnx.ParityError):
        to_onnx.export_student(saved, tmp_path / "s.onnx", "streaming", windows=60)
    assert list(tmp_path.iterdir()) == []


def test_check_reads_a_file_alone_and_notices_damage(single, tmp_path, capsys):
    out = tmp_path / "s.onnx"
    to_onnx.run(settings(single, out))
    assert to_onnx.run(to_onnx.Settings(check=out)) == 0
    assert to_onnx.run(to_onnx.Settings(student=single, check=out, windows=60)) == 0
    assert check_file(out).golden_vectors == to_onnx.GOLDEN_VECTORS

    model = onnx.load(out)
    kernel = next(tensor for tensor in model.graph.initializer if tensor.name == "head/kernel")
    kernel.CopyFrom(onnx.numpy_helper.from_array(1.5 * onnx.numpy_helper.to_array(kernel), kernel.name))
    onnx.save(model, tmp_path / "damaged.onnx")
    assert to_onnx.run(to_onnx.Settings(check=tmp_path / "damaged.onnx")) == 1
    assert "golden vectors differ" in capsys.readouterr().out

    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    for name, message in [("bare", "carries no"), ("text", "not a model"), ("gone", "no such file")]:
        with pytest.raises(UserError, match=message):
            check_file(tmp_path / f"{name}.onnx")


def test_a_file_of_another_student_is_told_apart(single, tmp_path):
    other = load_student(single)
    other = dataclasses.replace(other, config=dataclasses.replace(other.config, rate_hz=200.0))
    to_onnx.export_student(other, tmp_path / "s.onnx", windows=60)
    with pytest.raises(UserError, match="wrong rate"):
        to_onnx.run(to_onnx.Settings(student=single, check=tmp_path / "s.onnx", windows=60))


def test_profile_must_be_the_one_the_student_was_made_for(single):
    config = load_student(single).config
    to_onnx.check_fits(config, PROFILE)
    with pytest.raises(UserError, match=r"measures hip_flexion, hip_flexion_velocity, which the student does not take"):
        to_onnx.check_fits(config, with_sensors(("gyro_sagittal", "hip_encoder")))
    richer = StudentConfig.for_profile(with_sensors(("gyro_three_axes",)), **SIZES)
    with pytest.raises(UserError, match="does not measure thigh_gyro_adduction, thigh_gyro_rotation, which"):
        to_onnx.check_fits(richer, PROFILE)
    with pytest.raises(UserError, match="wrong device profile"):
        to_onnx.check_fits(config, DeviceProfile.load("hip_1900g"))


def test_a_users_mistake_ends_in_one_line_and_code_2(single, tmp_path):
    (tmp_path / "file").write_text("")
    for change, message in [
        ({"student": tmp_path}, "is no student"),
        ({"out": tmp_path / "file" / "s.onnx"}, "cannot be written"),
        ({"out": tmp_path}, "is a directory"),
        ({"profile": "hip_9t"}, "hip_9t"),
        ({"student": None}, "nothing to export"),
        ({"windows": 0}, "--windows"),
    ]:
        with pytest.raises(UserError, match=message):
            to_onnx.run(dataclasses.replace(settings(single, tmp_path / "s.onnx"), **change))
    command = [sys.executable, "-m", "export.to_onnx", str(tmp_path), "--out", str(tmp_path / "s.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
