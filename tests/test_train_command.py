"""`python -m mjx_exo.train`: bad input in one line, and a short real run from start to pictures."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from mjx_exo import train
from mjx_exo.config_files import train_config_from_dict
from mjx_exo.errors import UserError
from mjx_exo.learning.checkpoint import Manifest
from mjx_exo.learning.policy_file import export_policy, load_policy
from mjx_exo.learning.ppo import PPO
from mjx_exo.musculoskeletal.wearer import Wearer
from mjx_exo.presets import PRESETS, QUICK, identity
from mjx_exo.walking.build import build_environment


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--preset", "fast"], "quick"),
        (["--walking.bodi", "x"], "walking.bodi"),
        (["--walking.body", "myolegs99"], "myolegs26"),
        (["--walking.num-envs", "many"], "num-envs"),
        (["--walking.engine", "gazebo"], "native"),
        (["--walking.device", "nothing", "--walking.device-mode", "worn"], "nothing"),
        (["--resume", "no/such/run"], "no/such/run"),
        (["--from", "no/such/run"], "no/such/run"),
        (["--from", "walker"], "clock-freedom"),  # it bends the clock, which quick does not let it
        (["--preset", "walk", "--from", "walker", "--ppo.actor.hidden", "64", "32"], "actor.hidden"),
        (["--ppo.minibatches", "7"], "minibatches"),
        (["--processes", "2", "--process", "0"], "--coordinator is missing"),
        (["--coordinator", "host:1", "--processes", "2"], "--process is missing"),
        (["--coordinator", "host", "--processes", "2", "--process", "0"], "HOST:PORT"),
        (["--coordinator", "host:99999", "--processes", "2", "--process", "0"], "65535"),
        (["--coordinator", "host:1", "--processes", "two", "--process", "0"], "--processes two"),
        (["--coordinator", "host:1", "--processes", "2", "--process", "-1"], "--process -1"),
        (["--coordinator", "host:1", "--processes", "2", "--process", "2"], "process index 2"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(arguments, named, tmp_path):
    out = ["--out", str(tmp_path / "run")] if "--resume" not in arguments else []
    with pytest.raises(UserError, match=named) as caught:
        train.main([*arguments, *out])
    assert "\n" not in str(caught.value)


def test_several_processes_name_their_folder():
    with pytest.raises(UserError, match="--out"):
        train.main(["--coordinator", "host:1", "--processes", "2", "--process", "0"])


def test_a_synergy_file_is_kept_with_its_whole_path(tmp_path, monkeypatch):
    (tmp_path / "mine.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(train, "run", lambda config, *_, **__: asked.append(config.walking.synergies) or 0)
    for name in ("mine.json", "raw", "missing.json"):
        train.main(["--walking.synergies", name, "--out", "run"])
    assert asked == [str(tmp_path / "mine.json"), "raw", "missing.json"]


@pytest.mark.parametrize(
    ("engine", "shared"), [("mjx", {"environments": 2}), ("native", None), ("published", None), ("auto", None)]
)
def test_only_mjx_takes_several_devices(engine, shared, monkeypatch):
    import dataclasses

    import jax

    monkeypatch.setattr(jax, "devices", lambda *_: [jax.local_devices()[0]] * 2)
    walking = dataclasses.replace(QUICK.walking, engine=engine, num_envs=8)
    mesh = train.environment_mesh(dataclasses.replace(QUICK, walking=walking))
    assert (dict(mesh.shape) if mesh else None) == shared


@pytest.mark.parametrize("wearer", [{"mass_kg": -5.0}, {"mass_kg": 29.9}, {"mass_kg": 151.0}, {"height_m": 3.0}])
def test_a_wearer_nobody_is(wearer):
    with pytest.raises(UserError, match=next(iter(wearer))):
        Wearer(**wearer)


def test_every_preset_survives_its_own_json():
    import dataclasses

    for name, (_, config) in PRESETS.items():
        stored = json.loads(json.dumps(dataclasses.asdict(config)))
        assert train_config_from_dict(stored, name) == config


def test_help_names_presets_and_fields(capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for word in ("--preset", "--resume", "--walking.body", "--ppo.total-steps", "quick", "walk"):
        assert word in text


def test_a_stopped_run_leaves_a_policy_that_another_can_start_from(tmp_path, monkeypatch):
    from mjx_exo.learning import trainer
    from mjx_exo.teacher import is_unfinished, load_teacher

    sizes = ["--walking.num-envs", "16", "--ppo.total-steps", "1024", "--ppo.unroll", "16"]
    monkeypatch.setattr(trainer, "_stop_signals", lambda: contextlib.nullcontext(["SIGTERM"]))
    assert train.main(["--out", str(tmp_path / "stopped"), *sizes]) == 130
    assert load_teacher(tmp_path / "stopped").policy.description["env_steps"] == 256
    assert not (tmp_path / "stopped" / "summary.json").exists()
    written = load_teacher(tmp_path / "stopped").policy
    kept = (tmp_path / "stopped" / "policy").rename(tmp_path / "kept")  # a run that goes on has none yet
    assert is_unfinished(tmp_path / "stopped")
    so_far = load_teacher(tmp_path / "stopped", unfinished=True).policy
    assert so_far.description["env_steps"] == 256
    seen = jax.numpy.ones((2, written.description["actors"]["human"]["observation_size"]))
    np.testing.assert_array_equal(so_far.act("human", seen), written.act("human", seen))
    kept.rename(tmp_path / "stopped" / "policy")
    assert train.main(["--from", str(tmp_path / "stopped"), "--out", str(tmp_path / "next"), *sizes]) == 130


def test_a_short_run_leaves_summary_policy_and_pictures(tmp_path):
    folder = tmp_path / "run"
    code = train.main(
        ["--out", str(folder), "--walking.num-envs", "16", "--ppo.total-steps", "1024", "--ppo.unroll", "16"]
    )
    assert code == 0
    summary = json.loads((folder / "summary.json").read_text())
    wanted = {
        "fall_free_share", "episode_seconds_mean", "speed_mean_m_s", "knee_swing_deg", "env_steps", "wall_seconds",
    }  # fmt: skip
    assert wanted <= set(summary)
    assert summary["env_steps"] == 1024
    for name in ("walking.png", "learning.png", "policy/policy.json", "config.json", "log.jsonl"):
        assert (folder / name).stat().st_size > 0
    from mjx_exo.teacher import load_teacher

    teacher = load_teacher(folder)
    assert teacher.config.walking.body == QUICK.walking.body and teacher.policy.actors == ("human",)
    with pytest.raises(UserError, match="already holds a run"):
        train.main(["--out", str(folder)])


def test_who_learned_with_free_muscles_can_be_given_a_clock_to_bend(tmp_path: Path) -> None:
    """The clock's action stands before those of the muscles: it starts at zero and they stay what they were."""
    walking = dataclasses.replace(QUICK.walking, num_envs=2, threads=1, engine="native", muscle_freedom=0.5)
    before = dataclasses.replace(QUICK, walking=walking)
    learner = PPO(build_environment(walking), before.ppo)
    fresh = learner.init(jax.random.key(3)).actors
    settings = {**dataclasses.asdict(before), "seed": 0}
    export_policy(tmp_path, learner, fresh, Manifest(identity(walking), settings, {}, 0, 0, 0, 0.0))
    after = dataclasses.replace(before, walking=dataclasses.replace(walking, clock_freedom=0.03))
    env = build_environment(after.walking)
    actor = train.starting_actors(env, after, str(tmp_path))["human"]
    observation = jax.random.normal(jax.random.key(4), (3, env.actors[0].observation_size))
    found = np.asarray(PPO(env, after.ppo).mean_action("human", actor, observation))
    clock = env.human_actions.clock_column
    np.testing.assert_array_equal(found[:, clock], 0.0)
    expected = load_policy(tmp_path).act("human", observation)
    np.testing.assert_allclose(np.delete(found, clock, axis=1), expected, atol=1e-6)
