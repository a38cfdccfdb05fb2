"""What a walking task consists of, as typed and frozen configuration."""

from __future__ import annotations

import dataclasses
from typing import Literal

from mjx_exo.musculoskeletal.wearer import WearerRange


@dataclasses.dataclass(frozen=True)
class RewardWeights:
    """Weights per control step of the human actor's reward terms (`rewards.py` defines the terms)."""

    speed: float = 0.45
    heading: float = 0.10
    upright: float = 0.10
    clock: float = 0.35
    alive: float = 0.05
    heel_first: float = 0.0
    effort: float = -0.5
    fatigue: float = 0.0
    maintenance: float = 0.0
    metabolic: float = 0.0
    limits: float = -0.001
    impact: float = -0.05
    loading: float = 0.0
    stretch: float = 0.0
    rotation: float = -0.01
    pitching: float = 0.0
    smoothness: float = -0.028
    hip_rotation: float = 0.0
    leg_clearance: float = 0.0
    toe_clearance: float = 0.0


LOOSE = RewardWeights()
# Maintenance heat keeps the first walk off a deep crouch; the stretch of the back of the knee keeps the knee a little
# bent.
STRICT = RewardWeights(
    effort=-5.0, maintenance=-0.5, limits=-0.01, impact=-0.3, loading=-2.0, stretch=-2.0, rotation=-0.03,
    smoothness=-0.05, hip_rotation=-0.3, leg_clearance=-0.3, toe_clearance=-0.3,
)  # fmt: skip
# Without the clock weighing about as much as the speed, the legs swing late: toe-off at 64 % of the cycle, the hip
# stretched to -19 degrees, the knee bent to 33 in loading. Heels down first, or the toes are. With speed worth less,
# people walk at 1.0 m/s when told 1.25. Who is to land heels first lands hard (1.4 body weights after 60 ms), unless
# impact and loading cost more than for those who land on their toes; then the knee bends to 30 degrees instead. Paying
# for metabolic energy as well took the cost of transport at 1.25 m/s from 5.2 to 4.2 J/kg/m in 30 million steps.
UPRIGHT_STRICT = dataclasses.replace(
    STRICT, speed=1.2, clock=1.0, alive=0.3, heel_first=0.3, impact=-0.6, stretch=-3.0,
)  # fmt: skip
# A clock of 2.5 made the feet land and leave in time, but the hip still turned 3 % of a cycle late, and the knee with
# it. Upright weighs little while walking and much while standing: with a sixth of it, people stood leaning back by 20
# degrees with bent knees, and fell.
REFINED = dataclasses.replace(
    UPRIGHT_STRICT, speed=3.0, heading=0.5, upright=0.6, clock=1.6, heel_first=2.0, effort=-6.0, maintenance=-0.8,
    metabolic=-0.2, limits=-0.015, impact=-5.0, loading=-6.0, stretch=-6.0, smoothness=-0.08, hip_rotation=-0.6,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class CommandConfig:
    """What the walker is asked to do."""

    speed_m_s: tuple[float, float] = (1.25, 1.25)  # range of commanded speeds
    slope_rad: tuple[float, float] = (0.0, 0.0)  # range of slopes, uphill positive
    stand_share: float = 0.0  # share of the commands that ask to stand still
    retry_share: float = 0.0  # share of the falls after which the same command is asked again
    resample_s: float = 0.0  # mean time between new commands in mid-episode; 0: only at the start
    speed_rate_m_s2: float = 0.4  # how fast a speed command may change
    slope_rate_rad_s: float = 0.05  # how fast the slope may change
    aside_m: float = 0.0  # starts are up to this far beside the line that is to be walked on
    push_n: float = 0.0  # largest push on the pelvis once training is strict
    push_every_s: float = 3.0  # mean time between pushes
    push_s: float = 0.2  # duration of a push

    @property
    def ranged(self) -> bool:
        """Whether there is a range of speeds or slopes to open."""
        return len({*self.speed_m_s}) > 1 or len({*self.slope_rad}) > 1


@dataclasses.dataclass(frozen=True)
class CurriculumConfig:
    """How the task hardens: strictness goes from 0 to 1 while the walker keeps its feet."""

    start_episode_s: float = 6.0  # strictness starts to rise when episodes last this long on average
    rise_updates: int = 250  # PPO updates from loose to strict
    start_strictness: float = 0.0  # from here: for somebody who can walk already, above 0
    widen_updates: int = 250  # PPO updates in which the ranges of the commands open
    fall_back: float = 0.5  # how fast strictness falls while episodes are short, relative to its rise


@dataclasses.dataclass(frozen=True)
class WalkingConfig:
    """One walking task. Angles in radians, SI units."""

    body: str = "myolegs26"
    engine: str = "auto"  # auto, native, mjx, published (the model the body was compiled from; slow, for comparison)
    num_envs: int = 256
    physics_step_s: float = 0.005
    control_dt_s: float = 0.02  # human decisions at 50 Hz
    episode_s: float = 10.0
    synergies: str = "published"  # published, raw
    excitation_rest: float = 0.05
    excitation_gain: float = 0.5
    pacing_per_s: float = 0.0  # how fast a walker that is too slow aims higher; 0: never
    clock_freedom: float = 0.0  # share by which the policy may bend the gait clock; 0: the clock is given
    muscle_freedom: float = 0.0  # excitation of a muscle group by itself, relative to a synergy's; 0: synergies alone
    device: str = ""  # device profile name or path; empty: no device
    device_mode: Literal["absent", "worn", "active"] = "absent"
    wearers: int = 1  # 1: the published body itself; more: drawn from `wearer_range`
    wearer_range: WearerRange = dataclasses.field(default_factory=WearerRange)
    wearer_seed: int = 0
    command: CommandConfig = CommandConfig()
    curriculum: CurriculumConfig = CurriculumConfig()
    loose: RewardWeights = LOOSE
    strict: RewardWeights = STRICT
    threads: int = 0  # native engine: worker threads, 0 for all cores
