"""The training presets: complete configurations under a name."""

from __future__ import annotations

import dataclasses
import math

from mjx_exo.errors import UserError
from mjx_exo.learning.config import ActorConfig, PPOConfig
from mjx_exo.musculoskeletal.wearer import WearerRange
from mjx_exo.walking.config import LOOSE, REFINED, UPRIGHT_STRICT, CommandConfig, CurriculumConfig, WalkingConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training learns. Angles in radians, SI units."""

    seed: int = 0
    """Seed of everything random."""
    walking: WalkingConfig = dataclasses.field(default_factory=WalkingConfig)
    """The task: body, engine, commands, rewards, curriculum."""
    ppo: PPOConfig = dataclasses.field(default_factory=PPOConfig)
    """The learner."""


# The published bodies have next to no passive joint damping, and how much people have is not well known.
_ANY_PASSIVE = (0.3, 1.5)
_FAR = 0.99  # discount: 2 s ahead, so that a step counts that is needed for balance only after the next

QUICK = TrainConfig(
    walking=WalkingConfig(
        command=CommandConfig(push_n=30.0),
        curriculum=CurriculumConfig(start_episode_s=6.0, rise_updates=200),
    ),
    ppo=PPOConfig(total_steps=4_200_000, actor=ActorConfig()),
)

# Standing, and coming to stand, is learned together with the first steps, while the noise is loud. Keeping to the clock
# and to the speed weighs about as much as later: who walks slowly at first is slow to learn to walk faster.
UPRIGHT = dataclasses.replace(
    QUICK,
    walking=dataclasses.replace(
        QUICK.walking,
        wearers=16,
        wearer_range=WearerRange(passive=_ANY_PASSIVE),
        command=CommandConfig(speed_m_s=(0.5, 1.6), stand_share=0.3, retry_share=0.6, resample_s=4.0, push_n=15.0),
        curriculum=CurriculumConfig(start_episode_s=6.0, rise_updates=300, widen_updates=200),
        strict=UPRIGHT_STRICT,
    ),
    ppo=PPOConfig(total_steps=8_000_000),
)

WALK = TrainConfig(
    walking=WalkingConfig(
        wearers=16,
        wearer_range=WearerRange(passive=_ANY_PASSIVE),
        pacing_per_s=0.4,  # without it, walkers are up to 0.09 m/s too slow
        clock_freedom=0.03,  # with 0.2 the cadence went to 1.0 Hz at 1.25 m/s and toe-off to 67 %
        command=CommandConfig(
            speed_m_s=(0.5, 1.95),
            slope_rad=(-math.radians(7.0), math.radians(7.0)),
            stand_share=0.4,
            retry_share=0.6,
            resample_s=3.0,  # most falls are on the way from one command to another
            aside_m=0.8,  # or the line is left by 1.5 m within 20 s of walking, which no episode lasts
            push_n=15.0,  # whoever is pushed with 50 N walks in a crouch to be ready for it
        ),
        # Longer episodes are rare while most falls are tried again: with 8 s, commands were still half closed after 11
        # million steps, at 7.3 to 8.0 s.
        curriculum=CurriculumConfig(start_episode_s=7.0, rise_updates=500, widen_updates=150),
        loose=dataclasses.replace(LOOSE, speed=1.0, alive=0.2),
        strict=REFINED,
    ),
    # Little noise learns little, but ends best: of two trials of 15 s in each cell, a fifth fell after 0.12 to 0.06, an
    # eighth after 0.15 to 0.08, and fewer than a twentieth after some more steps at 0.06 with small updates.
    ppo=PPOConfig(total_steps=25_000_000, actor=ActorConfig(std_start=0.18, std_end=0.06, discount=_FAR)),
)

_DEVICE = "hip_3200g"
# What a torque does to a person shows within a quarter of a second; what comes later is noise to its device. With a
# steady person, 0.8 million steps of a study's device took 0.5 % off the metabolic rate at 0.985, and 3.3 % at 0.93.
EXO_DISCOUNT = 0.93
# The person gets used to the device's weight first, then the device learns on a steady person, then both learn.
WORN = dataclasses.replace(
    WALK,
    walking=dataclasses.replace(
        WALK.walking,
        device=_DEVICE,
        device_mode="worn",
        curriculum=CurriculumConfig(start_episode_s=0.0, rise_updates=1),
    ),
    ppo=PPOConfig(
        total_steps=6_000_000, actor=ActorConfig(std_start=0.15, std_end=0.1, learning_rate=1e-4, discount=_FAR)
    ),
)
ASSIST = dataclasses.replace(
    WORN,
    walking=dataclasses.replace(WORN.walking, device_mode="active"),
    ppo=PPOConfig(
        total_steps=12_000_000,
        actors={
            "human": ActorConfig(
                std_start=0.1,
                std_end=0.07,
                std_floor_share=0.7,
                kl_target=0.006,  # larger updates with so little noise make a walker worse
                learning_rate=1e-4,
                discount=_FAR,
                learns_from=0.15,
                noise_falls_latest=0.0,
            ),
            # Quiet too soon, a device stays weak: smooth torque is rewarded, and noise is not smooth.
            "exo": ActorConfig(
                std_start=0.3,
                std_end=0.15,
                std_floor_share=0.8,
                kl_target=0.03,
                hidden=(128, 64),
                discount=EXO_DISCOUNT,
            ),
        },
    ),
)

PRESETS: dict[str, tuple[str, TrainConfig]] = {
    "quick": ("26 muscles, level ground, 1.25 m/s; minutes on a laptop", QUICK),
    "upright": ("standing and walking at 0.5 to 1.6 m/s on the level, many wearers; ten minutes on a laptop", UPRIGHT),
    "walk": (
        "standing, all speeds and slopes; start it with --from an upright run; half an hour on a laptop",
        WALK,
    ),
    "worn": ("stage 2, first part: the device's weight, motors off; start it with --from", WORN),
    "assist": ("stage 2: an active device, first on a steady person, then on one who adapts; with --from", ASSIST),
}


def preset(name: str) -> TrainConfig:
    """The configuration called `name`; `UserError` naming the known ones otherwise."""
    if name not in PRESETS:
        raise UserError(f"unknown preset '{name}'; known presets: {', '.join(PRESETS)}")
    return PRESETS[name][1]


def continued(config: TrainConfig) -> TrainConfig:
    """The configuration for somebody who can walk already.

    Rewards are strict from the first update on and stay so: who is allowed to walk carelessly for a while bends the
    knees and lands on the toes, and keeps that. There is little noise, commands open only as fast as they are
    mastered, and the value function comes first, because a policy that learns from a fresh one is thrown.
    """
    curriculum = dataclasses.replace(config.walking.curriculum, start_strictness=1.0, fall_back=0.0)
    actor = dataclasses.replace(
        config.ppo.actor,
        std_start=min(config.ppo.actor.std_start, 0.2),
        std_floor_share=0.7,
        kl_target=0.02,
        kl_target_end=0.005,
        learning_rate=1e-4,
        value_first=0.01,
        noise_falls_latest=0.0,
        noise_fall_share=0.7,
    )
    return dataclasses.replace(
        config,
        walking=dataclasses.replace(config.walking, curriculum=curriculum),
        ppo=dataclasses.replace(config.ppo, actor=actor),
    )


def identity(walking: WalkingConfig) -> dict[str, str]:
    """What a checkpoint belongs to: bodies and devices do not mix."""
    return {"body": walking.body, "device": walking.device, "device_mode": walking.device_mode}
