"""From sensor to command as the device sees it, beside an echo of the same run, and what became of every frame.

    python -m benchmarks.runtime_loop [--seconds 60] [--rate 200] [--peer virtual|c] [--json FILE]

The real `runtime.exo_loop` calibrates, commissions, arms and drives a walking wearer behind a pseudo-terminal, once
with ordinary and once with real-time scheduling. The device measures from writing a sensor frame to reading the torque
frame that answers it. Before and after, a process that only sends the bytes back is measured in the same way: what the
loop adds to that is the loop's own. All processes of a run are scheduled alike, the device included.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import rig
from benchmarks.common import hardware
from mjx_exo.errors import UserError, run_command
from mjx_exo.gait.files import write_json
from runtime.recorder import load_recording
from runtime.startup import started

ECHO_S = 60.0  # of an echo, before and after, at most: a 99th percentile of some thousand round trips
START_S = 10.0  # calibration, two lifts and the first strides
ALLOWED_OVER_ECHO_MS = 1.0  # of the 99th percentiles, with ordinary scheduling
ALLOWED_REAL_TIME_MS = 2.0
ALLOWED_START_S = 2.0
RATES_HZ = (100.0, 500.0)
_PERCENTILES = ("p50_ms", "p99_ms", "p99_9_ms", "max_ms")
_ECHO = """
import json, sys
from benchmarks.link_roundtrip import measure, summary
rate_hz, seconds = map(float, sys.argv[1:])
figures = summary(measure("echo", rate_hz, seconds), round(rate_hz * seconds))
figures["answered"], figures["p99_9_ms"] = figures["frames"] - figures["unanswered"], figures.pop("p999_ms")
print(json.dumps(figures), flush=True)
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.runtime_loop", description=__doc__.split("\n")[0])
    p.add_argument("--seconds", type=float, default=60.0, help="of walking, for each scheduling (60)")
    p.add_argument("--rate", type=float, default=200.0, metavar="HZ", help="of the device, 100 to 500 (200)")
    p.add_argument("--peer", choices=("virtual", "c"), default="virtual", help="the Python or the C controller")
    p.add_argument("--scheduling", choices=("both", "normal", "real-time"), default="both")
    p.add_argument("--policy", type=Path, help="student.onnx (default: an untrained one)")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    return p


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 1 if a frame or an answer was lost or unaccounted for."""
    arguments = parser().parse_args(argv)
    if not RATES_HZ[0] <= arguments.rate <= RATES_HZ[1]:
        raise UserError(f"--rate {arguments.rate:g} is outside {RATES_HZ[0]:g} to {RATES_HZ[1]:g} Hz")
    if not 0.0 < arguments.seconds <= 7200.0:
        raise UserError(f"--seconds {arguments.seconds:g} is outside 0 to 7200 s")
    kinds = ("normal", "real-time") if arguments.scheduling == "both" else (arguments.scheduling,)
    if "real-time" in kinds and not rig.fifo_permitted():
        print("real-time scheduling is not permitted here (ulimit -r): left out")
        kinds = tuple(kind for kind in kinds if kind != "real-time")
    found: dict[str, Any] = {"rate_hz": arguments.rate, "peer": arguments.peer, "seconds": arguments.seconds}
    load_before = round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policy = arguments.policy or rig.untrained_policy(folder)
        program = rig.build_firmware(folder) if arguments.peer == "c" else None
        for kind in kinds:
            found[kind] = _measure(arguments, folder, policy, program, kind == "real-time")
    found["hardware"] = {**hardware(), "load_before": load_before}  # now: it loads JAX, and forking with JAX is unsafe
    _print(found, kinds)
    if arguments.json is not None:
        write_json(arguments.json, found)
    return int(not all(found[kind]["bars_met"]["every_frame_accounted_for"] for kind in kinds))


def _measure(
    arguments: argparse.Namespace, folder: Path, policy: Path, program: Path | None, real_time: bool
) -> dict[str, Any]:
    """Echo, loop, echo; returns their figures in ms and the accounts."""
    rate_hz, seconds = arguments.rate, arguments.seconds
    echo_s = min(ECHO_S, max(1.0, 0.5 * seconds))
    print(f"{'real-time' if real_time else 'normal'} scheduling: echo {echo_s:g} s, loop, echo", flush=True)

    def echo() -> dict[str, float]:
        return _c_echo(program, rate_hz, echo_s, real_time) if program else _python_echo(rate_hz, echo_s, real_time)

    before = echo()
    log = folder / f"log-{'real-time' if real_time else 'normal'}"
    if program is None:
        device = rig.virtual_device(folder, rate_hz, real_time, "--quiet")
    else:
        device = rig.c_device(program, rate_hz, real_time)
    try:
        port = device.wait_for("port ").split()[1]
        loop = rig.start_loop(policy, port, rate_hz, seconds + START_S, log, real_time)
        code = loop.wait(seconds + START_S + rig.START_S)
    finally:
        device.end()
    print("\n".join(line for line in loop.lines if line.startswith("  ")))
    if code:
        raise UserError(f"the loop ended with exit code {code}: {loop.lines[-1] if loop.lines else 'no word'}")
    after = echo()
    latency = _device_side(folder, device, program)
    recording = next(iter(log.iterdir()))
    tally = rig.summary_of(recording, folder)
    over_ms = latency["p99_ms"] - max(before["p99_ms"], after["p99_ms"])
    frames = _accounts(recording, tally, latency)
    in_time = latency["p99_ms"] < ALLOWED_REAL_TIME_MS if real_time else over_ms <= ALLOWED_OVER_ECHO_MS
    started_in_time = tally["start_s"] is None or tally["start_s"] < ALLOWED_START_S
    return {
        "echo_before": before,
        "echo_after": after,
        "loop": latency,
        "loop_over_echo_p99_ms": over_ms,
        "frames": frames,
        "full_torque_s": tally["stage_s"].get("active", 0.0),
        "start_to_ready_s": tally["start_s"],
        "faults": tally["faults"],
        "bars_met": {
            "every_frame_accounted_for": not (frames["lost"] or frames["unaccounted"] or frames["answers_lost"]),
            "p99": bool(in_time),
            "start_to_ready": bool(started_in_time),
        },
    }


def _python_echo(rate_hz: float, seconds: float, real_time: bool) -> dict[str, float]:
    """Round trips of an echo, measured by a process of its own: scheduling is inherited from it."""
    child = rig.Child(sys.executable, "-c", _ECHO, f"{rate_hz:g}", f"{seconds:g}", real_time=real_time)
    figures = json.loads(child.wait_for("{", seconds + rig.START_S))
    child.wait(10.0)
    return figures


def _c_echo(program: Path, rate_hz: float, seconds: float, real_time: bool) -> dict[str, float]:
    """The same with the C program as the device."""
    device = rig.c_device(program, rate_hz, real_time, echo=True)
    try:
        port = device.wait_for("port ").split()[1]
        command = [sys.executable, "-m", "benchmarks.link_roundtrip", "--host", "echo", "--port", port]
        host = rig.Child(*command, real_time=real_time)
        host.wait_for("ready")
        time.sleep(seconds)
        device.end()
        host.end()
    finally:
        device.end()
    return _figures_of(device.lines[-1])


def _figures_of(line: str) -> dict[str, float]:
    """Counters and percentiles from the last line of the C program."""
    words = line.split()[2:]
    numbers = {name: float(value) for name, value in zip(words[::2], words[1::2], strict=True)}
    times = zip(_PERCENTILES, ("p50_us", "p99_us", "p999_us", "max_us"), strict=True)
    refused = sum(numbers[name] for name in ("session", "value", "echo", "stale"))
    taken = {"answered": numbers["answered"], "newest": numbers["newest"], "refused": refused}
    return {**taken, **{ours: 1e-3 * numbers[theirs] for ours, theirs in times}}


def _device_side(folder: Path, device: rig.Child, program: Path | None) -> dict[str, float]:
    """Latency as the device measured it, how many answers it took and refused, and the sample answered last."""
    if program is not None:
        return _figures_of(device.lines[-1])
    report = json.loads((folder / "device.json").read_text())
    taken = {"answered": report["answered"], "newest": report["newest_answered"], "refused": 0}
    return {**taken, **report["sensor_to_command"]}


def _accounts(log: Path, tally: dict[str, Any], device: dict[str, float]) -> dict[str, int]:
    """Every frame between the first and the last that the loop saw, by the device's own numbering, and every answer.

    The stop at the end takes back what still waits to go out, so that it arrives first: an answer to a sample newer
    than the last one the device had answered was overtaken by it.
    """
    rows = load_recording(log).rows
    sequence = rows["sequence"].astype(np.int64)
    overtaken = int(np.sum(sequence[rows["answered"] == 1] > device["newest"]))
    sent = int(sequence[-1] - sequence[0] + 1)
    return {
        "sent": sent,
        "received": tally["frames"],
        "answered": tally["answered"],
        "superseded": tally["superseded"],
        "lost": sent - len(np.unique(sequence)),
        "unaccounted": tally["unaccounted"],
        "answers_refused": int(device["refused"]),
        "answers_overtaken_by_stop": overtaken,
        "answers_lost": tally["answered"] - int(device["answered"] + device["refused"]) - overtaken,
    }


def _print(found: dict[str, Any], kinds: tuple[str, ...]) -> None:
    print(f"sensor to command at {found['rate_hz']:g} Hz as the {found['peer']} device sees it, ms")
    print(f"{'':18}{'answered':>9}{'p50':>8}{'p99':>8}{'p99.9':>8}{'max':>8}")
    for kind in kinds:
        for what in ("echo_before", "loop", "echo_after"):
            row = found[kind][what]
            numbers = "".join(f"{row[name]:8.3f}" for name in _PERCENTILES)
            print(f"{kind + ' ' + what.split('_')[0]:18}{int(row['answered']):9d}{numbers}")
        over, p99 = found[kind]["loop_over_echo_p99_ms"], found[kind]["loop"]["p99_ms"]
        asked = f"below {ALLOWED_REAL_TIME_MS:g} ms" if kind == "real-time" else f"at most +{ALLOWED_OVER_ECHO_MS:g} ms"
        print(f"  p99 {p99:.2f} ms, {over:+.2f} ms over the slower echo; asked: {asked}")
        print("  bars met: " + ", ".join(f"{n} {'yes' if m else 'NO'}" for n, m in found[kind]["bars_met"].items()))
        print("  frames: " + ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in found[kind]["frames"].items()))
        print(f"  start to ready: {started(found[kind]['start_to_ready_s'])}; asked: below {ALLOWED_START_S:g} s")
        if not found[kind]["full_torque_s"]:
            print("  the wearer never got full torque: this machine was too busy for the loop")


if __name__ == "__main__":
    run_command(main)
