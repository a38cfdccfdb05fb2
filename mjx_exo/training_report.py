"""What a training leaves behind: summary.json and pictures, from trials with the mean policy."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from mjx_exo.gait import charts, figures
from mjx_exo.gait.animation import stick_strip
from mjx_exo.gait.figures import png
from mjx_exo.gait.files import write_bytes, write_json
from mjx_exo.gait.metrics import summarise
from mjx_exo.gait.recording import Recording
from mjx_exo.gait.strides import find_strides
from mjx_exo.learning.checkpoint import Manifest
from mjx_exo.learning.policy_file import export_policy
from mjx_exo.learning.ppo import PPO, ActorState
from mjx_exo.learning.run_folder import versions
from mjx_exo.presets import TrainConfig, identity
from mjx_exo.walking.build import build_environment
from mjx_exo.walking.env import EnvState, WalkingEnv
from mjx_exo.walking.rollout import Act, Trials, run_trials, start_walking, to_recordings
from mjx_exo.walking.summary import walking_summary

TRIALS = 64
TRIAL_S = 10.0


def evaluation_env(config: TrainConfig, num_envs: int, trial_s: float, **changes: Any) -> WalkingEnv:
    """The task of a training without pushes, without standing and without a time limit inside a trial."""
    command = dataclasses.replace(
        config.walking.command, push_n=0.0, resample_s=0.0, stand_share=0.0, retry_share=0.0, aside_m=0.0
    )
    walking = dataclasses.replace(
        config.walking, num_envs=num_envs, episode_s=trial_s + 1.0, command=command, **changes
    )
    return build_environment(walking)


def mean_policy(ppo: PPO, actors: dict[str, ActorState]) -> Act:
    """Deterministic actions of trained actors."""

    def act(state: EnvState) -> dict[str, jax.Array]:
        return {name: ppo.mean_action(name, actor, state.observation[name]) for name, actor in actors.items()}

    return act


def check_walking(config: TrainConfig, env: WalkingEnv, actors: dict[str, ActorState], seed: int = 1) -> Trials:
    """Level trials at the middle of the commanded speeds, deterministic, starts spread over the gait cycle."""
    act = mean_policy(PPO(env, config.ppo), actors)
    speed = float(np.mean(config.walking.command.speed_m_s))
    state = start_walking(env, jax.random.key(seed), speed, 0.0)
    return run_trials(env, act, state, TRIAL_S)


def keep_policy(config: TrainConfig, env: WalkingEnv, result: Any, folder: Path, name: str = "policy") -> None:
    """Writes the run folder's policy/ (or `name`) from a training's result, finished or not, or from a moment of it.

    `env` has the training's actors.
    """
    settings = json.loads((folder / "config.json").read_text())["settings"]
    manifest = Manifest(
        identity(config.walking), settings, versions(), config.seed, result.updates, result.env_steps,
        result.wall_seconds,
    )  # fmt: skip
    export_policy(folder / name, PPO(env, config.ppo), result.state.actors, manifest)


def finish_run(config: TrainConfig, result: Any, folder: Path) -> dict[str, Any]:
    """Walks the trained policy, writes summary.json and the pictures into the run folder, returns the summary."""
    env = evaluation_env(config, TRIALS, TRIAL_S)
    keep_policy(config, env, result, folder)  # before the trials, which take a while: nobody should lose it to them
    trials = check_walking(config, env, result.state.actors)
    recordings = to_recordings(env, trials, label=folder.name)
    summary = walking_summary(trials, recordings) | {
        "speed_command_m_s": float(np.mean(config.walking.command.speed_m_s)),
        "env_steps": result.env_steps,
        "wall_seconds": round(result.wall_seconds, 1),
        "seed": config.seed,
        "body": config.walking.body,
    }
    write_json(folder / "summary.json", summary)
    draw_run(recordings, summary["speed_command_m_s"], folder)
    return summary


def draw_run(recordings: list[Recording], speed_m_s: float, folder: Path) -> None:
    """Writes walking.png (stick figures over a stride, joint angles on the norm band) and learning.png."""
    condition = summarise(recordings, speed_m_s, 0.0, label="after training")
    pictures = [png(figures.gait_curves(condition))]
    strides = [(r, s) for r in recordings if not r.fell for s in find_strides(r, skip_s=3.0)[:1]]
    if strides:
        pictures.insert(0, png(stick_strip(*strides[0])))
    write_bytes(folder / "walking.png", stacked(pictures))
    measures = {
        "episode_seconds": "episode, s",
        "speed_m_s": "speed, m/s",
        "human/return": "return of an episode",
        "strictness": "strictness of the reward",
        "human/std": "exploration noise",
        "activation_squared": "mean squared activation",
    }
    log = charts.read_log(folder / "log.jsonl")
    write_bytes(folder / "learning.png", png(charts.learning_curves({"training": log}, measures, x="env_steps")))


def stacked(pictures: list[bytes]) -> bytes:
    """PNG pictures one below the other, on white."""
    images = [Image.open(io.BytesIO(p)).convert("RGB") for p in pictures]
    sheet = Image.new("RGB", (max(i.width for i in images), sum(i.height for i in images)), "white")
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()
