"""`python -m runtime.exo_loop --policy student.onnx --port PORT`: the student on a device, in real time.

Research use only: a hardware emergency stop and the controller's own watchdog are mandatory. Torque is zero until a
scale is given, the wearer has stood still, lifted the right and the left thigh, somebody has typed `arm`, and the
wearer walks.
"""

from __future__ import annotations

import argparse
import math
import platform
from pathlib import Path

import numpy as np
import onnxruntime

from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError, run_command
from runtime.console import HELP, Console
from runtime.policy import Policy
from runtime.recorder import Recorder, new_folder
from runtime.session import Session
from runtime.settings import DEFAULT_MASS_KG, Settings, check_policy, choose_profile, guard_config
from runtime.stages import Stage
from runtime.wishes import parse_walk


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m runtime.exo_loop",
        description="Runs a student policy on a hip exoskeleton (or on runtime.virtual_exo). Research use only.",
        epilog=f"While it runs, type {HELP.removeprefix('commands: ')}.",
    )
    p.add_argument("--policy", required=True, type=Path, help="student.onnx from export.to_onnx")
    p.add_argument("--port", required=True, help="serial port of the controller, or the pty of virtual_exo")
    p.add_argument("--profile", help="device profile: name or .toml (default: the one the policy was made for)")
    p.add_argument("--rate", type=float, metavar="HZ", help="the device's sample rate where it is not the profile's")
    p.add_argument("--baud", type=int, help="baud rate (default: the profile's)")
    p.add_argument("--wearer-mass", type=float, metavar="KG", help="body mass without the device; needed for torque")
    p.add_argument("--torque-scale", type=float, default=0.0, metavar="S", help="0..1 of the policy's torque (0)")
    p.add_argument("--soft-start", type=float, default=2.0, metavar="S", help="seconds to full torque, 1..3 (2)")
    p.add_argument("--duration", type=float, default=math.inf, metavar="S", help="stop after this many seconds")
    p.add_argument("--log", type=Path, metavar="DIR", help="record into a new folder in DIR")
    p.add_argument("--live", metavar="HOST[:PORT]", help="live curves as JSON over UDP (PlotJuggler: 127.0.0.1)")
    p.add_argument("--arm", action="store_true", help="arm once, as soon as commissioning has succeeded")
    p.add_argument("--dry-run", action="store_true", help="send zero torque, log what would have been sent")
    p.add_argument("--skip-commissioning", action="store_true", help="dry runs only: do not ask for the lifts")
    p.add_argument("--no-real-time", action="store_true", help="do not ask for real-time scheduling")
    p.add_argument("--walk", metavar="PLAN", help="virtual wearers: SPEED[@SLOPE_DEG][:SECONDS],… e.g. 0.8:30,1.2@4")
    return p


def settings_from(arguments: argparse.Namespace) -> Settings:
    """Checked settings; raises UserError for what makes no sense together."""
    if arguments.wearer_mass is None and arguments.torque_scale and not arguments.dry_run:
        raise UserError(
            f"--torque-scale {arguments.torque_scale:g} needs --wearer-mass KG: torque is per kg of body mass"
        )
    if not arguments.duration > 0.0:
        raise UserError(f"--duration {arguments.duration:g} must be a positive number of seconds")
    return Settings(
        port=arguments.port,
        wearer_mass_kg=DEFAULT_MASS_KG if arguments.wearer_mass is None else arguments.wearer_mass,
        torque_scale=arguments.torque_scale,
        duration_s=arguments.duration,
        log=arguments.log,
        dry_run=arguments.dry_run,
        skip_commissioning=arguments.skip_commissioning,
        arm=arguments.arm,
        real_time=not arguments.no_real_time,
        live=arguments.live,
        baud=arguments.baud,
        soft_start_s=arguments.soft_start,
        walk=parse_walk(arguments.walk),
    )


def header(settings: Settings, policy: Policy, profile: DeviceProfile) -> dict:
    """What a recording says about itself."""
    return {
        "contract": policy.contract.to_dict(),
        "policy": {"file": Path(policy.source).name, "sha256_16": policy.digest, "metadata": policy.metadata},
        "profile": profile.to_dict(),
        "wearer_mass_kg": settings.wearer_mass_kg,
        "torque_scale": settings.torque_scale,
        "dry_run": settings.dry_run,
        "stages": {stage.name: int(stage) for stage in Stage},
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "onnxruntime": onnxruntime.__version__,
            "machine": f"{platform.system()} {platform.machine()}",
        },
    }


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code (0 finished, 3 ended by a fault, 128 + n by signal n)."""
    settings_arguments = parser().parse_args(argv)
    settings = settings_from(settings_arguments)
    policy = Policy.load(settings_arguments.policy)
    profile = choose_profile(policy, settings_arguments.profile, settings_arguments.rate)
    check_policy(policy, profile)
    guard_config(settings, policy, profile)
    recorder = None
    if settings.log is not None:
        recorder = Recorder(new_folder(settings.log), header(settings, policy, profile))
    console = Console()
    console.say(f"{policy.source}: {policy.window} samples at {policy.contract.rate_hz:g} Hz, golden vectors agree")
    if settings.dry_run:
        console.say("dry run: the device gets zero torque")
    elif settings.torque_scale == 0.0:
        console.say("torque scale 0: the device gets zero torque; set --torque-scale to change that")
    if console.fileno is not None:
        console.say(HELP)
    try:
        return Session(settings, policy, profile, console, recorder).run()
    finally:
        if recorder is not None:
            recorder.close()
        console.close()


if __name__ == "__main__":
    run_command(main)
