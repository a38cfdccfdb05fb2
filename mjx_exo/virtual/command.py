"""The command line of `python -m runtime.virtual_exo`: which device, who wears it, and what goes wrong."""

from __future__ import annotations

import argparse
import gc
import json
import math
import signal
from pathlib import Path
from typing import NoReturn

from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError
from mjx_exo.files import write_atomically
from mjx_exo.virtual.conditions import ConditionsFile
from mjx_exo.virtual.exo import HELP, VirtualExo
from mjx_exo.virtual.faults import FAULT_SYNTAX, KINDS, FaultInjector, RandomFaults, parse_fault
from mjx_exo.virtual.motion import ScriptedWearer, Wearer
from mjx_exo.virtual.port import PseudoPort
from mjx_exo.virtual.screen import Screen
from runtime import realtime
from runtime.console import Console
from runtime.settings import at_rate

DEFAULT_PROFILE = "hip_3200g"
SPEED_RANGE_M_S = (0.3, 2.5)
SLOPE_RANGE_DEG = (-15.0, 15.0)
DELAY_RANGE_MS = (0.0, 40.0)  # at 50 ms the device's watchdog ends it
_BODY_OPTIONS = ("wearer_mass", "wearer_height", "strength")


class _Parser(argparse.ArgumentParser):
    """Mistakes become one line, as everywhere."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = _Parser(
        prog="python -m runtime.virtual_exo",
        description="A simulated wearer with a simulated exoskeleton behind a pseudo-terminal, in real time.",
        epilog=f"Faults: {'; '.join(f'{kind}: {words[0]}' for kind, words in KINDS.items())}. "
        f"While it runs, type {HELP.removeprefix('commands: ')}.",
    )
    who = p.add_argument_group("who wears it")
    who.add_argument("--teacher", help="whose human walks: run folder, policy folder or pretrained name")
    who.add_argument("--scripted", action="store_true", help="a drawn gait instead of a simulated one: no teacher")
    who.add_argument("--engine", default="auto", help="auto, native, mjx, or published: the published tendon model")
    who.add_argument("--wearer-mass", type=float, metavar="KG", help="body mass without the device (the body's own)")
    who.add_argument("--wearer-height", type=float, metavar="M", help="standing height (the body's own)")
    who.add_argument("--strength", type=float, metavar="SHARE", help="muscle force relative to the body's own (1)")
    who.add_argument("--wearer-seed", type=int, metavar="S", help="draw mass, height and strength instead")
    who.add_argument("--speed", type=float, default=1.25, metavar="M_S", help="speed unless the host asks (1.25)")
    who.add_argument("--slope", type=float, default=0.0, metavar="DEG", help="slope, uphill positive (0)")
    who.add_argument("--seed", type=int, default=7, help="of sensors, mounting and start posture (7)")
    device = p.add_argument_group("the device")
    device.add_argument("--profile", help="profile: name or .toml (default: the teacher's, else hip_3200g)")
    device.add_argument("--rate", type=float, metavar="HZ", help="samples per second where not the profile's")
    device.add_argument("--delay-ms", type=float, default=0.0, metavar="MS", help="sensor frames come later by (0)")
    device.add_argument("--port-link", type=Path, metavar="PATH", help="symbolic link to make to the pseudo-terminal")
    device.add_argument("--no-real-time", action="store_true", help="do not ask for real-time scheduling")
    wrong = p.add_argument_group("what goes wrong")
    wrong.add_argument(
        "--fault", action="append", default=[], metavar="FAULT", help=f"{FAULT_SYNTAX}, s since the greeting; repeat"
    )
    wrong.add_argument("--random-faults", type=int, metavar="SEED", help="one every few seconds, drawn by this seed")
    p.add_argument("--duration", type=float, default=math.inf, metavar="S", help="stop after this many seconds")
    p.add_argument("--log", type=Path, metavar="DIR", help="write speed and slope over time to DIR/conditions.csv")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the counts here at the end")
    p.add_argument("--quiet", action="store_true", help="no state on screen")
    return p


def check(arguments: argparse.Namespace) -> None:
    """Raises UserError for what is out of range or does not go together."""
    for option, value, (low, high), unit in (
        ("--speed", arguments.speed, SPEED_RANGE_M_S, "m/s"),
        ("--slope", arguments.slope, SLOPE_RANGE_DEG, "degrees"),
        ("--delay-ms", arguments.delay_ms, DELAY_RANGE_MS, "ms"),
    ):
        if not low <= value <= high:
            raise UserError(f"{option} {value:g} is outside {low:g}..{high:g} {unit}")
    if not arguments.duration > 0.0:
        raise UserError(f"--duration {arguments.duration:g} must be a positive number of seconds")
    given = [name for name in _BODY_OPTIONS if getattr(arguments, name) is not None]
    option = f"--{given[0].replace('_', '-')}" if given else ""
    if arguments.scripted:
        if arguments.teacher or given or arguments.wearer_seed is not None or arguments.engine != "auto":
            raise UserError("--scripted draws a gait; --teacher, --engine and a body belong to a simulated wearer")
    elif not arguments.teacher:
        raise UserError("--teacher RUN says whose human walks; --scripted goes without")
    if given and arguments.wearer_seed is not None:
        raise UserError(f"--wearer-seed draws the whole person; {option} cannot be given as well")
    if arguments.engine == "published" and (given or arguments.wearer_seed is not None):
        raise UserError("--engine published is one body, so its mass, height and strength cannot be chosen")
    if arguments.port_link is None and (
        arguments.random_faults is not None or any(text.startswith("unplug") for text in arguments.fault)
    ):
        raise UserError("unplugging needs --port-link PATH, so that the port has the same name when it comes back")


def prepare(arguments: argparse.Namespace) -> tuple[Wearer, DeviceProfile, str]:
    """The wearer, ready to go, the device, and a line about both. Raises UserError."""
    if arguments.scripted:
        profile = at_rate(DeviceProfile.load(arguments.profile or DEFAULT_PROFILE), arguments.rate)
        wearer = ScriptedWearer(profile, arguments.seed, arguments.speed)
        return wearer, profile, f"a drawn gait in {profile.name} at {profile.link.rate_hz:g} Hz"
    return _prepare_simulated(arguments)


def _prepare_simulated(arguments: argparse.Namespace) -> tuple[Wearer, DeviceProfile, str]:
    import jax

    from mjx_exo.cache import use_jax_cache
    from mjx_exo.musculoskeletal.wearer import WearerRange, draw_wearers
    from mjx_exo.teacher import load_teacher, person_for
    from mjx_exo.virtual.wearer import SimulatedWearer, walking_environment

    # Programs run on the thread that calls them, so that its real-time scheduling is theirs.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    use_jax_cache()
    teacher = load_teacher(arguments.teacher)
    source = arguments.profile or teacher.config.walking.device or DEFAULT_PROFILE
    profile = at_rate(DeviceProfile.load(source), arguments.rate)
    person = None
    if arguments.wearer_seed is not None:
        (person,) = draw_wearers(1, WearerRange(), arguments.wearer_seed)
    elif any(getattr(arguments, name) is not None for name in _BODY_OPTIONS):
        strength = 1.0 if arguments.strength is None else arguments.strength
        person = person_for(teacher, arguments.wearer_mass, arguments.wearer_height, strength)
    env = walking_environment(teacher, profile, source, arguments.engine, person)
    slope_rad = math.radians(arguments.slope)
    wearer = SimulatedWearer(teacher, env, profile, arguments.seed, arguments.speed, slope_rad)
    wearer.warm_up()
    mass_kg = float(env.body_mass_kg[0])
    body = f"{env.engine.body.name}, {mass_kg:.1f} kg" + (
        f", {person.height_m:.2f} m, strength {person.strength:.2f}" if person else ""
    )
    model = "the published tendon model" if arguments.engine == "published" else "compiled"
    return wearer, profile, f"{body} ({model}) in {profile.name} at {profile.link.rate_hz:g} Hz"


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0, raises UserError for mistakes."""
    arguments = parser().parse_args(argv)
    check(arguments)
    faults = [parse_fault(text) for text in arguments.fault]
    random_faults = None if arguments.random_faults is None else RandomFaults(arguments.random_faults)
    injector = FaultInjector(faults, random_faults, 1e-3 * arguments.delay_ms)
    console = Console()
    screen = Screen(console, arguments.quiet)
    console.say("preparing the wearer")
    try:
        wearer, profile, words = prepare(arguments)
        conditions = None if arguments.log is None else ConditionsFile(arguments.log)
        port = PseudoPort(arguments.port_link)
        device = VirtualExo(port, wearer, profile, injector, console, screen, conditions)
        _take_signals(device)
        _go_real_time(arguments, console)
        console.say(words)
        console.say(f"port {port.name}")
        try:
            report = device.run(arguments.duration)
        finally:
            port.pull_out()
            realtime.step_down()
            if conditions is not None:
                conditions.close()
        report["fault_list"] = [fault.to_dict() for fault in injector.struck]
        if arguments.json is not None:
            text = json.dumps(report, indent=1) + "\n"
            write_atomically(arguments.json, lambda path: path.write_text(text))
        if not arguments.quiet:
            del report["fault_list"]
            console.say(json.dumps(report))
    finally:
        console.close()
    return 0


def _take_signals(device: VirtualExo) -> None:
    def ask_to_stop(*_: object) -> None:
        device.stop = True

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ask_to_stop)


def _go_real_time(arguments: argparse.Namespace, console: Console) -> None:
    """A device has a computer of its own; this one shares it, so it asks for its share in time."""
    if not arguments.no_real_time:
        signal.signal(signal.SIGXCPU, lambda *_: realtime.step_down())
        granted, _ = realtime.enter(lock_memory=False)
        realtime.include_threads()  # those that JAX computes on
        if not granted:
            console.say("real-time scheduling was refused: on a busy machine the device itself may come late")
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection with JAX loaded stops everything for tens of milliseconds
