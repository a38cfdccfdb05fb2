"""`python -m mjx_exo.train`: teaches a muscle-driven person to walk.

Examples:
  python -m mjx_exo.train --preset quick                 26 muscles, level ground, 1.25 m/s; minutes on a laptop
  python -m mjx_exo.train --preset walk --out runs/walk  full range of speeds and slopes
  python -m mjx_exo.train --resume runs/walk             go on where a run was stopped, killed or unplugged
  python -m mjx_exo.train --preset assist --from runs/walk   stage 2: the device, on a person who can walk
  python -m mjx_exo.train --preset walk --from walker --walking.body myolegs   80 muscles, from the walker of 26

With engine mjx all accelerators of the machine share the environments. For several machines or processes, start the
same command once each with --coordinator HOST:PORT --processes N --process I and the same --out on a shared disk.

The run folder holds the configuration, versions, log (JSON lines and TensorBoard), checkpoints of the whole state and,
at the end, summary.json and a picture. Ctrl-C ends a run cleanly; it can be resumed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from mjx_exo.errors import UserError, run_command

GROUP = ("--coordinator", "--processes", "--process")
"""Options of a training in several processes; all or none."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What was asked for besides the training itself."""

    preset: str
    out: Path | None
    resume: Path | None
    start: str | None
    group: tuple[str, int, int] | None
    """`host:port` of process 0, number of processes, index of this one; None if it is alone."""
    check: bool
    """Whether the trained policy walks its trials at the end."""
    rest: list[str]


def parse_request(argv: list[str]) -> Request:
    """Splits the arguments of `python -m mjx_exo.train` from those of the configuration."""
    parser = argparse.ArgumentParser(prog="mjx_exo.train", add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--from", dest="start")
    parser.add_argument("--no-check", action="store_true")
    for name in GROUP:
        parser.add_argument(name)
    known, rest = parser.parse_known_args(argv)
    group = _group(known.coordinator, known.processes, known.process)
    if group and not (known.out or known.resume):
        raise UserError("several processes share one run folder; name it with --out DIR or --resume DIR")
    return Request(known.preset, known.out, known.resume, known.start, group, not known.no_check, rest)


def _group(coordinator: str | None, processes: str | None, process: str | None) -> tuple[str, int, int] | None:
    """The three options of a training in several processes, checked; None if there are none."""
    given = dict(zip(GROUP, (coordinator, processes, process), strict=True))
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return None
    if missing:
        raise UserError(f"{missing[0]} is missing; several processes need {', '.join(GROUP)}")
    for name in GROUP[1:]:
        if not str(given[name]).isdecimal():
            raise UserError(f"{name} {given[name]} is not allowed; a whole number, processes counted from 0")
    host, _, port = str(coordinator).rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise UserError(f"--coordinator {coordinator} is not allowed; HOST:PORT of process 0, port 1 to 65535")
    return str(coordinator), int(str(processes)), int(str(process))


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    request = parse_request(argv)
    if request.group and not {"--help", "-h"} & set(request.rest):
        from mjx_exo.learning.parallel import join_processes

        join_processes(*request.group)
    from mjx_exo import command_line, presets

    if request.resume is not None:
        config = _stored_config(request.resume)
    else:
        config = presets.preset(request.preset)
        config = presets.continued(config) if request.start else config
    description = f"{__doc__}\n\nPresets: " + "; ".join(f"{k}: {v[0]}" for k, v in presets.PRESETS.items())
    if "--help" in request.rest or "-h" in request.rest:
        print("--preset NAME   configuration to start from: " + ", ".join(presets.PRESETS))
        print("--out DIR       run folder; default runs/PRESET-seedS-TIME")
        print("--resume DIR    go on with the run in DIR")
        print("--from RUN      start from the actors of a finished run, of a policy folder or of a pretrained policy;")
        print("                another body's walker with the same synergies is handed over (--walking.body myolegs)")
        print("--no-check      leave out the trials, summary.json and pictures at the end: for a stage before another")
        print("--coordinator HOST:PORT --processes N --process I   be number I (from 0) of N processes\n")
    given = config.walking.synergies
    config = command_line.parse(presets.TrainConfig, config, request.rest, "mjx_exo.train", description)
    if config.walking.synergies != given:
        config = _with_synergies_found(config)
    folder = request.resume or request.out or _default_folder(request.preset, config.seed)
    return run(config, folder, request.resume is not None, request.start, request.check)


def run(config: Any, folder: Path, resume: bool, start: str | None = None, check: bool = True) -> int:
    """Trains, checks and draws; returns 0, or 130 if the run was stopped and can be resumed.

    Without `check` the policy is all that a finished run leaves.
    """
    from mjx_exo import presets
    from mjx_exo.learning import trainer
    from mjx_exo.learning.parallel import leads
    from mjx_exo.walking.build import build_environment

    mesh = environment_mesh(config)
    if leads(mesh):
        shared = f", environments shared by {mesh.size} devices" if mesh else ""
        print(f"body {config.walking.body}: preparing (fitted once, then kept){shared}", flush=True)
    env = build_environment(config.walking, mesh)
    command = f"python -m mjx_exo.train --resume {shlex.quote(str(folder))}"
    result = trainer.train(
        env,
        config.ppo,
        folder,
        seed=config.seed,
        resume=resume,
        identity=presets.identity(config.walking),
        settings={"walking": dataclasses.asdict(config.walking)},
        initial_actors=starting_actors(env, config, start, mesh) if start and not resume else None,
        options=trainer.RunOptions(resume_command=command),
        mesh=mesh,
    )
    if not leads(mesh):
        return 0 if result.finished else 130
    from mjx_exo.gait.files import plain
    from mjx_exo.training_report import finish_run, keep_policy

    if not (result.finished and check):
        keep_policy(config, env, result, folder)  # so that another run can start from this one as it is
        return 0 if result.finished else 130
    summary = finish_run(config, result, folder)
    print(json.dumps(plain(summary), indent=2, allow_nan=False))
    print(f"results: {folder}/summary.json, {folder}/walking.png, {folder}/learning.png")
    return 0


def environment_mesh(config: Any) -> Any:
    """The mesh of devices that share a configuration's environments; None if it is one device.

    Only MJX runs on several: the other engines are host callbacks. Raises `UserError` for environments that cannot be
    shared out evenly, and for another engine in several processes.
    """
    import jax

    from mjx_exo.learning.parallel import device_mesh
    from mjx_exo.walking.build import choose_engine

    engine = choose_engine(config.walking.engine)
    if engine == "mjx":
        return device_mesh(config.walking.num_envs)
    if jax.process_count() > 1:
        raise UserError(f"engine '{engine}' runs in one process; several need --walking.engine mjx")
    return None


def starting_actors(env: Any, config: Any, start: str, mesh: Any = None) -> dict[str, Any]:
    """Actors of this run taken from another one: whole from a run folder, policies alone from a policy folder.

    Actors that the other run does not have start fresh, and so do actions that it did not know (the clock, where the
    policy may bend it now). A human of another body is handed over to this one. Raises `UserError` where it cannot.
    """
    import jax

    from mjx_exo.learning.checkpoint import load_actors
    from mjx_exo.learning.parallel import make_training
    from mjx_exo.learning.policy_file import actor_from_policy
    from mjx_exo.teacher import load_teacher

    teacher = load_teacher(start)
    bent, bends = teacher.config.walking.clock_freedom > 0, config.walking.clock_freedom > 0
    if bent and not bends:
        raise UserError(f"{start} bends its gait clock; start from it with --walking.clock-freedom above 0")
    clock_at = env.human_actions.clock_column if bends and not bent and teacher.config.walking.muscle_freedom else None
    training = make_training(env, config.ppo, mesh)
    fresh = training.gather(training.init(jax.random.key(config.seed)).actors)
    if teacher.config.walking.body != config.walking.body:
        return {"human": actor_from_policy(fresh["human"], _handed_over(teacher, env), "human", clock_at)}
    shared = [name for name in fresh if name in teacher.policy.actors]
    checkpoints = Path(start) / "checkpoints"
    sizes = {spec.name: spec.action_size for spec in env.actors}
    stored = {name: teacher.policy.description["actors"][name]["action_size"] for name in shared}
    if checkpoints.is_dir() and all(stored[name] == sizes[name] for name in shared):
        loaded = load_actors(checkpoints, {name: fresh[name] for name in shared})
        return {name: actor.replace(noise_fallen=fresh[name].noise_fallen) for name, actor in loaded.items()}
    places = {"human": clock_at}  # where actions are that it did not know, if not at the end
    return {name: actor_from_policy(fresh[name], teacher.policy, name, places.get(name)) for name in shared}


def _handed_over(teacher: Any, env: Any) -> Any:
    """The teacher's policy with its human fitted to the body of `env`, which was another one's."""
    from mjx_exo.walking.build import build_environment
    from mjx_exo.walking.other_body import handed_over

    # A body alone says what its walker sees and does; nobody is simulated here.
    walking = dataclasses.replace(teacher.config.walking, num_envs=1, wearers=1, engine="native", threads=1)
    arrays = handed_over(teacher.policy.arrays["human"], build_environment(walking), env)
    print(f"{teacher.source}: handed over from {walking.body} to {env.engine.body.name}", flush=True)
    return dataclasses.replace(teacher.policy, arrays={**teacher.policy.arrays, "human": arrays})


def _with_synergies_found(config: Any) -> Any:
    """The configuration with a synergy file's whole path, so that its run can be used from any folder."""
    file = Path(config.walking.synergies)
    if not file.is_file():
        return config
    return dataclasses.replace(config, walking=dataclasses.replace(config.walking, synergies=str(file.resolve())))


def _default_folder(preset: str, seed: int) -> Path:
    return Path("runs") / f"{preset}-seed{seed}-{time.strftime('%Y%m%d-%H%M%S')}"


def _stored_config(folder: Path) -> Any:
    """The configuration of a run that is to be resumed."""
    from mjx_exo.config_files import train_config_from_dict

    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"nothing to resume in {folder}: it holds no config.json of a run")
    try:
        stored = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is not JSON ({error}); allowed: the file a run wrote") from None
    return train_config_from_dict(stored["settings"], str(file))


if __name__ == "__main__":
    run_command(main)
