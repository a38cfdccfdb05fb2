"""The script for a CUDA machine goes on where it stopped and says what is missing."""

from __future__ import annotations

import json
import sys
import time

import pytest

pytest.importorskip("jax")

from benchmarks import cuda_machine
from benchmarks.cuda_machine import REHEARSAL, Clock, Plan, Results, judged, parts_of, work
from mjx_exo.errors import UserError


@pytest.fixture
def on_a_machine(monkeypatch):
    """The script with its slow parts replaced; returns the names of those that ran."""
    ran: list[str] = []
    monkeypatch.setattr(cuda_machine, "check", lambda allow_cpu: {"warp": False})
    monkeypatch.setattr(cuda_machine, "parity", lambda body, i: ran.append(f"parity {body}") or {"air": 0.0})

    def throughput(body, implementation, batch, rounds):
        ran.append(f"{body} {batch}")
        if batch == 1024:
            raise MemoryError("too much")
        return {
            "muscles": 26, "implementation": implementation, "batch": batch, "physics_steps_per_second": 1.0,
            "first_call_s": 1.0,
        }  # fmt: skip

    monkeypatch.setattr(cuda_machine, "throughput", throughput)
    monkeypatch.setattr(cuda_machine, "start_together", lambda combinations: ran.append("compile"))
    monkeypatch.setattr(cuda_machine, "training_step", lambda body, n, rounds: ran.append(f"step {body} {n}") or {})
    monkeypatch.setattr(cuda_machine, "train", lambda plan, folder, seconds: ran.append("train") or {"meets_bar": True})
    monkeypatch.setattr(cuda_machine, "train_teacher", lambda plan, folder, seconds: ran.append("teacher") or {})
    return ran


def test_a_call_without_time_leaves_the_rest_for_the_next(on_a_machine, tmp_path):
    assert not work(Plan(), tmp_path, Clock(0.0), allow_cpu=True)
    assert on_a_machine == []
    assert work(Plan(), tmp_path, Clock(60.0), allow_cpu=True)
    assert len(on_a_machine) == 1 + 2 * 4 + 2 + 2 + 2 and "step myolegs 4096" in on_a_machine
    assert on_a_machine[0] == "compile" and on_a_machine[9:11] == ["train", "teacher"], (
        "what a GPU is needed for most comes first"
    )
    count = len(on_a_machine)
    assert work(Plan(), tmp_path, Clock(60.0), allow_cpu=True)
    assert len(on_a_machine) == count, "nothing is done twice"


def test_parts_can_be_asked_for_alone(on_a_machine, tmp_path):
    assert work(Plan(), tmp_path, Clock(60.0), allow_cpu=True, only="train quick,parity myolegs26")
    assert on_a_machine == ["train", "parity myolegs26"]
    with pytest.raises(UserError, match="--only trian is no part"):
        work(Plan(), tmp_path, Clock(60.0), allow_cpu=True, only="trian")


def test_engines_that_compile_side_by_side_leave_failures_for_later(monkeypatch):
    monkeypatch.setattr(cuda_machine, "started", lambda body, i, batch: 1 / 0)
    cuda_machine.start_together([("myolegs26", "jax", 8), ("myolegs26", "jax", 16)])


def test_a_part_that_fails_is_written_down_and_costs_no_other(on_a_machine, tmp_path):
    assert work(Plan(), tmp_path, Clock(60.0), allow_cpu=True)
    parts = json.loads((tmp_path / "results.json").read_text())
    assert parts["throughput myolegs jax 1024"] == {"failed": "MemoryError: too much"}
    assert parts["throughput myolegs jax 16384"]["batch"] == 16384
    assert parts["train quick"]["meets_bar"]


def test_warp_is_measured_only_where_it_is_installed(tmp_path):
    results = Results(tmp_path / "results.json")
    results.put("check", {"warp": True})
    assert "throughput myolegs warp 16384" in parts_of(Plan(), results)
    results.put("check", {"warp": False})
    assert not any("warp" in name for name in parts_of(Plan(), results))


def test_the_bar_is_that_of_a_laptop():
    good = {"fall_free_share": 1.0, "speed_mean_m_s": 1.2, "knee_swing_deg": 55.0, "alternating_share": 1.0}
    assert judged(good)["meets_bar"]
    for name, value in (("fall_free_share", 60 / 64), ("speed_mean_m_s", 1.1), ("knee_swing_deg", 35.0)):
        assert not judged(good | {name: value})["meets_bar"]


def test_a_machine_without_cuda_is_refused():
    with pytest.raises(UserError, match="no CUDA device"):
        cuda_machine.check(allow_cpu=False)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(cuda_machine, "NEEDED", ("numpy", "no_such_package", "no_such.part"))
    with pytest.raises(UserError, match="no_such_package, no_such"):
        cuda_machine.check(allow_cpu=True)


def test_a_folder_without_wheels_is_refused(tmp_path):
    with pytest.raises(UserError, match="no wheel there"):
        cuda_machine.install(tmp_path, tmp_path / "site")


def test_a_wheel_that_is_none_is_refused(tmp_path):
    (tmp_path / "broken-1.0-py3-none-any.whl").write_text("no wheel")
    with pytest.raises(UserError, match="pip cannot install them"):
        cuda_machine.install(tmp_path, tmp_path / "site")
    assert not (tmp_path / "site" / "installed.json").exists()


def test_training_is_stopped_in_time_and_resumed(tmp_path, monkeypatch):
    """A stand-in for the training command: the first call is stopped, the second finishes."""
    commands = []
    script = (
        "import json, pathlib, signal, sys, time\n"
        "folder = pathlib.Path(sys.argv[1]); resumed = (folder / 'config.json').exists()\n"
        "folder.mkdir(exist_ok=True); (folder / 'config.json').write_text('{}')\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))\n"
        "(folder / 'ready').touch()\n"
        "time.sleep(0 if resumed else 60)\n"
        "(folder / 'summary.json').write_text(json.dumps({'fall_free_share': 0.5, 'speed_mean_m_s': 1.2,"
        " 'knee_swing_deg': 50.0, 'alternating_share': 1.0}))\n"
    )
    real = cuda_machine.subprocess.Popen

    def popen(command):
        commands.append(command)
        process = real([sys.executable, "-c", script, str(tmp_path / "quick")])
        while not (tmp_path / "quick" / "ready").exists() and process.poll() is None:
            time.sleep(0.02)
        return process

    monkeypatch.setattr(cuda_machine.subprocess, "Popen", popen)
    assert cuda_machine.train(REHEARSAL, tmp_path / "quick", 0.5) is None
    summary = cuda_machine.train(REHEARSAL, tmp_path / "quick", 60.0)
    assert summary["meets_bar"] is False
    assert "--out" in commands[0] and "--resume" in commands[1]


def test_a_teacher_is_trained_stage_by_stage_over_several_calls(tmp_path, monkeypatch):
    """A stand-in for the training command: the second stage needs two calls; nothing finished is done again."""
    asked = []

    def run_training(folder, arguments, seconds):
        asked.append((folder.name, arguments))
        folder.mkdir(exist_ok=True)
        (folder / "summary.json").write_text('{"fall_free_share": 1.0}')
        return len(asked) != 2

    monkeypatch.setattr(cuda_machine, "run_training", run_training)
    assert cuda_machine.train_teacher(Plan(), tmp_path, 60.0) is None
    result = cuda_machine.train_teacher(Plan(), tmp_path, 60.0)
    assert [name for name, _ in asked] == ["upright", "walk", "walk", "assist"]
    for (name, arguments), before in zip([asked[0], asked[2], asked[3]], ("", "upright", "walk"), strict=True):
        assert arguments[arguments.index("--preset") + 1] == name
        assert ("--from" in arguments) == bool(before)
        if before:
            assert arguments[arguments.index("--from") + 1] == str(tmp_path / before)
        assert ("--no-check" in arguments) == (name != "assist"), "only the last stage is checked"
    assert "--ppo.actor.hidden" in asked[0][1] and "--ppo.actors.human.hidden" in asked[3][1]
    assert result["summary"] == {"fall_free_share": 1.0} and list(result["stages"]) == ["upright", "walk", "assist"]
