"""What a training leaves behind: summary.json and pictures, from trials with the mean policy."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mjx_exo.cache import write_atomically
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
    """The task of a training without pushes and without a time limit inside a trial."""
    command = dataclasses.replace(config.walking.command, push_n=0.0, resample_s=0.0)
    walking = dataclasses.replace(
        config.walking, num_envs=num_envs, episode_s=trial_s + 1.0, command=command, **changes
    )
    return build_environment(walking)


def mean_policy(ppo: PPO, actors: dict[str, ActorState]) -> Act:
    """Deterministic actions of trained actors."""

    def act(state: EnvState) -> dict[str, jax.Array]:
        return {name: ppo.mean_action(name, actor, state.observation[name]) for name, actor in actors.items()}

    return act


def check_walking(config: TrainConfig, actors: dict[str, ActorState], seed: int = 1) -> tuple[WalkingEnv, Trials]:
    """Level trials at the middle of the commanded speeds, deterministic, starts spread over the gait cycle."""
    env = evaluation_env(config, TRIALS, TRIAL_S)
    act = mean_policy(PPO(env, config.ppo), actors)
    speed = float(np.mean(config.walking.command.speed_m_s))
    state = start_walking(env, jax.random.key(seed), speed, 0.0)
    return env, run_trials(env, act, state, TRIAL_S)


def finish_run(config: TrainConfig, result: Any, folder: Path) -> dict[str, Any]:
    """Walks the trained policy, writes summary.json and the pictures into the run folder, returns the summary."""
    env, trials = check_walking(config, result.state.actors)
    recordings = to_recordings(env, trials, label=folder.name)
    summary = walking_summary(trials, recordings) | {
        "speed_command_m_s": float(np.mean(config.walking.command.speed_m_s)),
        "env_steps": result.env_steps,
        "wall_seconds": round(result.wall_seconds, 1),
        "seed": config.seed,
        "body": config.walking.body,
    }
    settings = json.loads((folder / "config.json").read_text())["settings"]
    manifest = Manifest(
        identity(config.walking), settings, versions(), config.seed, result.updates, result.env_steps,
        result.wall_seconds,
    )  # fmt: skip
    export_policy(folder / "policy", PPO(env, config.ppo), result.state.actors, manifest)
    text = json.dumps(summary, indent=2) + "\n"
    write_atomically(folder / "summary.json", lambda path: path.write_text(text))
    return summary
