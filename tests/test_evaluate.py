"""The evaluation command: what it refuses, what it counts, that it goes on where it was stopped, and what it writes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mjx_exo import evaluate
from mjx_exo.errors import UserError
from mjx_exo.evaluation import bars, checks, courses, grid, sections
from mjx_exo.evaluation.batch import batch_size
from mjx_exo.evaluation.store import CellStore, Walked
from mjx_exo.gait.example import normal_walking
from mjx_exo.gait.metrics import SUMMARY_KEYS, Condition, summarise
from mjx_exo.teacher import load_teacher
from mjx_exo.walking.rollout import Trials

DT_S = 0.02


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--speeds", "0.6:9:0.2"], r"--speeds holds 2\.6 m/s; allowed: 0\.3 to 2\.5"),
        (["--speeds", "0,1.2"], r"--speeds holds 0 m/s"),
        (["--slopes=-20,0"], r"--slopes holds -20 degrees; allowed: -15 to 15"),
        (["--speeds", "fast"], r"--speeds 'fast' is neither"),
        (["--speeds", "0.6:inf:0.2"], r"--speeds '0\.6:inf:0\.2' is neither"),
        (["--speeds", "0.5:1.5:0.001"], r"cells; at most 1000"),
        (["--trials", "0"], r"--trials is 0; allowed: 1 to 4096"),
        (["--seconds", "3"], r"--seconds is 3; allowed: 5 to 600"),
        (["--step-ms", "3"], r"--step-ms is 3; allowed"),
        (["--pacing", "-1"], r"--pacing is -1; allowed: 0 to 2"),
        (["--courses", "-1"], r"--courses is -1"),
        (["--wearer-mass", "53", "--wearers", "4"], r"--wearers draws people; --wearer-mass cannot be given as well"),
        (["--strength", "0.9", "--engine", "published"], r"--engine published is one body; --strength cannot"),
        (["--wearer-height", "0.9"], r"wearer height_m = 0\.9m is outside 1\.3 to 2\.2m"),
    ],
)
def test_numbers_beyond_reason_are_refused_in_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        evaluate.main(["teacher", *arguments])
    assert "\n" not in str(caught.value)


def test_a_mistake_ends_with_code_2_and_no_traceback():
    command = [sys.executable, "-m", "mjx_exo.evaluate", "teacher", "--slopes", "40"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parent.parent)
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0
    assert done.stderr.startswith("error: --slopes holds 40 degrees")


def test_an_unknown_policy_and_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="no policy in nobody"):
        evaluate.main(["nobody"])
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match=r"cannot be written .*--out"):
        evaluate.main(["teacher", "--out", str(blocked / "evaluation")])


# ---------------------------------------------------------------- the grid


def test_the_reference_is_walked_when_it_lies_within_the_grid():
    assert grid.grid_cells([1.0, 1.5], [-2.0, 2.0])[-1] == grid.REFERENCE
    assert grid.grid_cells([1.25], [0.0]) == [grid.REFERENCE]
    assert grid.grid_cells([0.6, 0.8], [0.0]) == [(0.6, 0.0), (0.8, 0.0)]
    assert grid.nearest([(1.4, 0.0), (1.25, 0.05), (1.2, 0.0)]) == (1.2, 0.0)


def test_batches_hold_whole_cells_and_waste_little():
    assert batch_size(64, 50, native=True) == 128
    assert batch_size(64, 3, native=True) == 128
    assert batch_size(500, 50, native=True) == 500
    assert batch_size(64, 49, native=False) == 64 * 13  # 49 cells in 4 groups


@pytest.fixture(scope="module")
def walker():
    return normal_walking(duration_s=8.0)


@pytest.fixture(scope="module")
def condition(walker):
    return summarise([walker], 1.25, 0.0)


class FakeBatch:
    """Two cells at once, two trials each."""

    size = 4

    def warm_up(self):
        """Nothing to compile."""


@pytest.fixture
def walked_groups(monkeypatch, walker):
    """Replaces the simulation by the norm walker; the cells of every group that was asked for."""
    groups = []

    def walk(batch, cells, trials, seconds, seed):
        if cells[0][0] == 9.9:
            raise KeyboardInterrupt
        groups.append((list(cells), seed))
        return [[walker] * trials for _ in cells]

    monkeypatch.setattr(grid, "walk_cells", walk)
    monkeypatch.setattr(checks, "walk_cells", walk)
    return groups


def test_a_report_goes_into_the_folder_of_its_policy_or_run():
    assert evaluate.report_folder(Path("runs/a/policy"), "evaluation") == Path("runs/a/evaluation")
    assert evaluate.report_folder(Path("policies/pretrained/walker"), "evaluation").parent.name == "walker"


def test_a_stopped_evaluation_goes_on_where_it_was(tmp_path, walked_groups):
    cells = [(1.0, 0.0), (1.2, 0.0), (9.9, 0.0), (1.4, 0.0)]
    said = []
    with pytest.raises(KeyboardInterrupt):
        grid.walk_grid(FakeBatch(), cells, 2, 8.0, 1, CellStore(tmp_path, {"trials": 2}, False), True, said.append)
    assert len(said) == 2
    assert "2/4" in said[1]
    assert "cells/min" in said[1]
    cells[2] = (1.3, 0.0)
    resumed = CellStore(tmp_path, {"trials": 2}, True)
    assert set(resumed.cells) == {(1.0, 0.0), (1.2, 0.0)}
    grid.walk_grid(FakeBatch(), cells, 2, 8.0, 1, resumed, True, said.append)
    assert walked_groups == [([(1.0, 0.0), (1.2, 0.0)], 1), ([(1.3, 0.0), (1.4, 0.0)], 2)]
    assert set(resumed.cells) == set(cells)
    assert (tmp_path / "speed_1_2_level.gif").is_file()
    resumed.finish()
    assert not resumed.path.exists()


def test_what_was_kept_comes_back_as_it_was(tmp_path, condition):
    cell = (1.25, 0.0)
    known = dataclasses.replace(condition, measures=condition.measures | {"nothing": math.nan})
    CellStore(tmp_path, {"seed": 1}, False).add(cell, Walked(known, "film"))
    with open(tmp_path / "cells.jsonl", "a") as file:
        file.write('{"speed_m_s": 1.4, "slo')  # killed while writing
    back = CellStore(tmp_path, {"seed": 1}, True).cells
    assert list(back) == [cell]
    assert back[cell].animation == "film"
    found = back[cell].condition
    assert found.measures["r_knee"] == condition.measures["r_knee"]
    assert math.isnan(found.measures["nothing"])
    for name, curve in condition.curves.items():
        np.testing.assert_allclose(found.curves[name].mean, curve.mean, rtol=1e-5)
        assert found.curves[name].strides == curve.strides
    with pytest.raises(UserError, match=r"walked with seed = 1, now it is 2"):
        CellStore(tmp_path, {"seed": 2}, True)
    assert CellStore(tmp_path, {"seed": 2}, False).left_over == 1


# ---------------------------------------------------------------- standing, walking, standing


def courses_of(timeline, commands, walked):
    """Trials that follow their commands exactly, changed by `walked` (velocity [T, N, 2], steps, fell)."""
    steps = round(timeline.end_s / DT_S)
    time = np.arange(1, steps + 1) * DT_S
    walks = (time > timeline.walk_from_s) & (time <= timeline.stop_from_s)
    velocity = np.zeros((steps, len(commands), 3))
    velocity[:, :, 0] = walks[:, None] * commands
    count, fell = np.full(len(commands), steps), np.zeros(len(commands), bool)
    walked(time, velocity, count, fell)
    series = {"qvel": velocity, "speed_command": walks[:, None] * commands, "slope": np.zeros((steps, len(commands)))}
    return Trials(DT_S, count, fell, series)


def test_transitions_are_judged_by_hand():
    timeline = courses.Timeline.of(1.9, 0.4)
    commands = np.array([1.2, 1.2, 1.2, 1.2, 1.2])

    def spoil(time, velocity, steps, fell):
        velocity[(time > 8) & (time < timeline.stop_from_s), 1, 0] = 1.05  # too slow
        velocity[time > timeline.end_s - 3.0, 2, 1] = 0.06  # drifts sideways at the end
        fell[3], steps[3] = True, 900
        velocity[time < 4.0, 4, 0] = -0.2  # steps back at first

    trials = courses_of(timeline, commands, spoil)
    judged = courses.judge(trials, timeline, commands, np.zeros(5))
    assert judged.success.tolist() == [True, False, False, False, True]
    assert judged.reached.tolist() == [True, False, True, False, True]
    assert judged.stood_after.tolist() == [True, True, False, False, True]
    assert judged.stood_before.tolist() == [True, True, True, True, False]
    summary = courses.transition_summary(judged, timeline)
    assert summary["success_share"] == 0.4
    assert summary["fall_free_share"] == 0.8
    assert summary["on_the_level"] == {"trials": 5, "success_share": 0.4}
    assert math.isnan(summary["on_slopes"]["success_share"])


def test_orders_stand_walk_and_stand_and_change_within_the_ranges():
    timeline = courses.Timeline.of(1.8, 0.4)
    speed, slope = courses.transition_orders(timeline, np.array([0.6, 1.8]), np.array([0.0, 0.1]))
    assert speed[0].tolist() == speed[-1].tolist() == [0.0, 0.0]
    assert speed.max(axis=0).tolist() == [0.6, 1.8]
    assert (slope == [0.0, 0.1]).all()
    ranges = courses.Ranges((0.6, 1.8), (-0.1, 0.1))
    speed, slope = courses.changing_orders(np.random.default_rng(0), ranges, 7)
    assert speed.shape == slope.shape == (60, 7)
    assert 0.6 <= speed.min() < speed.max() <= 1.8
    assert np.abs(slope).max() <= 0.1
    assert np.count_nonzero(np.diff(speed[:, 0])) == 7  # every 4 s of 30 s


def test_changing_commands_count_falls_and_the_lag_behind_the_command():
    timeline = courses.Timeline.of(1.9, 0.4)

    def slower(time, velocity, steps, fell):
        velocity[:, 0, 0] -= 0.1
        fell[1], steps[1] = True, 100

    trials = courses_of(timeline, np.array([1.2, 1.2]), slower)
    found = courses.changing_summary(trials, courses.Ranges((0.6, 1.9), (-0.1, 0.1)))
    assert found["fall_free_share"] == 0.5
    assert found["speed_error_m_s"] == pytest.approx(0.1, abs=0.03)


# ---------------------------------------------------------------- other bodies, other steps, demands


@pytest.fixture
def no_simulation(monkeypatch, walked_groups):
    made = []
    monkeypatch.setattr(checks, "Batch", lambda env, act, seconds: FakeBatch())
    return made, lambda count, seconds, **changes: made.append(changes) or (None, None)


def test_half_the_step_compares_the_same_trials(no_simulation):
    made, make = no_simulation
    found = checks.half_step(make, [(1.25, 0.0), (0.6, -0.1)], 4, 8.0, 0.001, 1, lambda line: None)
    assert [changes["physics_step_s"] for changes in made] == [0.001, 0.0005]
    assert found["worst_relative_change"] == 0.0
    assert found["within_bar"]
    assert [cell["slope_deg"] for cell in found["cells"]] == pytest.approx([0.0, math.degrees(-0.1)])
    assert [cell["pairs"] for cell in found["cells"]] == [4, 4]


def test_a_fall_at_one_step_leaves_the_trial_out_at_both(walker):
    fallen = dataclasses.replace(walker, fell=True)
    assert len(checks.paired([walker, fallen, walker], [walker, walker, fallen])) == 1
    slower = dataclasses.replace(walker, pelvis_position_m=0.9 * walker.pelvis_position_m)
    found = checks.compare([(walker, slower)] * 4, (1.25, 0.0))
    assert found["relative_change"]["speed_m_s"] == pytest.approx(-0.1)
    assert found["standard_error"]["speed_m_s"] == pytest.approx(0.0, abs=1e-9)
    assert checks.compare([], (1.25, 0.0))["relative_change"] == {}


def test_the_published_body_walks_beside_the_compiled_one(no_simulation):
    made, make = no_simulation
    found, conditions = checks.published_body(make, (1.25, 0.0), 2, 0.001, 1, lambda line: None)
    assert [changes.get("engine") for changes in made] == [None, "published"]
    assert all(changes["wearers"] == 1 for changes in made)
    assert found["difference"]["r_knee"] == 0.0
    assert [c.label for c in conditions] == ["compiled body", "published body"]


def test_a_body_without_a_published_counterpart_is_left_out():
    def make(count, seconds, **changes):
        raise UserError("no such body")

    found, conditions = checks.published_body(make, (1.25, 0.0), 2, 0.001, 1, lambda line: None)
    assert found == {"skipped": "no such body"}
    assert conditions == []


def test_one_person_can_be_asked_for_by_some_of_their_figures():
    teacher = load_teacher("walker")
    arguments = evaluate.parser().parse_args(["walker", "--wearer-mass", "53", "--strength", "0.9", "--seconds", "5"])
    env, _ = evaluate._walker(teacher, 4, arguments, 5.0)
    assert {(person.mass_kg, person.strength, person.passive) for person in env.engine.wearers} == {(53.0, 0.9, 1.0)}
    assert (
        "one person of 53.0 kg and 1.7" in sections.lead(teacher, arguments, evaluate.one_person(teacher, arguments))[0]
    )


def test_relative_changes_worked_by_hand():
    before = Condition(1.0, 0.0, 1, {"speed_m_s": 1.0, "r_hip": 0.8, "cot_J_kg_m": 0.0, "r_knee": math.nan})
    after = Condition(1.0, 0.0, 1, {"speed_m_s": 0.99, "r_hip": 0.82, "cot_J_kg_m": 0.1, "r_knee": 0.9})
    found = checks.relative_changes(before, after)
    assert found["speed_m_s"] == pytest.approx(-0.01)
    assert found["r_hip"] == pytest.approx(0.025)
    assert math.isnan(found["cot_J_kg_m"])
    assert "r_knee" not in found


def test_demands_know_the_worst_cell_and_what_is_missing(condition):
    worse = dataclasses.replace(condition, measures=condition.measures | {"fall_free_share": 0.9})
    uphill = dataclasses.replace(
        condition, slope_rad=0.1, measures=condition.measures | {"cot_J_kg_m": condition.measures["cot_J_kg_m"] + 1}
    )
    judged = {bar.name: bar for bar in bars.bars([worse, uphill], condition, {"skipped": "x"}, {"skipped": "x"})}
    assert not judged["trials without a fall, worst cell"].met
    assert judged["trials without a fall, worst cell"].found == 0.9
    assert judged["1.25 m/s, level: r_knee"].met
    assert judged["share of speeds at which uphill costs more than level"].met
    assert not any("standing" in name for name in judged)
    assert bars.Bar("x", math.nan, 0.0, 1.0).met is False


# ---------------------------------------------------------------- the committed policy


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The committed teacher, taken for one that was taught to stand, over two speeds at a coarse step."""
    from mjx_exo.cache import use_jax_cache
    from mjx_exo.teacher import load_teacher

    use_jax_cache()
    folder = tmp_path_factory.mktemp("evaluation")
    teacher = load_teacher("teacher")
    command = dataclasses.replace(teacher.config.walking.command, stand_share=0.1)
    walking = dataclasses.replace(teacher.config.walking, command=command, threads=1)
    teacher = dataclasses.replace(teacher, config=dataclasses.replace(teacher.config, walking=walking))
    arguments: argparse.Namespace = evaluate.parser().parse_args(
        ["teacher", "--speeds", "1.2,1.4", "--slopes", "0", "--trials", "4", "--seconds", "6", "--step-ms", "5",
         "--engine", "native", "--courses", "1", "--published", "0", "--pacing", "0.4"]
    )  # fmt: skip
    page = evaluate.evaluate(teacher, *evaluate.grid(arguments), arguments, folder)
    return page, json.loads((folder / "summary.json").read_text())


def test_the_report_of_the_committed_policy_has_everything(report):
    page, summary = report
    assert [cell["speed_command_m_s"] for cell in summary["cells"]] == [1.2, 1.4]
    for place in (*summary["cells"], summary["overall"], summary["reference"]):
        assert set(SUMMARY_KEYS) <= set(place)
    assert summary["reference"]["speed_command_m_s"] == 1.25
    assert summary["overall"]["fall_free_share"] > 0.5
    assert 0.03 > summary["overall"]["speed_error_m_s_worst"] >= summary["overall"]["speed_error_m_s"]
    walked = summary["cost"]["at_speed_m_s"]
    assert abs(walked - 1.2) < 0.1
    people_w_kg = 1.44 + 1.94 * walked**0.43 + 0.24 * walked**4  # Looney et al. 2019
    assert summary["cost"]["human_cot_J_kg_m"] == pytest.approx(people_w_kg / walked, abs=0.005)
    assert "stride_frequency_hz" in summary["by_construction"]
    assert summary["transitions"]["trials"] >= courses.FEWEST_TRIALS
    assert 0.0 <= summary["transitions"]["success_share"] <= 1.0
    assert summary["changing_commands"]["trials"] >= courses.FEWEST_TRIALS
    assert summary["changing_commands"]["fall_free_share"] > 0.3
    assert any(demand["name"].startswith("trials without a fall") for demand in summary["demands"])
    text = page.read_text(encoding="utf-8")
    assert "Who is too slow aims higher, at 0.4 of the error per second" in text
    for title in ("Demands", "Muscle timing", "What walking costs", "Standing, walking, standing", "Changing commands"):
        assert f"<h2>{title}</h2>" in text
    assert {p.stem for p in page.parent.glob("*.gif")} >= {"speed_1_2_level", "speed_1_25_level"}
    for picture in ("transitions", "changing_commands", "gait_curves", "against_speed", "cost_of_transport"):
        assert (page.parent / f"{picture}.png").is_file()
    assert not (page.parent / "cells.jsonl").exists()


def test_who_was_never_taught_to_stand_is_not_asked_to(monkeypatch):
    monkeypatch.setattr(courses, "changing_orders", None)
    found = courses.walk_courses(
        argparse.Namespace(env=argparse.Namespace(config=argparse.Namespace(command=argparse.Namespace(
            speed_rate_m_s2=0.4)))),
        courses.Ranges((1.25, 1.25), (0.0, 0.0)), 20, 1, stands=False,
    )  # fmt: skip
    assert "never taught to stand" in found.transitions["skipped"]
    assert "one speed" in found.changing["skipped"]
