"""Checkpoints, policy files and the run folder: what is kept, and what is said when something does not fit."""

import contextlib
import dataclasses
import errno
import io
import json
import os
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from mjx_exo.errors import UserError
from mjx_exo.learning import checkpoint as checkpoint_module
from mjx_exo.learning.checkpoint import Checkpoints, Manifest, flatten, load_actors
from mjx_exo.learning.nan_guard import NotFiniteError, replay
from mjx_exo.learning.policy_file import actor_from_policy, export_policy, load_policy
from mjx_exo.learning.ppo import PPO
from mjx_exo.learning.progress import PlainDisplay
from mjx_exo.learning.run_folder import RunFolder, RunLog
from mjx_exo.learning.state import TrainState
from mjx_exo.learning.trainer import Moment, RunOptions, TrainResult, train
from tests.toy_training import IDENTITY, toy_config, toy_env

SETTINGS = {"ppo": {"unroll": 8, "hidden": (16,)}, "seed": 3}
CONFIG = toy_config(updates=12)


def manifest(updates: int, **changes: object) -> Manifest:
    return dataclasses.replace(Manifest(IDENTITY, SETTINGS, {"jax": "0"}, 3, updates, 100 * updates, 1.5), **changes)


@pytest.fixture(scope="module")
def ppo() -> PPO:
    return PPO(toy_env(), CONFIG)


@pytest.fixture(scope="module")
def state(ppo: PPO) -> TrainState:
    return jax.jit(ppo.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run whose rewards are NaN from step 40 on, and what it said when it stopped."""
    folder = tmp_path_factory.mktemp("runs") / "poisoned"
    options = RunOptions(checkpoint_every_updates=2)
    with pytest.raises(NotFiniteError) as caught:
        train(toy_env(poison_at=40), CONFIG, folder, identity=IDENTITY, options=options)
    return folder, str(caught.value)


def one_line(caught: pytest.ExceptionInfo[UserError], *parts: str) -> None:
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


def test_the_whole_state_comes_back_bit_for_bit(ppo: PPO, state: TrainState, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, manifest(4))
    template = jax.eval_shape(ppo.init, jax.random.key(0))
    restored, stored = checkpoints.restore(template, IDENTITY, SETTINGS)
    assert stored == manifest(4, settings=checkpoint_module.as_json(SETTINGS))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    before, after = flatten(state), flatten(restored)
    assert sorted(before) == sorted(after)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_keys_and_empty_arrays_are_restored(tmp_path: Path) -> None:
    @struct.dataclass
    class Odd:
        keys: jax.Array
        nothing: jax.Array
        flag: jax.Array

    odd = Odd(jax.random.split(jax.random.key(7), 3), jnp.zeros((0, 3)), jnp.array(True))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(odd, manifest(1))
    restored, _ = checkpoints.restore(jax.eval_shape(lambda: odd), IDENTITY, SETTINGS)
    assert np.array_equal(jax.random.uniform(restored.keys[1]), jax.random.uniform(odd.keys[1]))
    assert restored.nothing.shape == (0, 3) and bool(restored.flag)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for updates in (1, 2, 3):
        checkpoints.save({"x": jnp.full(3, updates)}, manifest(updates))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]
    assert Checkpoints(tmp_path).latest() == 3


def test_a_half_written_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    saved = checkpoints.save({"x": jnp.arange(3)}, manifest(1))
    shutil.copytree(saved, tmp_path / "2.orbax-checkpoint-tmp-99")
    assert Checkpoints(tmp_path).latest() == 1


def test_another_body_version_or_setting_is_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"x": jnp.arange(3)}, manifest(1))
    template = {"x": jnp.arange(3)}

    with pytest.raises(UserError) as caught:
        checkpoints.restore(template, IDENTITY | {"body": "myolegs"}, SETTINGS)
    one_line(caught, "body 'toy'", "'myolegs'", str(tmp_path))

    with pytest.raises(UserError) as caught:
        checkpoints.restore(template, IDENTITY, SETTINGS | {"ppo": {"unroll": 16, "hidden": (16,)}})
    one_line(caught, "ppo.unroll was 8 and is 16")

    longer = SETTINGS | {"ppo": {"unroll": 16, "hidden": (16,)}}
    restored, _ = checkpoints.restore(template, IDENTITY, longer, free=("ppo.unroll",))
    assert np.array_equal(restored["x"], template["x"])

    checkpoints.save({"x": jnp.arange(3)}, manifest(2, format_version=99))
    with pytest.raises(UserError) as caught:
        checkpoints.restore(template, IDENTITY, SETTINGS)
    one_line(caught, "format version 99")


def test_arrays_that_do_not_fit_are_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"x": jnp.arange(3)}, manifest(1))
    with pytest.raises(UserError) as caught:
        checkpoints.restore({"x": jnp.arange(4)}, IDENTITY, SETTINGS)
    one_line(caught, "x in checkpoint", "[3]", "[4]")
    with pytest.raises(UserError) as caught:
        checkpoints.restore({"y": jnp.arange(3)}, IDENTITY, SETTINGS)
    one_line(caught, "no y")


def test_one_actor_can_be_taken_into_another_stage(ppo: PPO, state: TrainState, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, manifest(1))
    shapes = jax.eval_shape(ppo.init, jax.random.key(1)).actors
    human = load_actors(tmp_path, {"human": shapes["human"]}, {"body": "toy"})["human"]
    assert np.array_equal(human.policy_params["params"]["Dense_0"]["kernel"], _kernel(state))
    with pytest.raises(UserError) as caught:
        load_actors(tmp_path, {"human": shapes["human"]}, {"body": "myolegs"})
    one_line(caught, "body 'toy'")
    with pytest.raises(UserError) as caught:
        load_actors(tmp_path / "nowhere", shapes)
    one_line(caught, "nowhere")


def _kernel(state: TrainState) -> jax.Array:
    return state.actors["human"].policy_params["params"]["Dense_0"]["kernel"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("write: No space left on device [28]")]
)
def test_a_full_disk_is_one_line_and_harms_no_older_checkpoint(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"x": jnp.arange(3)}, manifest(1))

    def no_space(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(checkpoints._manager, "save", no_space)
    with pytest.raises(UserError) as caught:
        checkpoints.save({"x": jnp.arange(3)}, manifest(2))
    one_line(caught, "disk is full", str(tmp_path))
    assert Checkpoints(tmp_path).latest() == 1


def test_a_log_on_a_full_disk_is_one_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", resume=False)
    log = RunLog(folder, 0)
    log._lines.close()
    with contextlib.suppress(OSError), Path("/dev/full").open("w") as log._lines, pytest.raises(UserError) as caught:
        log.write({"env_steps": 1, "x": 2.0})  # closing fails as well: the line is still in the file's buffer
    one_line(caught, "disk is full", "log.jsonl")


def test_a_folder_that_cannot_be_written_or_is_taken(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught:
        RunFolder(tmp_path / "file" / "run", resume=False)
    one_line(caught, "cannot write", str(tmp_path / "file"))

    folder = RunFolder(tmp_path / "run", resume=False)
    with pytest.raises(UserError) as caught:
        RunFolder(tmp_path / "run", resume=False)
    one_line(caught, "another training")
    folder.close()

    folder.log.write_text("")
    with pytest.raises(UserError) as caught:
        RunFolder(tmp_path / "run", resume=False)
    one_line(caught, "already holds a run")
    with pytest.raises(UserError) as caught:
        RunFolder(tmp_path / "empty", resume=True)
    one_line(caught, "nothing to resume")


def test_a_log_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", resume=False)
    log = RunLog(folder, 0)
    for steps in (10, 20, 30):
        log.write({"env_steps": steps, "x": float("nan")})
    log.close()
    with folder.log.open("a") as file:
        file.write('{"env_steps": 4')
    log = RunLog(folder, 20)
    log.write({"env_steps": 30, "x": 1.0})
    log.close()
    rows = [json.loads(line) for line in folder.log.read_text().splitlines()]
    assert rows == [{"env_steps": 10, "x": None}, {"env_steps": 20, "x": None}, {"env_steps": 30, "x": 1.0}]


def test_a_policy_file_moved_alone_acts_the_same(ppo: PPO, state: TrainState, tmp_path: Path) -> None:
    export_policy(tmp_path / "made", ppo, state.actors, manifest(5))
    (tmp_path / "empty").mkdir()
    for name in ("policy.json", "policy.npz"):
        shutil.move(tmp_path / "made" / name, tmp_path / "empty" / name)
    policy = load_policy(tmp_path / "empty", IDENTITY)
    observation = jax.random.normal(jax.random.key(1), (9, 2))
    expected = ppo.mean_action("human", state.actors["human"], observation)
    assert policy.actors == ("exo", "human")
    np.testing.assert_array_equal(policy.act("human", observation), expected)
    np.testing.assert_allclose(jax.jit(policy.act, static_argnums=0)("human", observation), expected, rtol=1e-5)
    assert policy.description["env_steps"] == 500 and policy.description["control_dt_s"] == 0.1


def test_an_actor_that_knows_more_actions_starts_from_a_stored_policy(ppo, state, tmp_path):
    export_policy(tmp_path, ppo, state.actors, manifest(5))
    policy = load_policy(tmp_path)
    wider = toy_env()
    wider.actors = (dataclasses.replace(wider.actors[0], action_size=2), wider.actors[1])
    learner = PPO(wider, CONFIG)
    key = jax.random.key(4)
    actor = learner._init_actor(wider.actors[0], key, state.env)
    grown = actor_from_policy(actor, policy, "human")
    observation = jax.random.normal(key, (5, 2))
    after = np.asarray(learner.mean_action("human", grown, observation))
    np.testing.assert_allclose(after[:, :1], np.asarray(policy.act("human", observation)), atol=1e-6)
    assert after.shape == (5, 2) and not after[:, 1].any()
    before_it = actor_from_policy(actor, policy, "human", more_at=0)
    np.testing.assert_array_equal(np.asarray(learner.mean_action("human", before_it, observation)), after[:, ::-1])


def test_a_policy_file_that_does_not_fit_is_refused(ppo: PPO, state: TrainState, tmp_path: Path) -> None:
    export_policy(tmp_path, ppo, state.actors, manifest(5))
    with pytest.raises(UserError) as caught:
        load_policy(tmp_path, {"body": "myolegs"})
    one_line(caught, "policy", "body 'toy'")
    content = bytearray((tmp_path / "policy.npz").read_bytes())
    content[200] ^= 1
    (tmp_path / "policy.npz").write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_policy(tmp_path)
    one_line(caught, "damaged")
    (tmp_path / "policy.npz").unlink()
    with pytest.raises(UserError) as caught:
        load_policy(tmp_path)
    one_line(caught, "cannot read")


def test_a_nan_stops_the_run_and_can_be_seen_again(poisoned: tuple[Path, str]) -> None:
    folder, said = poisoned
    assert "update 6" in said and "human/reward" in said and "\n" not in said
    assert (folder / "checkpoints" / "4").is_dir()
    described = json.loads((folder / "not_finite" / "batch.json").read_text())
    assert described["actors/human/reward"]["first_not_finite"] == [0, 0]
    assert described["actors/exo/reward"]["not_finite"] == 0
    names, again = replay(folder / "not_finite", toy_env(poison_at=40), CONFIG)
    assert names[0] == "human/reward"
    assert again["actors/human/action"]["max"] == described["actors/human/action"]["max"]


def test_signals_and_hooks_end_a_run_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    said = io.StringIO()

    def run(resume: bool, signals: dict[int, int]) -> TrainResult:
        def hook(moment: Moment) -> str | None:
            if moment.updates in signals:
                os.kill(os.getpid(), signals[moment.updates])
            return "walks well enough" if moment.updates == 4 else None

        options = RunOptions(resume_command="toy resume")
        display = PlainDisplay(said)
        return train(toy_env(), CONFIG, folder, hooks=(hook,), resume=resume, options=options, display=display)

    for updates, number in ((2, signal.SIGINT), (3, signal.SIGTERM)):
        stopped = run(updates > 2, {updates: number})
        assert not stopped.finished and stopped.updates == updates
        assert stopped.reason == f"stopped by {number.name}" and Checkpoints(folder / "checkpoints").latest() == updates
    assert "compiling" in said.getvalue() and "go on with: toy resume" in said.getvalue()
    assert str(folder) in said.getvalue() and "steps/s" in said.getvalue()

    ended = run(True, {})
    assert ended.finished and ended.updates == 4 and ended.reason == "walks well enough"
    assert ended.wall_seconds > stopped.wall_seconds
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [row["updates"] for row in rows] == [1, 2, 3, 4]
    assert {"env_steps", "wall_seconds", "seconds/rollout", "seconds/update", "human/kl"} <= set(rows[0])
    assert list((folder / "tensorboard").glob("events*"))


def test_a_run_killed_before_its_first_checkpoint_starts_anew(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "log.jsonl").write_text('{"env_steps": 128, "updates": 1}\n')
    ended = train(toy_env(), CONFIG, tmp_path, resume=True, hooks=(lambda moment: "enough",))
    assert ended.updates == 1
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1


def test_a_checkpoint_without_its_manifest_is_named_in_one_line(tmp_path):
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "something").write_text("x")
    with pytest.raises(UserError, match=r"checkpoint .*5 is not whole") as caught:
        Checkpoints(tmp_path).read()
    assert "\n" not in str(caught.value)
