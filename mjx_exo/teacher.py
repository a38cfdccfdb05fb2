"""A trained policy with the task it was trained for: what every later step of the chain starts from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from jax import Array

from mjx_exo.config_files import train_config_from_dict
from mjx_exo.errors import UserError
from mjx_exo.learning.checkpoint import CHECKPOINTS
from mjx_exo.learning.policy_file import Policy, load_policy, policy_so_far
from mjx_exo.musculoskeletal.wearer import Wearer, WearerRange
from mjx_exo.presets import TrainConfig
from mjx_exo.walking.build import build_environment
from mjx_exo.walking.config import CommandConfig
from mjx_exo.walking.env import EnvState, WalkingEnv

PRETRAINED = Path(__file__).resolve().parent.parent / "policies" / "pretrained"


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Policies of the human and, after stage 2, of the exoskeleton."""

    policy: Policy
    config: TrainConfig
    source: str

    @property
    def assists(self) -> bool:
        """True if there is an exoskeleton actor."""
        return "exo" in self.policy.actors

    def act(self, state: EnvState) -> dict[str, Array]:
        """Deterministic actions [N, action_size] of every actor that the state's environment has."""
        return {name: self.policy.act(name, state.observation[name]) for name in state.observation}

    def environment(self, num_envs: int, episode_s: float, human_only: bool = False, **changes: Any) -> WalkingEnv:
        """The task the teacher was trained for, without pushes and commands that change by themselves.

        `changes` replaces fields of its `WalkingConfig`; with `human_only` somebody else drives an active device.
        Raises `UserError` if an actor is needed that it lacks.
        """
        base = self.config.walking
        command = CommandConfig(speed_m_s=base.command.speed_m_s, slope_rad=base.command.slope_rad)
        settings = {"num_envs": num_envs, "episode_s": episode_s, "command": command, **changes}
        env = build_environment(dataclasses.replace(base, **settings))
        needed = [actor for actor in env.actors if actor.name == "human" or not human_only]
        missing = [actor.name for actor in needed if actor.name not in self.policy.actors]
        if missing:
            raise UserError(f"{self.source} has no {missing[0]} actor; train one with an active device first")
        for actor in needed:
            size = self.policy.description["actors"][actor.name]["observation_size"]
            if size != actor.observation_size:
                raise UserError(
                    f"{self.source}: its {actor.name} actor sees {size} numbers, body {env.engine.body.name} "
                    f"gives {actor.observation_size}; use the body it was trained on"
                )
        return env


def is_unfinished(path: str | Path) -> bool:
    """Whether `path` is the folder of a run that is still learning, was stopped, or ended without its check."""
    return (Path(path) / CHECKPOINTS).is_dir() and not (Path(path) / "summary.json").is_file()


def find_policy(path: str | Path) -> Path:
    """The policy folder meant by a run folder, a policy folder, or the name of a pretrained policy."""
    candidates = [Path(path) / "policy", Path(path), PRETRAINED / str(path)]
    for folder in candidates:
        if (folder / "policy.json").is_file():
            return folder
    known = sorted(p.parent.name for p in PRETRAINED.glob("*/policy.json"))
    raise UserError(f"no policy in {path}; give a finished run's folder or a pretrained one: {', '.join(known) or '-'}")


def load_teacher(path: str | Path, unfinished: bool = False) -> Teacher:
    """Loads a teacher from a run folder, a policy folder or by the name of a pretrained one.

    With `unfinished`, also from the folder of a run that goes on, as it was in its newest checkpoint.
    """
    if unfinished and is_unfinished(path):
        folder, policy = Path(path), policy_so_far(Path(path) / CHECKPOINTS)
    else:
        folder = find_policy(path)
        policy = load_policy(folder)
    return Teacher(policy, train_config_from_dict(policy.description["settings"], str(folder)), str(path))


def person_for(teacher: Teacher, mass_kg: float | None, height_m: float | None, strength: float) -> Wearer:
    """A person of whom only some figures are given; the rest is the published body's. Raises UserError."""
    from mjx_exo.musculoskeletal.compiled import compile_body
    from mjx_exo.musculoskeletal.skeleton import PUBLISHED_HEIGHT_M

    given = Wearer(mass_kg, height_m, strength)
    own_mass = compile_body(teacher.config.walking.body).mass_kg
    return dataclasses.replace(
        given,
        mass_kg=own_mass if mass_kg is None else mass_kg,
        height_m=PUBLISHED_HEIGHT_M if height_m is None else height_m,
    )


def alone(person: Wearer | None) -> dict[str, Any]:
    """The fields of a `WalkingConfig` with which exactly this person is drawn; None is the body as published."""
    if person is None:
        return {"wearers": 1}
    if person.mass_kg is None or person.height_m is None:
        raise ValueError("a person to walk needs both mass and height")
    index = person.mass_kg / person.height_m**2
    ranges = WearerRange(
        (person.height_m,) * 2, (index, index), (person.strength,) * 2, (person.friction,) * 2, (person.passive,) * 2
    )
    return {"wearers": 2, "wearer_range": ranges}
