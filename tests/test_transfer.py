"""The transfer report finds the gain and the delay that a log was made with, from the loop's own format or a CSV."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json

import numpy as np
import pytest

from benchmarks import transfer_grid
from mjx_exo.errors import UserError
from mjx_exo.gait.device_log import Conditions, read_log, steady_trials
from mjx_exo.gait.example import normal_walking
from mjx_exo.gait.recording import Recording, save
from mjx_exo.gait.user_csv import write_csv
from mjx_exo.transfer import main
from runtime.wishes import parse_walk

CODES = {"device_time_us": "Q", "stage": "B", "walking": "B", "gain": "f"}
TYPES = {"Q": "<u8", "B": "u1", "f": "<f4"}
NAMES = (
    "device_time_us",
    "stage",
    "walking",
    "gain",
    "gyro_r",
    "gyro_l",
    "student_r",
    "student_l",
    "applied_r",
    "applied_l",
)
MASS_KG, GAIN, DELAY = 80.0, 0.9, 3
SPEEDS, SECONDS = (0.8, 1.2), 16.0


def walker_at(speed: float, rate_hz: float = 100.0):
    return normal_walking(SECONDS, rate_hz, speed, stride_time_s=1.1 * np.sqrt(1.25 / speed))


def log_rows() -> np.ndarray:
    """Walking at two speeds, one after the other: applied torque is 0.9 of the intent and 30 ms late."""
    pieces = []
    for index, speed in enumerate(SPEEDS):
        walker = walker_at(speed)
        rows = np.zeros(walker.time_s.size - 1, [(name, TYPES[CODES.get(name, "f")]) for name in NAMES])
        rows["device_time_us"] = np.round(1e6 * (100.0 + index * SECONDS + walker.time_s[:-1]))
        rows["stage"], rows["walking"], rows["gain"] = 6, 1, 1.0
        for side, suffix in enumerate("rl"):
            rows[f"gyro_{suffix}"] = walker.thigh_gyro_rad_s[:-1, side]
            rows[f"student_{suffix}"] = walker.exo_torque_nm_kg[:-1, side]
            rows[f"applied_{suffix}"] = MASS_KG * GAIN * np.roll(walker.exo_torque_nm_kg[:-1, side], DELAY)
        pieces.append(rows)
    return np.concatenate(pieces)


@pytest.fixture(scope="module")
def rows():
    return log_rows()


@pytest.fixture
def log_folder(tmp_path, rows):
    folder = tmp_path / "log"
    folder.mkdir()
    columns = [{"name": name, "code": CODES.get(name, "f"), "meaning": ""} for name in NAMES]
    header = {"format": 1, "columns": columns, "wearer_mass_kg": MASS_KG, "stages": {"ACTIVE": 6}}
    (folder / "header.json").write_text(json.dumps(header))
    (folder / "rows.bin").write_bytes(rows.tobytes() + b"half a row")
    lines = [f"{100 + i * SECONDS},{speed},0" for i, speed in enumerate(SPEEDS)]
    (folder / "conditions.csv").write_text("device_time_s,speed_m_s,slope_deg\n" + "\n".join(lines) + "\n")
    return folder


@pytest.fixture
def reference(tmp_path):
    save(tmp_path / "reference.npz", [walker_at(speed, 200.0) for speed in SPEEDS])
    return tmp_path / "reference.npz"


def test_gain_and_delay_come_out_of_a_log(tmp_path, log_folder, reference, capsys):
    out = tmp_path / "report"
    assert main([str(log_folder), "--reference", str(reference), "--out", str(out)]) == 0
    found = json.loads((out / "transfer.json").read_text())
    assert found["stride_start"] == "gyro"
    assert [cell["speed_m_s"] for cell in found["cells"]] == pytest.approx(SPEEDS)
    for cell in found["cells"]:
        assert cell["amplitude_ratio"] == pytest.approx(GAIN, abs=0.02)
        for name in ("lag_extension_ms", "lag_flexion_ms", "lag_cross_correlation_ms"):
            assert cell[name] == pytest.approx(30.0, abs=6.0)
        assert 0.97 < cell["r_mean"] < 1.0
        assert cell["tracking_r"] > 0.97
    assert found["mean"]["r_mean"]["mean"] > 0.97
    assert "data:image/png" in (out / "report.html").read_text()
    assert "report: " in capsys.readouterr().out


def test_the_csv_of_a_log_says_the_same(tmp_path, log_folder, reference, rows):
    path = log_folder / "rows.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(NAMES)
        writer.writerows(rows.tolist())
    results = []
    for source in (log_folder, path):
        main([str(source), "--reference", str(reference), "--out", str(tmp_path / "out")])
        results.append(json.loads((tmp_path / "out" / "transfer.json").read_text())["cells"])
    for one, other in zip(*results, strict=True):
        assert one["r_mean"] == pytest.approx(other["r_mean"], abs=1e-6)
        assert one["lag_flexion_ms"] == pytest.approx(other["lag_flexion_ms"], abs=1e-3)


def test_only_assisted_steady_walking_counts(log_folder, rows):
    log = read_log(log_folder)
    conditions = Conditions.read(log_folder / "conditions.csv")
    trials = steady_trials(log, conditions)
    assert [trial.command_speed_m_s for trial in trials] == pytest.approx(SPEEDS)
    # Five seconds after each change of speed are left out.
    assert trials[1].time_s[0] == pytest.approx(100.0 + SECONDS + 5.0, abs=0.02)
    stopped = dict(log.columns)
    stopped["stage"] = np.where(log.columns["device_time_us"] * 1e-6 < 100.0 + SECONDS, 8.0, stopped["stage"])
    only_second = steady_trials(dataclasses.replace(log, columns=stopped), conditions)
    assert [trial.command_speed_m_s for trial in only_second] == pytest.approx(SPEEDS[1:])


def test_a_loop_knows_what_it_asked_a_virtual_wearer_for(tmp_path, log_folder, reference, rows):
    names = [*rows.dtype.names, "host_time_s"]
    columns = [{"name": name, "code": "d" if name == "host_time_s" else CODES.get(name, "f")} for name in names]
    header = json.loads((log_folder / "header.json").read_text()) | {"columns": columns}
    (log_folder / "header.json").write_text(json.dumps(header))
    wider = np.zeros(rows.size, [*((name, rows.dtype[name]) for name in rows.dtype.names), ("host_time_s", "<f8")])
    for name in rows.dtype.names:
        wider[name] = rows[name]
    wider["host_time_s"] = 5000.0 + rows["device_time_us"] * 1e-6
    (log_folder / "rows.bin").write_bytes(wider.tobytes())
    (log_folder / "conditions.csv").unlink()
    asked = [("STAND", 0.0), ("WALK", 0.8), ("WALK", 1.2)]
    events = [
        {"time_s": 5100.0 + max(0, i - 1) * SECONDS, "kind": "request", "request": name, "value": speed, "second": 0.0}
        for i, (name, speed) in enumerate(asked)
    ]
    lines = [json.dumps(event) for event in [{"time_s": 1.0, "kind": "stage"}, *events]]
    (log_folder / "events.jsonl").write_text("\n".join(lines) + '\n{"time_s": 5')
    assert main([str(log_folder), "--reference", str(reference), "--out", str(tmp_path / "out")]) == 0
    cells = json.loads((tmp_path / "out" / "transfer.json").read_text())["cells"]
    assert [cell["speed_m_s"] for cell in cells] == pytest.approx(SPEEDS)


def test_nobody_walks_where_the_conditions_have_no_speed(log_folder):
    path = log_folder / "conditions.csv"
    path.write_text("device_time_s,speed_m_s,slope_deg\n100,0.8,0\n106,,\n108.5,0.8,0\n116,1.2,4\n")
    trials = steady_trials(read_log(log_folder), Conditions.read(path), settle_s=0.5)
    assert [trial.time_s[0] for trial in trials] == pytest.approx([100.5, 109.0, 116.5], abs=0.02)
    assert trials[0].time_s[-1] == pytest.approx(106.0, abs=0.02)
    assert np.rad2deg(trials[2].slope_rad) == pytest.approx(4.0)
    path.write_text("device_time_s,speed_m_s,slope_deg\n100,0.8,0\n,1.2,0\n")
    with pytest.raises(UserError, match="device_time_s must be known in every line"):
        Conditions.read(path)


def test_a_persons_own_csv_is_cut_by_a_conditions_file(tmp_path, reference):
    first, second = (walker_at(speed) for speed in SPEEDS)
    joined = {
        name: np.concatenate([getattr(first, name), getattr(second, name)])
        for name in ("thigh_gyro_rad_s", "exo_torque_nm_kg")
    }
    time_s = np.arange(len(joined["exo_torque_nm_kg"])) * 0.01
    own = Recording(time_s=time_s, body_mass_kg=MASS_KG, **joined)
    write_csv(tmp_path / "own.csv", own)
    (tmp_path / "speeds.csv").write_text(f"time_s,speed_m_s,slope_deg\n0,0.8,0\n{time_s.size * 0.005},1.2,0\n")
    usual = [str(tmp_path / "own.csv"), "--reference", str(reference), "--out", str(tmp_path / "out")]
    main([*usual, "--conditions", str(tmp_path / "speeds.csv")])
    cells = json.loads((tmp_path / "out" / "transfer.json").read_text())["cells"]
    assert [cell["speed_m_s"] for cell in cells] == pytest.approx(SPEEDS)
    assert all(cell["r_mean"] > 0.99 for cell in cells)


def test_a_lost_second_cuts_a_trial_in_two(log_folder):
    log = read_log(log_folder)
    time = log.columns["device_time_us"] * 1e-6
    keep = (time < 107.0) | (time > 108.0)
    cut = dataclasses.replace(log, columns={name: values[keep] for name, values in log.columns.items()})
    trials = steady_trials(cut, Conditions.constant(0.8, 0.0), settle_s=0.5)
    assert [trial.time_s[0] for trial in trials] == pytest.approx([100.5, 108.5], abs=0.03)


def test_a_persons_own_csv_against_itself_is_perfect(tmp_path, reference):
    write_csv(tmp_path / "own.csv", walker_at(1.2))
    main([str(tmp_path / "own.csv"), "--reference", str(reference), "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "transfer.json").read_text())
    assert found["stride_start"] == "force"
    (cell,) = found["cells"]
    assert cell["r_mean"] == pytest.approx(1.0, abs=1e-3)
    assert cell["rmse_mean_nm_kg"] < 2e-3
    assert cell["amplitude_ratio"] == pytest.approx(1.0, abs=0.01)


def test_written_profiles_serve_as_a_reference(tmp_path, log_folder, reference):
    main([str(log_folder), "--reference", str(reference), "--out", str(tmp_path / "first")])
    profiles = tmp_path / "first" / "profiles.csv"
    main([str(log_folder), "--reference", str(profiles), "--out", str(tmp_path / "second")])
    found = json.loads((tmp_path / "second" / "transfer.json").read_text())
    assert found["notes"] == []
    for cell in found["cells"]:
        assert cell["r_mean"] == pytest.approx(1.0, abs=1e-3)
        assert cell["rmse_mean_nm_kg"] < 1e-3


def test_a_heel_strike_profile_against_gyroscopes_is_noted(tmp_path, log_folder):
    walker = walker_at(0.8)
    percent = np.arange(0, 101, 4)
    torque = np.interp(percent / 100 * 1.1 * np.sqrt(1.25 / 0.8) + 0.3, walker.time_s, walker.exo_torque_nm_kg[:, 0])
    lines = "\n".join(f"{p},{t}" for p, t in zip(percent, torque, strict=True))
    (tmp_path / "profile.csv").write_text(f"# speed_m_s = 0.8\npercent,torque_nm_kg\n{lines}\n")
    main([str(log_folder), "--reference", str(tmp_path / "profile.csv"), "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "transfer.json").read_text())
    assert "a few percent" in found["notes"][0]
    assert "no such speed and slope: 1.2 m/s" in found["notes"][1]
    assert found["cells"][0]["r_mean"] > 0.9


def test_without_a_reference_there_are_profiles(tmp_path, log_folder, capsys):
    assert main([str(log_folder), "--out", str(tmp_path / "out")]) == 0
    assert "nothing to compare with" in capsys.readouterr().out
    assert (tmp_path / "out" / "profiles.csv").is_file()


def test_mistakes_are_named(tmp_path, log_folder, reference):
    out = ["--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match="no such file or folder"):
        main([str(tmp_path / "absent"), *out])
    (log_folder / "conditions.csv").unlink()
    with pytest.raises(UserError, match="speed and slope unknown"):
        main([str(log_folder), *out])
    with pytest.raises(UserError, match="no column measured_r"):
        main([str(log_folder), "--speed-m-s", "1.0", "--signal", "measured", *out])
    with pytest.raises(UserError, match=r"reference_bad\.csv: no column percent"):
        (tmp_path / "reference_bad.csv").write_text("angle\n1\n")
        main([str(log_folder), "--speed-m-s", "1", "--reference", str(tmp_path / "reference_bad.csv"), *out])
    (log_folder / "rows.bin").write_bytes(b"")
    with pytest.raises(UserError, match="the log has no rows"):
        main([str(log_folder), "--speed-m-s", "1.0", *out])
    assert not (tmp_path / "out").exists()


def test_the_grid_is_walked_so_that_one_thing_changes_at_a_time():
    cells = transfer_grid.grid(transfer_grid.span("0.8:1.6:0.2", "--speeds"), transfer_grid.span("-4:4:4", "--slopes"))
    assert len(set(cells)) == 15 and cells[0] == (0.8, 0.0)
    assert all((a[0] == b[0]) != (a[1] == b[1]) for a, b in itertools.pairwise(cells))
    legs = parse_walk(transfer_grid.walk_plan(cells, 20.0))
    np.testing.assert_allclose([leg[:2] for leg in legs], np.array(cells) * [1.0, np.pi / 180.0])
    assert {leg[2] for leg in legs[1:-1]} == {20.0} and legs[0][2] > 20.0 and legs[-1][2] == np.inf
    assert transfer_grid.walk_plan([(1.25, -4.0)], 20.0) == "1.25@-4"
    assert transfer_grid.there_and_back(cells[:2], 3) == [*cells[:2], *cells[1::-1], *cells[:2]]
    for text in ("fast", "1:2", "1:2:0", "2:1:0.5", "0:1:nan"):
        with pytest.raises(UserError, match="neither a number nor A:B:STEP"):
            transfer_grid.span(text, "--speeds")


def test_the_bars_of_the_grid_say_what_was_missed():
    device = {"falls": 0, "late_ticks": 1, "ticks": 5000, "worst_late_ms": 12.0}
    cells = [{"r_mean": 0.96}, {"r_mean": 0.96}]
    mean = {"r_mean": {"mean": 0.96}, "rmse_mean_nm_kg": {"mean": 0.019}}
    found = {"body": "myolegs26", "device": device, "cells": cells, "mean": mean, "loop": {"faults": []}}
    assert all(transfer_grid.judge(found, 2)["bars"].values())
    for change in (
        {"mean": mean | {"r_mean": {"mean": 0.94}}},
        {"mean": mean | {"rmse_mean_nm_kg": {"mean": 0.021}}},
        {"mean": {}},
        {"device": device | {"falls": 1}},
        {"device": device | {"late_ticks": 50}},
        {"loop": {"faults": ["held up"]}},
        {"cells": cells[:1]},
    ):
        missed = [words for words, met in transfer_grid.judge(found | change, 2)["bars"].items() if not met]
        assert len(missed) == (2 if change.get("mean") == {} else 1), missed
    published = found | {"body": "published", "mean": mean | {"r_mean": {"mean": 0.91}}}
    assert all(transfer_grid.judge(published, 2)["bars"].values())
