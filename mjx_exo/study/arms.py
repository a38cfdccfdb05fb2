"""The arms of a study and their training. What the human learns from, and how long, is the same in every arm.

From one trained walker per seed, every arm takes the same two steps of human learning: getting used to what is worn
(nothing, or the device with its motors off), then the arm itself. The device learns on a steady person in between;
nobody's human learns there. Strictness is full and every command is asked from the first update on, the noise of the
human is constant and its step size follows the updates alone, so neither reward nor schedule can drift apart with how
well an arm happens to walk.
`check_same_human` holds this on the configurations, those asked for and those stored.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mjx_exo.errors import UserError
from mjx_exo.learning.config import ActorConfig, PPOConfig, settings_hash
from mjx_exo.presets import EXO_DISCOUNT, TrainConfig, identity
from mjx_exo.walking.config import CommandConfig, CurriculumConfig
from mjx_exo.walking.reference_controllers import REFERENCE_CONTROLLERS

MAIN_ARMS = ("none", "worn", "assisted")
REFERENCE_ARMS = tuple(REFERENCE_CONTROLLERS)
HABITUATION_SHARE = 1.0 / 3.0  # of the budget; the rest is learnt in the arm itself
DEVICE_SHARE = 1.0 / 3.0  # of the budget: what the device learns on a steady person, on top of it
VALUE_SHARE = 1.0 / 3.0  # of the budget: a walker that comes as a policy alone learns what its walk is worth, on top
SEARCH_SHARE = 1.0 / 3.0  # of the budget: co-adaptation to all candidates of a reference controller at once
# What a person pays for effort here (`RewardWeights`), in every arm. A walker learns with −0.2 and −6, to keep its
# balance; a person who is to find out what a device is good for has to feel the effort. On one seed, with a device that
# sought power, people saved 3.5 % of the metabolic rate at −0.2 and −6; at −0.8 and −12, after 1.6 million steps more,
# 4.8 %. Not measured apart from those steps.
METABOLIC, EFFORT = -1.5, -12.0
# Exploration noise and step size of the human. At 0.06 and 4e-5, where a walker's learning ends, 1.7 million steps took
# 0.6 % off the metabolic rate without a device: too little to find out what a device is good for.
STD, LEARNING_RATE = 0.1, 1e-4
# In the second half of an arm's own training the policies' step sizes fall to zero: without that, people without a
# device and with it switched off changed their activation by 1.8 and 1.6 % in the last fifth (one seed).
RATE_FALL_SHARE = 0.5
# Everybody walks on, mostly: a walker that learns to stand, start and stop spends half of its commands on that.
SPEED_M_S, SLOPE_RAD = (0.6, 1.8), (math.radians(-5.0), math.radians(7.0))  # as far as the walker's own ranges go
STAND_SHARE, RETRY_SHARE, RESAMPLE_S = 0.15, 0.3, 5.0  # at most; at most; at least
# Exploration noise of the device: until the person adapts to it, and at the end. With 0.3 falling to 0.1 on a steady
# person, a device was at 1.2 Nm after 0.8 million steps; with 0.5 it was at 6.
EXO_STD, EXO_STD_END = 0.5, 0.15
_ARM_FIELDS = ("device", "device_mode")  # of a walking configuration: what an arm is


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one seed of a study trains."""

    base: TrainConfig
    """How the walker it starts from was trained: body, wearers, commands, rewards."""
    start: str
    """The walker's run folder, policy folder or name."""
    seed: int
    device: str
    budget: int
    """Environment steps in which the human learns, the same in every arm."""
    references: tuple[str, ...] = REFERENCE_ARMS
    num_envs: int = 0
    """Environments; 0: as the walker was trained with."""
    engine: str = "auto"
    value_function: bool = True
    """False for a walker that comes as a policy alone: whoever learns from a fresh value function is thrown by it."""

    @property
    def arms(self) -> tuple[str, ...]:
        """Every arm, in the order of reports."""
        return (*MAIN_ARMS, *self.references)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training. `start` names the stage it goes on from, "" the walker; `controller` a reference controller."""

    name: str
    start: str
    config: TrainConfig
    controller: str = ""
    search: bool = False

    @property
    def human_learns(self) -> bool:
        """False where the device learns on a steady person, or only the value function learns."""
        human = self.config.ppo.of("human")
        return not human.frozen and human.value_first < 1.0


def stages(plan: Plan) -> tuple[Stage, ...]:
    """Every training of a seed, each after the one it starts from."""
    used_to = {mode: f"habituation_{mode}" for mode in ("none", "worn")}
    habituation, own = plan.budget * HABITUATION_SHARE, plan.budget * (1.0 - HABITUATION_SHARE)
    listed, first = [], ""
    if not plan.value_function:
        first = "value_function"
        listed.append(Stage(first, "", _config(plan, "absent", plan.budget * VALUE_SHARE, 0, value_only=True)))
    listed += [
        Stage(used_to["none"], first, _config(plan, "absent", habituation, 1)),
        Stage(used_to["worn"], first, _config(plan, "worn", habituation, 1)),
        Stage("assisted_steady", used_to["worn"], _config(plan, "active", plan.budget * DEVICE_SHARE, 2, steady=True)),
        Stage("none", used_to["none"], _config(plan, "absent", own, 3, last=True)),
        Stage("worn", used_to["worn"], _config(plan, "worn", own, 3, last=True)),
        Stage("assisted", "assisted_steady", _config(plan, "active", own, 3, last=True)),
    ]
    for name in plan.references:
        search = _config(plan, "active", plan.budget * SEARCH_SHARE, 2)
        listed.append(Stage(f"{name}_search", used_to["worn"], search, name, search=True))
        listed.append(Stage(name, used_to["worn"], _config(plan, "active", own, 3, last=True), name))
    return tuple(listed)


def _config(
    plan: Plan,
    mode: str,
    steps: float,
    part: int,
    steady: bool = False,
    value_only: bool = False,
    last: bool = False,
) -> TrainConfig:
    base, falls = plan.base, RATE_FALL_SHARE if last else 0.0
    human = ActorConfig(
        hidden=base.ppo.of("human").hidden,
        discount=base.ppo.of("human").discount,
        learning_rate=LEARNING_RATE,
        learning_rate_bounds=(LEARNING_RATE, LEARNING_RATE),
        rate_fall_share=falls,
        std_start=STD,
        std_end=STD,
        std_floor_share=1.0,
        noise_falls_after_s=0.0,
        learns_from=1.0 if steady else 0.0,
        value_first=1.0 if value_only else 0.0,
    )
    exo = ActorConfig(
        hidden=(128, 64),
        discount=EXO_DISCOUNT,
        rate_fall_share=falls,
        std_start=EXO_STD,
        std_end=EXO_STD if steady else EXO_STD_END,
        std_floor_share=0.8,
        kl_target=0.03,
        learning_rate_bounds=(1e-5, 6e-3),  # small networks that start from nothing: 0.002 held them back
        noise_falls_after_s=0.0,
    )
    walking = dataclasses.replace(
        base.walking,
        engine=plan.engine,
        num_envs=plan.num_envs or base.walking.num_envs,
        device="" if mode == "absent" else plan.device,
        device_mode=mode,
        strict=dataclasses.replace(base.walking.strict, metabolic=METABOLIC, effort=EFFORT),
        command=_steady(base.walking.command),
        curriculum=CurriculumConfig(start_episode_s=0.0, rise_updates=1, widen_updates=1),
    )
    shared = {name: getattr(base.ppo, name) for name in ("unroll", "epochs", "minibatches")}
    ppo = PPOConfig(total_steps=max(1, round(steps)), actors={"human": human, "exo": exo}, **shared)
    return TrainConfig(seed=100 * plan.seed + part, walking=walking, ppo=ppo)


def _steady(command: CommandConfig) -> CommandConfig:
    """A walker's commands, narrowed to those of a study."""

    def inside(own: tuple[float, float], asked: tuple[float, float]) -> tuple[float, float]:
        low, high = max(own[0], asked[0]), min(own[1], asked[1])
        return (low, high) if low <= high else own

    return dataclasses.replace(
        command,
        speed_m_s=inside(command.speed_m_s, SPEED_M_S),
        slope_rad=inside(command.slope_rad, SLOPE_RAD),
        stand_share=min(command.stand_share, STAND_SHARE),
        retry_share=min(command.retry_share, RETRY_SHARE),
        resample_s=max(command.resample_s, RESAMPLE_S) if command.resample_s > 0.0 else 0.0,
    )


def human_settings(config: TrainConfig) -> dict[str, Any]:
    """Everything of a training that decides what its human learns, apart from what an arm is; plain JSON."""
    walking = dataclasses.asdict(config.walking)
    for name in (*_ARM_FIELDS, "engine", "threads"):
        del walking[name]
    ppo = dataclasses.asdict(config.ppo)
    del ppo["actors"], ppo["actor"]
    learnt = {
        "walking": walking,
        "ppo": ppo,
        "actor": dataclasses.asdict(config.ppo.of("human")),
        "updates": config.ppo.updates(config.walking.num_envs),
        "seed": config.seed,
    }
    return json.loads(json.dumps(learnt))


def chain(listed: Sequence[Stage], arm: str) -> tuple[Stage, ...]:
    """The trainings that lead from the walker to an arm, in their order."""
    by_name = {stage.name: stage for stage in listed}
    found = [by_name[arm]]
    while found[-1].start:
        found.append(by_name[found[-1].start])
    return tuple(reversed(found))


def check_same_human(schedules: Mapping[str, Sequence[TrainConfig]]) -> None:
    """Raises `UserError` naming the first thing in which the human's learning differs between arms.

    `schedules`: per arm the configurations of the trainings in which its human learns, in order.
    """
    arms = list(schedules)
    first = [dict(_dotted(human_settings(config))) for config in schedules[arms[0]]]
    for arm in arms[1:]:
        other = [dict(_dotted(human_settings(config))) for config in schedules[arm]]
        if len(other) != len(first):
            raise UserError(f"the human of {arm} learns in {len(other)} trainings, that of {arms[0]} in {len(first)}")
        for mine, theirs in zip(first, other, strict=True):
            for name in sorted({*mine, *theirs}):
                if mine.get(name) != theirs.get(name):
                    raise UserError(
                        f"{name} of the human is {theirs.get(name)} in arm {arm} and {mine.get(name)} in {arms[0]}; "
                        "arms that learn differently cannot be compared"
                    )


def _dotted(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(tree, Mapping):
        return [(prefix, tree)]
    return [leaf for k, v in tree.items() for leaf in _dotted(v, f"{prefix}.{k}" if prefix else str(k))]


def learning_of(listed: Sequence[Stage], arms: Sequence[str]) -> dict[str, list[TrainConfig]]:
    """Per arm the configurations of the trainings in which its human learns: what `check_same_human` takes."""
    return {arm: [stage.config for stage in chain(listed, arm) if stage.human_learns] for arm in arms}


class Stopped(Exception):
    """A signal ended a training; everything is saved."""


def train_seed(plan: Plan, folder: Path, resume: bool, say: Callable[[str], None], command: str = "") -> None:
    """Trains whatever of a seed is not trained yet, into folder/STAGE. Raises `Stopped` after a signal."""
    from mjx_exo.study import plateau
    from mjx_exo.teacher import load_teacher

    listed = stages(plan)
    check_same_human(learning_of(listed, plan.arms))
    walker = load_teacher(plan.start).policy.description["sha256"]
    for number, stage in enumerate(listed, start=1):
        start = str(folder / stage.start) if stage.start else plan.start
        parameters = None
        if stage.controller:
            from mjx_exo.study import tuning

            if stage.search:
                parameters = tuning.spread_candidates(stage.controller, stage.config.walking.num_envs)
            else:
                parameters = tuning.tuned(folder, stage.controller)
        say(f"seed {plan.seed}: training {number} of {len(listed)}, {stage.name}")
        origin = {"walker": walker, "human_learning": learning_hash(chain(listed, stage.name))}
        keep_at = plateau.update_before(chain(listed, stage.name)) if stage.name in plan.arms else 0
        train_stage(stage, parameters, folder / stage.name, start, origin, resume, command, keep_at)
        if stage.search:
            tuning.tune(stage, folder, say)
        if keep_at:
            plateau.measure(folder / stage.name, plan.seed, stage.name)


def learning_hash(trainings: Sequence[Stage]) -> str:
    """16 hex digits over everything that a human learns in a chain of trainings."""
    return settings_hash({"human": [human_settings(stage.config) for stage in trainings if stage.human_learns]})


def train_stage(
    stage: Stage,
    parameters: Any,
    folder: Path,
    start: str,
    origin: Mapping[str, str],
    resume: bool,
    command: str = "",
    keep_at: int = 0,
) -> None:
    """One training into `folder`, unless it is there already; leaves folder/policy/.

    `origin` is written down with the policy: the walker's hash and that of all the human has learnt since. The policy
    of update `keep_at` (0: none) is kept as well (`plateau.policy_before`). Raises `UserError` for a training that is
    there with other settings, or unfinished without `resume`.
    """
    from mjx_exo.learning.checkpoint import as_json, check_settings

    study = {
        "stage": stage.name,
        "controller": stage.controller,
        "parameters": parameters_as_dict(parameters),
        **origin,
    }
    settings = {"walking": dataclasses.asdict(stage.config.walking), "study": study}
    wanted = as_json({"ppo": dataclasses.asdict(stage.config.ppo), "seed": stage.config.seed, **settings})
    begun = (folder / "config.json").is_file()
    if (folder / "policy" / "policy.json").is_file():
        stored = json.loads((folder / "policy" / "policy.json").read_text())["settings"]
        check_settings(stored, wanted, folder)
        return
    if begun and not resume:
        raise UserError(f"{folder} holds a training that was not finished; go on with it with --resume")
    _train(stage, parameters, folder, start, settings, begun, command, keep_at)


def _train(
    stage: Stage,
    parameters: Any,
    folder: Path,
    start: str,
    settings: dict[str, Any],
    begun: bool,
    command: str,
    keep_at: int,
) -> None:
    from mjx_exo.learning import trainer
    from mjx_exo.study import plateau
    from mjx_exo.training_report import keep_policy
    from mjx_exo.walking.build import build_environment

    config, env = stage.config, build_environment(stage.config.walking)
    if stage.controller:
        from mjx_exo.controllers import ControlledEnv, ReferenceDriver

        env = ControlledEnv(env, ReferenceDriver(stage.controller, parameters))

    def keep(moment: trainer.Moment) -> None:
        if moment.updates == keep_at:
            keep_policy(config, env, moment, folder, plateau.policy_before(folder).name)

    has_checkpoint = begun and any((folder / "checkpoints").glob("[0-9]*"))
    result = trainer.train(
        env,
        config.ppo,
        folder,
        seed=config.seed,
        resume=begun,
        identity=identity(config.walking),
        settings=settings,
        initial_actors=None if has_checkpoint else starting_actors(env, config, start),
        hooks=[keep],
        options=trainer.RunOptions(resume_command=command),
    )
    if not result.finished:
        raise Stopped
    keep_policy(config, env, result, folder)


def starting_actors(env: Any, config: TrainConfig, start: str) -> dict[str, Any]:
    """The actors of the stage before, value functions included, with the step size and noise of this stage's schedule.

    A walker given as a policy alone brings no value function (`Plan.value_function`). Raises `UserError` for one
    without a human, or of another body.
    """
    import jax
    import jax.numpy as jnp

    from mjx_exo import train
    from mjx_exo.learning.checkpoint import load_actors
    from mjx_exo.learning.ppo import PPO
    from mjx_exo.teacher import load_teacher

    known = load_teacher(start).policy.actors
    if "human" not in known:
        raise UserError(f"{start} has no human actor; give a walker that python -m mjx_exo.train has trained")
    checkpoints = Path(start) / "checkpoints"
    if checkpoints.is_dir():
        shapes = jax.eval_shape(PPO(env, config.ppo).init, jax.random.key(0)).actors
        found = load_actors(checkpoints, {name: shape for name, shape in shapes.items() if name in known})
    else:
        found = train.starting_actors(env, config, start)
    return {
        name: actor.replace(learning_rate=jnp.float32(config.ppo.of(name).learning_rate), noise_fallen=jnp.float32(0.0))
        for name, actor in found.items()
    }


def parameters_as_dict(parameters: Any) -> dict[str, Any]:
    """A controller's parameters by name, arrays as lists; empty for None."""
    if parameters is None:
        return {}
    return {name: np.asarray(value, float).tolist() for name, value in parameters._asdict().items()}


def resume_command(argv: Sequence[str]) -> str:
    """What to type to go on with a study that was stopped."""
    rest = [word for word in argv if word != "--resume"]
    return f"python -m mjx_exo.study {shlex.join(rest)} --resume"
