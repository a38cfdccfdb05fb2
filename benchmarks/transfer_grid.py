"""Whether the device pushes as simulation said, over a grid of speeds and slopes, on a wearer nobody trained for.

    python -m benchmarks.transfer_grid [--body myolegs26|published] [--speeds 0.8:1.6:0.2] [--slopes=-4:4:4]
        [--seconds 20] [--rounds 1] [--json FILE] [--keep DIR]

The real `runtime.exo_loop` with the student's ONNX file drives the virtual exoskeleton over a pseudo-terminal, in real
time: a wearer drawn by a seed that training does not use (or the published tendon model, which no training has seen),
gyroscopes with a mounting, bias, noise and delay of their own, and a link that is late by a drawn time on top. The
wearer walks through all cells in one go, several times where asked: on a computer that stands still for longer than a
command lives the device lets go, rightly, and a cell in which that happened needs another visit. `mjx_exo.transfer`
then cuts the loop's log by the speeds and slopes the device wrote down and holds its torque, as applied by the
controller, against the student walking in simulation (other wearers, other sensors, no link). The wearer should also
still be walking at the end, and the virtual device must have kept real time.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import rig
from benchmarks.common import hardware
from mjx_exo import transfer
from mjx_exo.errors import UserError, run_command
from mjx_exo.gait.device_log import SETTLE_S, SHORTEST_S
from mjx_exo.gait.files import write_json
from mjx_exo.gait.recording import save
from mjx_exo.teacher import PRETRAINED
from mjx_exo.virtual.conditions import FILE_NAME

BODIES = ("myolegs26", "published")
LEAST_R = {"myolegs26": 0.95, "published": 0.9}
LARGEST_RMSE_NM_KG = 0.02
PREPARE_S = 900.0  # compiling the wearer on a busy machine
START_S = 12.0  # calibration, two lifts and the soft start: the first cell is that much longer
CHANGE_S = 2.0  # speed and slope follow at a limited rate
LINK_DELAY_MS = (0.0, 10.0)
LATEST_SHARE = 0.001  # of the device's periods: more late ones and it has not kept real time
REFERENCE_S = 14.0
WEARER_SEED = 90210


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.transfer_grid", description=__doc__.split("\n")[0])
    p.add_argument("--body", choices=BODIES, default="myolegs26", help="compiled, or the published tendon model")
    p.add_argument("--speeds", default="0.8:1.6:0.2", metavar="A:B:STEP", help="m/s, or one number (0.8:1.6:0.2)")
    p.add_argument("--slopes", default="-4:4:4", metavar="A:B:STEP", help="degrees; write --slopes=-4:4:4 (-4:4:4)")
    p.add_argument("--seconds", type=float, default=20.0, help="in each cell, of which the first 5 do not count (20)")
    p.add_argument("--rounds", type=int, default=1, metavar="N", help="visits to every cell, there and back (1)")
    p.add_argument("--teacher", default="teacher", help="whose human walks (teacher)")
    p.add_argument("--student", type=Path, default=PRETRAINED / "student", help="folder with student.onnx and weights")
    p.add_argument("--policy", type=Path, help="another ONNX file of that student (default: the folder's)")
    p.add_argument("--reference", type=Path, nargs="+", help="simulation (default: the student walks these cells now)")
    p.add_argument("--reference-wearers", type=int, default=4, help="who walk in simulation, in every cell (4)")
    p.add_argument("--wearer-seed", type=int, default=WEARER_SEED, help=f"who wears the device ({WEARER_SEED})")
    p.add_argument("--seed", type=int, default=42, help="of mounting, sensors, delays and start (42)")
    p.add_argument("--keep", type=Path, metavar="DIR", help="leave the recording and the report there")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return p


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 1 if a bar was missed."""
    arguments = parser().parse_args(argv)
    cells = grid(span(arguments.speeds, "--speeds"), span(arguments.slopes, "--slopes"))
    least = SETTLE_S + CHANGE_S + SHORTEST_S
    if not least <= arguments.seconds <= 600.0:
        raise UserError(f"--seconds {arguments.seconds:g} is outside {least:g} to 600 s: a change needs time to settle")
    if not 1 <= arguments.rounds <= 20:
        raise UserError(f"--rounds {arguments.rounds} is outside 1 to 20")
    real_time = rig.fifo_permitted()  # asked before anything loads JAX: it forks
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        reference = arguments.reference or [_simulate(arguments, cells, folder)]
        found = _walk(arguments, there_and_back(cells, arguments.rounds), folder, real_time)
        recording = max((folder / "log").iterdir())
        transfer.main([str(recording), "--reference", *map(str, reference), "--out", str(folder / "transfer")])
        report = json.loads((folder / "transfer" / "transfer.json").read_text())
    found |= {name: report[name] for name in ("cells", "mean", "notes")}
    found |= judge(found, len(cells))
    for words, met in found["bars"].items():
        print(f"  {'met   ' if met else 'MISSED'} {words}")
    if arguments.json is not None:
        write_json(arguments.json, found)
    return int(not all(found["bars"].values()))


def span(text: str, option: str) -> list[float]:
    """`A:B:STEP`, both ends included, or one number. Raises UserError."""
    try:
        numbers = [float(word) for word in text.split(":")]
        if len(numbers) == 1:
            return numbers
        low, high, step = numbers
        count = round((high - low) / step)
        if step > 0.0 and count >= 0:
            return [round(low + i * step, 6) for i in range(count + 1)]
    except (ValueError, ZeroDivisionError, OverflowError):
        pass
    raise UserError(f"{option} {text!r} is neither a number nor A:B:STEP with A <= B and a positive step")


def grid(speeds: Sequence[float], slopes: Sequence[float]) -> list[tuple[float, float]]:
    """(speed m/s, slope degrees) of every cell, so that from one to the next only one of them changes."""
    middle_first = sorted(slopes, key=abs)
    return [(v, s) for i, s in enumerate(middle_first) for v in (speeds if i % 2 == 0 else speeds[::-1])]


def there_and_back(cells: Sequence[tuple[float, float]], rounds: int) -> list[tuple[float, float]]:
    """The cells `rounds` times, every second time in the opposite order."""
    return [cell for i in range(rounds) for cell in (cells if i % 2 == 0 else cells[::-1])]


def walk_plan(cells: Sequence[tuple[float, float]], seconds: float) -> str:
    """The cells as `exo_loop --walk` takes them; the last one lasts."""
    times = [seconds + START_S, *[seconds] * (len(cells) - 2)] if len(cells) > 1 else []
    legs = [f"{v:g}@{s:g}:{t:g}" for (v, s), t in zip(cells, times, strict=False)]
    return ",".join([*legs, f"{cells[-1][0]:g}@{cells[-1][1]:g}"])


def judge(found: dict[str, Any], cells: int) -> dict[str, Any]:
    """The bars, each with whether it was met."""
    device, mean = found["device"], found["mean"]
    late = f"{device['late_ticks']} of {device['ticks']} periods late, the worst by {device['worst_late_ms']:.1f} ms"
    r, rmse = (mean.get(name, {}).get("mean", float("nan")) for name in ("r_mean", "rmse_mean_nm_kg"))
    compared = sum("r_mean" in cell for cell in found["cells"])
    least = LEAST_R[found["body"]]
    return {
        "bars": {
            f"mean r {r:.3f}; asked: at least {least:g}": bool(r >= least),
            f"mean RMSE {rmse:.4f} Nm/kg; asked: at most {LARGEST_RMSE_NM_KG:g}": bool(rmse <= LARGEST_RMSE_NM_KG),
            f"{compared} of {cells} cells could be compared": compared == cells,
            f"{device['falls']} falls": device["falls"] == 0,
            late: device["late_ticks"] <= LATEST_SHARE * device["ticks"],
            f"{len(found['loop']['faults'])} faults": not found["loop"]["faults"],
        }
    }


def _walk(
    arguments: argparse.Namespace, cells: Sequence[tuple[float, float]], folder: Path, real_time: bool
) -> dict[str, Any]:
    """The loop and the virtual device in real time; leaves recording and conditions in `folder`."""
    draw = random.Random(arguments.seed)
    delay_ms = round(draw.uniform(*LINK_DELAY_MS), 1)
    options = ["--teacher", arguments.teacher, "--seed", str(arguments.seed), "--delay-ms", str(delay_ms)]
    options += ["--log", str(folder / "device"), "--quiet"]
    options += ["--engine", "published"] if arguments.body == "published" else ["--engine", "native"]
    options += [] if arguments.body == "published" else ["--wearer-seed", str(arguments.wearer_seed)]
    mass_kg = _mass_kg(arguments)
    policy = arguments.policy or arguments.student / "student.onnx"
    seconds = len(cells) * arguments.seconds + 2.0 * START_S
    rate_hz = _rate_hz(policy)
    device = rig.virtual_device(folder, rate_hz, real_time, *options)
    person = rig.Person()
    try:
        port = device.wait_for("port ", PREPARE_S).split()[1]
        wearer = next(line for line in device.lines if f" in {rig.PROFILE}" in line)
        print(wearer, f"sensor frames {delay_ms:g} ms late; {seconds:.0f} s of walking", sep="; ", flush=True)
        plan = ("--walk", walk_plan(cells, arguments.seconds), "--soft-start", "1")
        person.loop = loop = rig.start_loop(
            policy, port, rate_hz, seconds, folder / "log", real_time, *plan, heed=person.heed, mass_kg=mass_kg
        )
        began = time.monotonic()
        while loop.process.poll() is None and time.monotonic() < began + seconds + rig.START_S:
            time.sleep(0.7)
            person.act()
        code = loop.wait(rig.START_S)
    finally:
        device.end()
    print("\n".join(line for line in loop.lines if line.startswith("  ")))
    if code:
        raise UserError(f"the loop ended with exit code {code}: {loop.lines[-1] if loop.lines else 'no word'}")
    recording = max((folder / "log").iterdir())
    shutil.copy(folder / "device" / FILE_NAME, recording / FILE_NAME)
    report = json.loads((folder / "device.json").read_text())
    return {
        "body": arguments.body,
        "wearer": wearer,
        "wearer_seed": None if arguments.body == "published" else arguments.wearer_seed,
        "sensor_seed": arguments.seed,
        "link_delay_ms": delay_ms,
        "seconds_per_cell": arguments.seconds,
        "rounds": arguments.rounds,
        "scheduling": "real-time" if real_time else "normal",
        "hardware": hardware(),
        "device": {name: value for name, value in report.items() if name not in ("fault_list", "faults")},
        "loop": rig.summary_of(recording, folder),
    }


def _mass_kg(arguments: argparse.Namespace) -> float:
    """Body mass of whoever will wear the device."""
    from mjx_exo.musculoskeletal.compiled import compile_body
    from mjx_exo.musculoskeletal.wearer import WearerRange, draw_wearers
    from mjx_exo.teacher import load_teacher

    if arguments.body == "published":
        return round(compile_body(load_teacher(arguments.teacher).config.walking.body).mass_kg, 2)
    return draw_wearers(1, WearerRange(), arguments.wearer_seed)[0].mass_kg


def _rate_hz(policy: Path) -> float:
    from runtime.policy import Policy

    return Policy.load(policy, warm_up=0).contract.rate_hz


def _simulate(arguments: argparse.Namespace, cells: Sequence[tuple[float, float]], folder: Path) -> Path:
    """The student in simulation, in the same cells, on people and sensors of its own; returns the recordings' file."""
    from mjx_exo.cache import use_jax_cache
    from mjx_exo.student_check import Cell, CheckConfig, check_cells
    from mjx_exo.teacher import load_teacher
    from policies.storage import load_student

    use_jax_cache()
    print(f"simulation: {arguments.reference_wearers} wearers in {len(cells)} cells", flush=True)
    asked = [Cell(speed, float(np.deg2rad(slope)), "level") for speed, slope in cells]
    config = CheckConfig(wearers=arguments.reference_wearers, seconds=REFERENCE_S)
    checked = check_cells(load_teacher(arguments.teacher), load_student(arguments.student), config, asked)
    path = folder / "reference.npz"
    save(path, [recording for cell in checked for recording in cell.recordings])
    return path


if __name__ == "__main__":
    run_command(main)
