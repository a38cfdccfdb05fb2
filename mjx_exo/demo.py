"""`python -m mjx_exo.demo`: the whole chain on one machine, from a person who learns to walk to torque over a wire.

Teaches a person to walk for a few minutes, takes the pretrained teacher for the device (teaching that takes longer),
distils a student from it, exports it to ONNX, runs the real loop against the virtual exoskeleton over a pseudo-terminal
for 20 s, and puts everything into one report. Every step is the command a user would type; it is printed first.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from mjx_exo.errors import UserError, run_command
from mjx_exo.gait.files import write_json

LOOP_S = 20.0
STUDENT_ROUNDS = 6


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m mjx_exo.demo", description=__doc__)
    p.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of all results (runs/demo)")
    p.add_argument("--teacher", default="teacher", help="teacher of the device (the pretrained one)")
    p.add_argument("--train-steps", type=int, default=1_000_000, help="steps of learning to walk; 0 skips it")
    p.add_argument("--rounds", type=int, default=STUDENT_ROUNDS, help="rounds of distillation")
    return p


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0 if every step worked."""
    arguments = parser().parse_args(sys.argv[1:] if argv is None else argv)
    out = _fresh_folder(arguments.out)
    steps: dict[str, float] = {}

    def run(name: str, *command: str) -> None:
        began = time.monotonic()
        print(f"\n== {name}\n   {shlex.join(('python', '-m', *command))}", flush=True)
        subprocess.run([sys.executable, "-m", *command], check=True)
        steps[name] = round(time.monotonic() - began, 1)

    try:
        if arguments.train_steps:
            run(
                "a person learns to walk", "mjx_exo.train", "--preset", "quick", "--out", str(out / "walking"),
                "--ppo.total-steps", str(arguments.train_steps),
            )  # fmt: skip
        run(
            "the student learns from the teacher", "mjx_exo.distill", arguments.teacher, "--out", str(out / "student"),
            "--rounds", str(arguments.rounds), "--check-wearers", "2", "--check-seconds", "10",
        )  # fmt: skip
        onnx = out / "student.onnx"
        run("the student becomes an ONNX file", "export.to_onnx", str(out / "student"), "--out", str(onnx))
        steps["20 s on the virtual device"] = _loop(arguments.teacher, onnx, out)
        log = next(iter(sorted((out / "log").glob("*/"))))
        run("what was logged becomes a table", "runtime.convert", str(log))
        run(
            "simulation and device side by side", "mjx_exo.transfer", str(log), "--reference",
            str(out / "student" / "reference.npz"), "--out", str(out / "transfer"), "--speed-m-s", "1.25",
            "--slope-deg", "0",
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        raise UserError(f"the step '{shlex.join(error.cmd[1:])}' failed with exit code {error.returncode}") from None
    _report(out, steps)
    return 0


def _fresh_folder(out: Path) -> Path:
    """The folder of this demo; an earlier demo's moves aside."""
    if out.exists():
        out.rename(out.with_name(f"{out.name}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(out.stat().st_mtime))}"))
    out.mkdir(parents=True)
    return out


def _loop(teacher: str, onnx: Path, out: Path) -> float:
    """The loop against the virtual device, each in a process of its own; returns how long it took."""
    began = time.monotonic()
    port = out / "port"
    virtual = [sys.executable, "-m", "runtime.virtual_exo", "--teacher", teacher, "--port-link", str(port), "--quiet"]
    virtual += ["--json", str(out / "virtual.json")]
    loop = ["runtime.exo_loop", "--policy", str(onnx), "--port", str(port), "--wearer-mass", "78"]
    loop += ["--torque-scale", "1", "--arm", "--duration", str(LOOP_S + 12.0), "--log", str(out / "log")]
    print(f"\n== {LOOP_S:.0f} s on the virtual device\n   {shlex.join(('python', *virtual[1:]))} &", flush=True)
    device = subprocess.Popen(virtual)
    try:
        while not port.is_symlink():
            if device.poll() is not None:
                raise UserError(f"the virtual device ended with exit code {device.returncode} before it was ready")
            time.sleep(0.2)
        print(f"   {shlex.join(('python', '-m', *loop))}", flush=True)
        subprocess.run([sys.executable, "-m", *loop], check=True, stdin=subprocess.DEVNULL)
    finally:
        if device.poll() is None:
            device.send_signal(signal.SIGTERM)
            device.wait(timeout=20)
    return round(time.monotonic() - began, 1)


def _report(out: Path, steps: dict[str, float]) -> None:
    """summary.json with what each step found, and where to look."""
    found = {"steps_s": steps, "total_s": round(sum(steps.values()), 1)}
    for name, file in (
        ("walking", out / "walking" / "summary.json"),
        ("student", out / "student" / "summary.json"),
        ("virtual", out / "virtual.json"),
        ("transfer", out / "transfer" / "transfer.json"),
    ):
        if file.is_file():
            found[name] = json.loads(file.read_text())
    write_json(out / "summary.json", found)
    pictures = sorted(str(p) for p in out.rglob("*") if p.suffix in (".png", ".html") and "tensorboard" not in p.parts)
    print(f"\nThe whole chain took {found['total_s']:.0f} s. Results in {out}{os.sep}summary.json and:")
    for picture in pictures:
        print(f"  {picture}")


if __name__ == "__main__":
    run_command(main)
