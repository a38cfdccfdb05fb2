"""The loop and the virtual device for a long time with something going wrong every few seconds.

    python -m benchmarks.soak [--minutes 10] [--rate 200] [--seed 1] [--json FILE] [--keep DIR]

A drawn wearer walks, random faults of every kind strike the device, and somebody at the keyboard does what the loop
says: resets a fault when it is mended and arms again. Afterwards every single fault is looked up in the loop's own log,
frame by frame: what was dropped must be missing, what was doubled must be there twice, an emergency stop must have been
seen, a pulled cable must have been noticed and found again. A fault without its trace is unaccounted for. Memory is
read from outside all along. Exit code 1 if a fault is unaccounted for, a process crashed, or memory grew.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import rig
from benchmarks.common import hardware
from mjx_exo.errors import UserError, run_command
from mjx_exo.gait.files import write_json
from runtime.messages import SensorFlag
from runtime.recorder import load_recording

WARM_UP_S = 20.0  # memory is compared with what it was then
GROWTH_MIB = 4.0  # more than this over the whole run is growth
AWAY_S = 8.0  # after a cable is put back the loop may be looking for the port: what happens then has no witness
SLACK_S = 0.5
_HEALTH = {
    "estop": SensorFlag.EMERGENCY_STOP,
    "driver": SensorFlag.DRIVER_FAULT,
    "hot": SensorFlag.OVER_TEMPERATURE,
}
_AT_LEAST = (*_HEALTH, "freeze", "delay", "deaf")  # their traces have a sample more or less at the edges


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.split("\n")[0])
    p.add_argument("--minutes", type=float, default=10.0)
    p.add_argument("--rate", type=float, default=200.0, metavar="HZ", help="of the device (200)")
    p.add_argument("--seed", type=int, default=1, help="of the faults (1)")
    p.add_argument("--policy", type=Path, help="student.onnx (default: an untrained one)")
    p.add_argument("--keep", type=Path, metavar="DIR", help="leave the recording and the device's report there")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return p


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    arguments = parser().parse_args(argv)
    if not 0.2 <= arguments.minutes <= 600.0:
        raise UserError(f"--minutes {arguments.minutes:g} is outside 0.2 to 600")
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        found = _run(arguments, folder)
    _print(found)
    if arguments.json is not None:
        write_json(arguments.json, found)
    return int(not found["passed"])


def _run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    policy = arguments.policy or rig.untrained_policy(folder)
    seconds, real_time = 60.0 * arguments.minutes, rig.fifo_permitted()
    device = rig.virtual_device(
        folder, arguments.rate, real_time, "--random-faults", str(arguments.seed), "--quiet"
    )  # fmt: skip
    person = rig.Person()
    memory: dict[str, list[float]] = {"loop": [], "device": []}
    try:
        device.wait_for("port ")
        person.loop = loop = rig.start_loop(
            policy, str(folder / "port"), arguments.rate, seconds, folder / "log", real_time, heed=person.heed
        )
        began = time.monotonic()
        while loop.process.poll() is None and time.monotonic() < began + seconds + rig.START_S:
            time.sleep(0.7)
            person.act()
            if time.monotonic() - began > WARM_UP_S and loop.process.poll() is None:
                for name, child in (("loop", loop), ("device", device)):
                    memory[name] += [size] if (size := child.rss_mib()) else []  # 0: it has just ended
        loop_code = loop.wait(rig.START_S)
    finally:
        device_code = device.end()
    print("\n".join(line for line in loop.lines[-16:]))
    return _judge(folder, loop_code, device_code, memory, person)


def _judge(
    folder: Path, loop_code: int, device_code: int, memory: dict[str, list[float]], person: rig.Person
) -> dict[str, Any]:
    recording = max((folder / "log").iterdir())
    tally = rig.summary_of(recording, folder)
    report = json.loads((folder / "device.json").read_text())
    log = load_recording(recording)
    verdicts = account(log.rows, log.events, report)
    growth = {name: max(values[-10:]) - values[0] if values else 0.0 for name, values in memory.items()}
    kinds = Counter(verdict["kind"] for verdict in verdicts)
    lost = [verdict for verdict in verdicts if verdict["verdict"] == "unaccounted"]
    good = {kind: sum(v["kind"] == kind and v["verdict"] != "unaccounted" for v in verdicts) for kind in kinds}
    passed = not lost and loop_code == 0 and device_code == 0 and tally["unaccounted"] == 0
    return {
        "hardware": hardware(),
        "passed": passed and all(value <= GROWTH_MIB for value in growth.values()),
        "exit_codes": {"loop": loop_code, "device": device_code},
        "faults": {kind: {"struck": kinds[kind], "accounted": good[kind]} for kind in sorted(kinds)},
        "without_witness": sum(verdict["verdict"] == "without witness" for verdict in verdicts),
        "unaccounted": lost,
        "memory_mib": {n: {"after_warm_up": v[0], "at_end": v[-1]} for n, v in memory.items() if v},
        "memory_growth_mib": growth,
        "resets": person.resets,
        "arms": person.arms,
        "tally": tally,
        "device": {name: value for name, value in report.items() if name != "fault_list"},
    }


def account(rows: np.ndarray, events: list[dict[str, Any]], report: dict[str, Any]) -> list[dict[str, Any]]:
    """Each fault of the device's report that touched something, and its trace in the loop's log.

    rows, events: as `load_recording` gives them. Verdicts: "accounted", "without witness" (the loop was looking for the
    port at that time, or had not begun, or had ended), "unaccounted" with what was expected and found.
    """
    sequence = rows["sequence"].astype(np.int64)
    lateness_s = rows["host_time_s"] - 1e-6 * rows["device_time_us"]
    lost_links = [e for e in events if e["kind"] == "link" and not e["up"]]
    # A fault's time is on the device's clock since the greeting; the loop's rows tie that to the host's.
    device_zero_s = report["greeted_s"]
    offset_s = float(np.median(lateness_s)) if len(rows) else 0.0
    verdicts, away_until_s = [], 0.0
    for fault in report["fault_list"]:
        kind = fault["kind"]
        if kind == "unplug":
            start_s = fault["start_s"] + device_zero_s + offset_s
            found = sum(start_s - SLACK_S <= e["time_s"] <= start_s + SLACK_S for e in lost_links)
            heard = rows["host_time_s"][0] < start_s - SLACK_S and start_s + SLACK_S < rows["host_time_s"][-1]
            expected = 1 if heard and fault["start_s"] >= away_until_s else found
            away_until_s = (fault["end_s"] or float("inf")) + AWAY_S
        else:
            if not fault["touched"]:
                continue
            inside = (sequence >= fault["first"]) & (sequence <= fault["last"])
            expected, found = _trace(fault, rows, sequence, inside, lateness_s - offset_s)
            heard = sequence[0] < fault["first"] and fault["last"] < sequence.max()
        same = found >= expected if kind in _AT_LEAST else found == expected
        if same:
            verdict = "accounted"
        elif not heard or fault["start_s"] < away_until_s:
            verdict = "without witness"
        else:
            verdict = "unaccounted"
        verdicts.append({**fault, "expected": expected, "found": found, "verdict": verdict})
    return verdicts


def _trace(
    fault: dict[str, Any], rows: np.ndarray, sequence: np.ndarray, inside: np.ndarray, late_s: np.ndarray
) -> tuple[float, float]:
    """What the log should show of a fault and what it shows, in frames (`delay`: seconds, `deaf`: answers)."""
    kind, touched = fault["kind"], fault["touched"]
    numbers = sequence[inside]
    span = fault["last"] - fault["first"] + 1
    if kind in ("drop", "corrupt"):
        return touched, span - len(np.unique(numbers))
    if kind == "duplicate":
        return touched, len(numbers) - len(np.unique(numbers))
    if kind == "reorder":
        overtaken = np.isnan(rows["gyro_r"][inside]) & np.isfinite(rows["gyro_raw_r"][inside])
        return touched, int(np.sum(overtaken))  # they came, and too late to be used
    if kind == "nan":
        return touched, int(np.sum(np.isnan(rows["gyro_raw_r"][inside])))
    if kind in _HEALTH:
        # The controller reads its health lines between two samples, so the first may not carry the flag yet.
        return touched - 1, int(np.sum((rows["flags"][inside] & int(_HEALTH[kind])) != 0))
    if kind == "freeze":
        values = rows["gyro_raw_r"][inside]
        return touched - 1, int(np.sum(values[1:] == values[:-1]))
    if kind == "delay":
        return 0.8e-3 * fault["parameter"], float(late_s[inside].max(initial=0.0))
    if kind == "deaf":
        # Nothing it is sent reaches the device: the echo of the newest accepted answer stands still.
        return len(numbers) - 3, int(np.sum(np.diff(rows["applied_echo"][inside].astype(np.int64)) == 0))
    return touched, len(np.unique(numbers))  # swap and flip: felt by nobody who walks, but every frame is there


def _print(found: dict[str, Any]) -> None:
    for kind, counts in found["faults"].items():
        print(f"  {kind:10s} {counts['struck']:4d} struck, {counts['accounted']:4d} accounted for")
    for fault in found["unaccounted"]:
        print(f"  UNACCOUNTED {fault}")
    for name, growth in found["memory_growth_mib"].items():
        print(f"  memory of the {name}: {found['memory_mib'].get(name)} MiB, {growth:+.1f} MiB")
    print(f"  {found['resets']} resets and {found['arms']} armings typed; exit codes {found['exit_codes']}")
    print("passed" if found["passed"] else "FAILED")


if __name__ == "__main__":
    run_command(main)
