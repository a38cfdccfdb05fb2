"""The benchmarks' own arithmetic, options and figures; their long runs are for whoever wants the numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("jax")

from benchmarks import ablation, compile_time, cuda_machine, env_throughput, parity, train_throughput
from benchmarks.common import Speeds, numbers, whole_numbers
from mjx_exo.errors import UserError, run_command


def took(*seconds):
    """Speeds of something that took so long, one number per round."""
    return Speeds(1.0 / np.array(seconds), 1.0 / np.array(seconds))


def test_the_parts_of_a_training_step_add_up_to_it():
    measured = {"rollout": took(6.0, 7.0), "update": took(3.0, 3.0), "walk": took(5.0, 6.0), "physics": took(4.0, 4.5)}
    native = train_throughput.seconds(measured | {"skeleton": took(3.0, 3.0)})
    np.testing.assert_allclose(native["whole"], [9.0, 10.0])
    np.testing.assert_allclose(sum(native[part] for part in train_throughput.PARTS), native["whole"])
    np.testing.assert_allclose([native["muscles"][0], native["environment"][0], native["inference"][0]], 1.0)
    mjx = train_throughput.seconds(measured | {"muscles": took(0.5, 0.5)})
    np.testing.assert_allclose(mjx["skeleton"], [3.5, 4.0])
    np.testing.assert_allclose(sum(mjx[part] for part in train_throughput.PARTS), mjx["whole"])


def test_figures_above_their_bar_are_named():
    good = dict.fromkeys(parity.BARS, 0.0) | {"contact_relative_p99_double": None}
    assert parity.above_bar(good) == []
    assert parity.above_bar(good | {"angle_deg_p95": 0.51}) == ["angle_deg_p95"]
    assert parity.above_bar(good | {"air_relative_max": float("nan")}) == ["air_relative_max"]


def test_the_figure_of_cost_is_drawn_for_any_choice_of_engines_bodies_and_batches(tmp_path):
    rows = [
        {"engine": engine, "physics_step_s": 0.005, "muscles": muscles, "batch": batch, "sim_seconds_per_second": 10.0}
        for engine in ("published", "native")
        for muscles in (26, 80)
        for batch in (64, 256)
    ]
    for name, some in (("all.png", rows), ("one.png", rows[:1])):
        env_throughput.draw(some, tmp_path / name)
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"


def test_waiting_times_are_told_apart(monkeypatch):
    from mjx_exo.learning.ppo import PPO
    from tests.toy_env import ToyEnv
    from tests.toy_training import toy_config

    monkeypatch.setattr(compile_time.jax, "clear_caches", lambda: None)
    first = compile_time.seconds_to_train(lambda: PPO(ToyEnv(num_envs=16), toy_config()))
    assert set(first) == {"build_s", "trace_s", "compile_rollout_s", "compile_update_s"}
    assert all(value > 0.0 for value in first.values())
    runs = iter((first, {"compile_rollout_s": 2.0, "build_s": 1.0}))
    monkeypatch.setattr(compile_time, "seconds_to_train", lambda build: next(runs))
    both = compile_time.measure(lambda: None)
    assert both | first == both and both["total_s"] == sum(first.values()) and both["again_s"] == 3.0
    assert 0.0 <= both["total_processor_s"] < 1.0 and 0.0 <= both["again_processor_s"] < 1.0


@pytest.mark.parametrize("text", ["", "a", "0", "4,-1", "nan"])
def test_lists_of_numbers_that_are_none(text):
    with pytest.raises(UserError, match="--batch"):
        numbers(text, "--batch")


def test_batches_are_whole():
    assert numbers("2.5,5", "--step-ms") == (2.5, 5.0) and whole_numbers("64, 256", "--batch") == (64, 256)
    with pytest.raises(UserError, match="whole numbers"):
        whole_numbers("64,2.5", "--batch")


@pytest.mark.parametrize(
    ("command", "arguments", "named"),
    [
        (env_throughput, ["--engines", "gazebo"], "native"),
        (env_throughput, ["--bodies", "torso"], "myolegs26"),
        (train_throughput, ["--engines", "published"], "native, mjx"),
        (train_throughput, ["--preset", "fast"], "quick"),
        (train_throughput, ["--rounds", "0"], "--rounds 0"),
        (compile_time, ["--batch", "0"], "--batch 0"),
        (parity, ["--impl", "torch"], "jax, warp"),
        (cuda_machine, ["--minutes", "0"], "--minutes 0"),
        (cuda_machine, [], "no CUDA device"),
    ],
)
def test_a_mistake_ends_in_one_line_and_exit_code_2(command, arguments, named, tmp_path, capsys, monkeypatch):
    if command is cuda_machine:
        arguments = [*arguments, "--out", str(tmp_path)]
        for name in ("MJX_EXO_CACHE_DIR", "XLA_PYTHON_CLIENT_PREALLOCATE"):
            monkeypatch.setenv(name, str(tmp_path))  # the script sets them for itself
    with pytest.raises(SystemExit) as stopped:
        run_command(lambda: command.main(arguments))
    lines = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and len(lines) == 1 and named in lines[0]
    assert not any(json.loads(file.read_text()) for file in tmp_path.glob("results.json"))


def test_an_ablation_repeats_no_finished_run_and_keeps_every_seed(tmp_path):
    for k, arm in enumerate(ablation.ARMS):
        for seed in (0, 4):
            folder = tmp_path / f"{arm.replace(', ', '-').replace(' ', '_')}-{seed}"
            folder.mkdir()
            found = dict.fromkeys((*ablation.FIGURES, "env_steps", "wall_seconds"), float(k + seed))
            if arm.startswith("raw muscles"):
                found["knee_swing_deg"] = None  # who falls at once takes no stride
            (folder / "summary.json").write_text(json.dumps(found))
            (folder / "config.json").write_text(json.dumps({"settings": {"ppo": {"total_steps": 30}}}))
            rows = [{"env_steps": n, **dict.fromkeys(ablation.CURVES, 0.1 * n + k)} for n in (10, 20, 30)]
            (folder / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    before = sorted(tmp_path.iterdir())
    assert ablation.main(["--out", str(tmp_path), "--seeds", "0,4", "--steps", "30"]) == 0
    rows = json.loads((tmp_path / "ablation.json").read_text())["rows"]
    assert [(row["seed"], row["fall_free_share"]) for row in rows[:4]] == [(0, 0.0), (4, 4.0), (0, 1.0), (4, 5.0)]
    assert (tmp_path / "ablation.png").read_bytes()[:4] == b"\x89PNG"
    assert set(tmp_path.iterdir()) - set(before) == {tmp_path / "ablation.json", tmp_path / "ablation.png"}
    with pytest.raises(UserError, match="30 steps, not --steps 60"):
        ablation.main(["--out", str(tmp_path), "--seeds", "0,4", "--steps", "60"])
    with pytest.raises(UserError, match="--seeds"):
        ablation.main(["--out", str(tmp_path), "--seeds", "0,-1"])
