"""The training presets: complete configurations under a name."""

from __future__ import annotations

import dataclasses
import math

from mjx_exo.errors import UserError
from mjx_exo.learning.config import ActorConfig, PPOConfig
from mjx_exo.walking.config import CommandConfig, CurriculumConfig, WalkingConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training learns. Angles in radians, SI units."""

    seed: int = 0
    """Seed of everything random."""
    walking: WalkingConfig = dataclasses.field(default_factory=WalkingConfig)
    """The task: body, engine, commands, rewards, curriculum."""
    ppo: PPOConfig = dataclasses.field(default_factory=PPOConfig)
    """The learner."""


QUICK = TrainConfig(
    walking=WalkingConfig(
        command=CommandConfig(push_n=30.0),
        curriculum=CurriculumConfig(start_episode_s=6.0, rise_updates=250),
    ),
    ppo=PPOConfig(total_steps=5_000_000, actor=ActorConfig()),
)

WALK = TrainConfig(
    walking=WalkingConfig(
        wearers=16,
        command=CommandConfig(
            speed_m_s=(0.6, 1.9),
            slope_rad=(-math.radians(7.0), math.radians(7.0)),
            resample_s=4.0,
            push_n=80.0,
        ),
        curriculum=CurriculumConfig(start_episode_s=7.0, rise_updates=800),
    ),
    ppo=PPOConfig(total_steps=30_000_000),
)

PRESETS: dict[str, tuple[str, TrainConfig]] = {
    "quick": ("26 muscles, level ground, 1.25 m/s; minutes on a laptop", QUICK),
    "walk": ("full range of speeds and slopes, many wearers; about an hour on a laptop", WALK),
}


def preset(name: str) -> TrainConfig:
    """The configuration called `name`; `UserError` naming the known ones otherwise."""
    if name not in PRESETS:
        raise UserError(f"unknown preset '{name}'; known presets: {', '.join(PRESETS)}")
    return PRESETS[name][1]
