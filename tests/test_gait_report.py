"""Reports stand alone, figures are pictures, and data with holes in it still makes a report."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from mjx_exo.errors import UserError
from mjx_exo.gait import animation, charts, figures, time_charts
from mjx_exo.gait.__main__ import main
from mjx_exo.gait.cost import cost_summary, least_cost
from mjx_exo.gait.example import normal_walking
from mjx_exo.gait.metrics import summarise
from mjx_exo.gait.report import gait_report
from mjx_exo.gait.sticks import planar_points
from mjx_exo.gait.strides import find_strides


@pytest.fixture(scope="module")
def conditions():
    return [
        summarise([normal_walking(7.0, speed_m_s=v, slope_rad=np.deg2rad(s))], v, np.deg2rad(s))
        for v in (1.0, 1.25)
        for s in (0.0, 4.0)
    ]


def size_of(png: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(png)).size


def test_the_report_stands_alone(tmp_path, conditions):
    gif = animation.gif(normal_walking(3.0), duration_s=0.5)
    page = gait_report(tmp_path, "Walker <1>", conditions, ["lead"], ["stride_frequency_hz"], {"walk": gif})
    text = page.read_text(encoding="utf-8")
    assert "Walker &lt;1&gt;" in text
    sources = re.findall(r'src="([^"]{0,30})', text)
    assert len(sources) >= 8
    assert all(source.startswith("data:image/") for source in sources)
    assert "http" not in text
    assert "Fixed by construction, not found: stride_frequency_hz." in text
    for picture in tmp_path.glob("*.png"):
        assert min(size_of(picture.read_bytes())) > 200

    summary = json.loads((tmp_path / "summary.json").read_text())
    assert len(summary["cells"]) == 4
    assert summary["overall"]["r_hip"] > 0.99
    assert summary["by_construction"] == ["stride_frequency_hz"]
    with open(tmp_path / "curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 2 * 101
    peak = max(float(row["angle_knee_flexion_deg"]) for row in rows if row["side"] == "left")
    assert peak == pytest.approx(63.4, abs=0.2)
    with open(tmp_path / "measures.csv", newline="") as file:
        measures = {row["measure"] for row in csv.DictReader(file)}
    assert {"r_hip", "cot_J_kg_m", "vgrf_peak1_bw"} <= measures


def test_a_report_of_falls_only(tmp_path):
    fallen = summarise([dataclasses.replace(normal_walking(3.0), fell=True)], 1.25, 0.0)
    text = gait_report(tmp_path, "Fell", [fallen]).read_text(encoding="utf-8")
    assert "0.0%" in text
    assert json.loads((tmp_path / "summary.json").read_text())["cells"][0]["r_hip"] is None


def test_a_stick_figure_stands_on_the_ground_and_bends_the_right_way():
    names, points = planar_points(normal_walking(2.0))
    assert points[:, :, 2].min(axis=1) == pytest.approx(0.0, abs=1e-12)
    knee, hip, ankle = (points[:, names.index(f"{joint}_r")] for joint in ("knee", "hip", "ankle"))
    # A flexed knee lies in front of the line from hip to ankle.
    share = (hip[:, 2] - knee[:, 2]) / (hip[:, 2] - ankle[:, 2])
    line = hip[:, 0] + share * (ankle[:, 0] - hip[:, 0])
    assert (knee[:, 0] > line).all()


def test_animation_has_frames_for_its_time():
    gif = Image.open(io.BytesIO(animation.gif(normal_walking(3.0), 0.5, 1.0, frames_per_s=25.0)))
    assert gif.n_frames == pytest.approx(26, abs=1)
    assert gif.info["duration"] == 40


def test_nothing_to_draw_is_said():
    bare = dataclasses.replace(
        normal_walking(2.0), point_names=(), point_position_m=None, joint_names=(), joint_angle_rad=None,
        biological_moment_nm_kg=None, limit_moment_nm_kg=None,
    )  # fmt: skip
    with pytest.raises(UserError, match="no points and no hip, knee and ankle angles"):
        animation.gif(bare)


def test_strip_and_learning_curves_are_drawn(tmp_path):
    walker = normal_walking(4.0)
    assert min(size_of(figures.png(animation.stick_strip(walker, find_strides(walker)[0])))) > 150
    log = tmp_path / "progress.jsonl"
    log.write_text('{"steps": 1000, "reward": 0.1}\n{"steps": 2000, "reward": 0.3}\n{"steps": 30', encoding="utf-8")
    entries = charts.read_log(log)
    assert len(entries) == 2
    drawn = charts.learning_curves({"run": entries}, {"reward": "Reward", "absent": "Absent"})
    assert drawn.axes[0].lines[0].get_ydata().tolist() == [0.1, 0.3]
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match=r"empty\.jsonl: no line of JSON"):
        charts.read_log(tmp_path / "empty.jsonl")


def test_least_cost_of_a_parabola_and_at_the_end_of_the_range():
    speeds = [0.8, 1.8, 1.4, 1.0]  # 3 + 2 (v - 1.3)²
    found = least_cost(speeds, [3 + 2 * (v - 1.3) ** 2 for v in speeds])
    assert (found.speed_m_s, found.cost_J_kg_m) == pytest.approx((1.3, 3.0))
    assert found.inside
    falling = least_cost([1.0, 1.2, 1.4], [4.0, 3.5, 3.2])
    assert (falling.speed_m_s, falling.inside) == (1.4, False)
    assert least_cost([1.0, 1.2, 1.4], [4.0, np.nan, 3.2]) is None


def test_cost_and_courses_are_drawn():
    measured = summarise([normal_walking(6.0)], 1.25, 0.0)
    cells = [
        dataclasses.replace(
            measured,
            speed_m_s=v,
            slope_rad=slope,
            measures=measured.measures | {"speed_m_s": v, "cot_J_kg_m": 3 + (v - 1.3) ** 2 + 20 * slope},
        )
        for v in (0.8, 1.2, 1.6)
        for slope in (-0.05, 0.0, 0.05)
    ]
    assert cost_summary(cells)["least_cost_speed_m_s"] == pytest.approx(1.3)
    drawn = time_charts.cost_of_transport(cells)
    assert "least: 1.30 m/s" in drawn.axes[0].get_legend_handles_labels()[1]
    time = np.arange(100) / 50
    trial = time_charts.Course("falls", time, 0 * time + 1.2, time[:60] * 0 + 1.1, 0 * time, fell=True)
    labels = time_charts.courses([trial]).axes[0].get_legend_handles_labels()[1]
    assert labels == ["commanded", "walked", "fall"]


def test_the_command_judges_its_own_example(tmp_path, capsys):
    main(["--example", str(tmp_path / "example.csv")])
    assert main([str(tmp_path / "example.csv"), "--out", str(tmp_path / "report")]) == 0
    assert "hip 1.00, knee 1.00, ankle 1.00" in capsys.readouterr().out
    assert (tmp_path / "report" / "first_trial.gif").is_file()


def test_angles_without_contact_are_refused_in_words(tmp_path):
    path = tmp_path / "angles.csv"
    rows = "\n".join(f"{i / 100},{i % 30}" for i in range(300))
    path.write_text(f"# body_mass_kg = 70\ntime_s,knee_flexion_r_deg\n{rows}\n")
    with pytest.raises(UserError, match="strides need grf_vertical of both feet or thigh_gyro"):
        main([str(path), "--out", str(tmp_path / "report")])


def test_gyroscopes_and_angles_alone_make_a_report(tmp_path):
    walker = dataclasses.replace(normal_walking(8.0), ground_force_n=None, activation=None, muscle_names=(),
                                 muscle_groups=(), metabolic_power_w=None)  # fmt: skip
    found = summarise([walker], 1.25, 0.0)
    assert found.measures["r_knee"] > 0.95
    assert gait_report(tmp_path, "Gyro", [found]).is_file()
