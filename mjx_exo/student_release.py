"""`python -m mjx_exo.student_release TEACHER --out DIR`: a student, and everything a student is judged by.

Distils, checks on held-out people, exports with parity over 10 000 windows, lets the file check itself in an empty
folder, sweeps the errors of the sensors, drives other bodies, and runs the exported file inside the evaluation. Every
step is the command a user would type; it is printed first. A stopped run goes on with --resume. Ends with what was
reached, in DIR/summary.json.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mjx_exo.errors import UserError, run_command

STEPS_FILE = "release.json"
NO_RUNTIME = 3  # the JavaScript check's exit code where no onnxruntime for JavaScript is installed


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m mjx_exo.student_release", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    p.add_argument("teacher", help="run folder, policy folder or name of a pretrained policy, with an exo actor")
    p.add_argument("--out", type=Path, required=True, help="folder of the student and of all results")
    p.add_argument("--human", action="append", default=[], metavar="POLICY", help="another person, e.g. of 80 muscles")
    p.add_argument("--richer", action="append", default=[], metavar="SENSORS", help="also distil with these sensors")
    p.add_argument("--unassisted", default="", help="policy of a person trained with the device off")
    p.add_argument("--engine", default="auto", help="auto, native or mjx")
    p.add_argument("--trials", type=int, default=8, help="people in the check, trials of the evaluation (8)")
    p.add_argument("--distill", default="", metavar="OPTIONS", help="passed on to distill, e.g. '--rounds 30'")
    p.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    return p


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0 if every step worked, whatever was reached."""
    arguments = parser().parse_args(sys.argv[1:] if argv is None else argv)
    if arguments.trials < 1:
        raise UserError(f"--trials = {arguments.trials}; allowed: 1 or more")
    steps = Steps(arguments.out, arguments.resume)
    for name, command in plan(arguments):
        steps.run(name, command)
    alone = arguments.out / "alone"
    steps.do("the file checks itself in an empty folder", lambda: check_alone(alone))
    summary = json.loads((arguments.out / "summary.json").read_text(encoding="utf-8"))
    for line in reached(summary):
        print(line)
    return 0


def plan(arguments: argparse.Namespace) -> list[tuple[str, list[str]]]:
    """Name and command (after `python -m`) of every step that is a command of its own."""
    out, engine = arguments.out, ["--engine", arguments.engine]
    unassisted = ["--unassisted", arguments.unassisted] if arguments.unassisted else []
    options = [*engine, *unassisted, "--check-wearers", str(arguments.trials), *shlex.split(arguments.distill)]
    students = [out, *(out / "richer" / text.replace(",", "_") for text in arguments.richer)]
    steps = [("the student learns and is checked", ["mjx_exo.distill", arguments.teacher, "--out", str(out), *options])]
    for text, folder in zip(arguments.richer, students[1:], strict=True):
        command = ["mjx_exo.distill", arguments.teacher, "--out", str(folder), "--sensors", text, *options]
        steps.append((f"a student with {text} learns", command))
    onnx = str(out / "student.onnx")
    streaming = str(out / "student_streaming.onnx")
    humans = [part for policy in arguments.human for part in ("--human", policy)]
    evaluation = ["--controller", onnx, "--speeds", "0.9,1.3", "--slopes", "0", "--trials", str(arguments.trials)]
    evaluation += [
        "--seconds",
        "10",
        "--courses",
        "0",
        "--published",
        "0",
        "--no-animations",
        "--out",
        str(out / "evaluation"),
        *engine,
    ]

    def into(folder: str) -> list[str]:
        return ["--teacher", arguments.teacher, "--out", str(out / folder), *engine]

    return [
        *steps,
        ("the student becomes an ONNX file", ["export.to_onnx", str(out), "--out", onnx]),
        ("its streaming form", ["export.to_onnx", str(out), "--streaming", "--out", streaming]),
        ("the file is checked", ["export.to_onnx", str(out), "--check", onnx]),
        ("what a stranger needs to check it", ["export.standalone", onnx, "--out", str(out / "alone")]),
        (
            "errors of the sensors",
            ["mjx_exo.student_robustness", *map(str, students), *into("robustness"), *unassisted],
        ),
        (
            "other bodies",
            ["mjx_exo.student_transfer", str(out), *into("transfer"), *humans],
        ),
        ("the file itself drives the device", ["mjx_exo.evaluate", arguments.teacher, *evaluation]),
    ]


class Steps:
    """Runs each step once and remembers in the folder which are done and how long they took."""

    def __init__(self, folder: Path, resume: bool):
        """Raises `UserError` for a folder that holds a run already, unless it is to go on."""
        from mjx_exo.gait.files import write_json
        from mjx_exo.learning.checkpoint import plain_errors

        self._write, self.folder, self.file = write_json, folder, folder / STEPS_FILE
        self.done: dict[str, float] = {}
        if self.file.is_file():
            if not resume:
                raise UserError(f"{folder} holds a run already; add --resume or choose another --out")
            self.done = json.loads(self.file.read_text(encoding="utf-8"))
        with plain_errors(folder):
            write_json(self.file, self.done)

    def run(self, name: str, command: Sequence[str]) -> None:
        """A command in a process of its own. Raises `UserError` naming the step if it fails."""

        def call() -> None:
            words = list(command)
            if words[0] == "mjx_exo.distill" and (Path(words[3]) / "distilling.npz").is_file():
                words.append("--resume")
            print(f"   {shlex.join(('python', '-m', *words))}", flush=True)
            code = subprocess.run([sys.executable, "-m", *words], check=False).returncode
            if code:
                raise UserError(f"the step '{name}' failed with exit code {code}; mend it and add --resume")

        self.do(name, call)

    def do(self, name: str, call: Callable[[], Any]) -> None:
        """`call`, unless it was done before."""
        if name in self.done:
            print(f"== {name}: done before", flush=True)
            return
        print(f"\n== {name}", flush=True)
        began = time.monotonic()
        call()
        self.done[name] = round(time.monotonic() - began, 1)
        self._write(self.file, self.done)


def check_alone(folder: Path) -> None:
    """Runs both checks of `export.standalone` with their folder copied to an empty place.

    Raises `UserError` if one disagrees. JavaScript is left out, and that is said, where Node or its onnxruntime is
    missing.
    """
    with tempfile.TemporaryDirectory() as empty:
        alone = Path(shutil.copytree(folder, Path(empty) / "alone"))
        if subprocess.run([sys.executable, "-I", str(alone / "check.py")], cwd=empty, check=False).returncode:
            raise UserError(f"{folder}: the Python check disagrees with the golden vectors")
        node = shutil.which("node")
        if node is None:
            print("JavaScript not checked: there is no node")
            return
        # Modules are looked for from the script upwards, so this one runs where it lies.
        code = subprocess.run([node, str((folder / "check.mjs").resolve())], check=False).returncode
        script = folder / "check.mjs"
        if code == NO_RUNTIME:
            print(f"JavaScript not checked: npm install onnxruntime-web in {folder} or above, then: node {script}")
        elif code:
            raise UserError(f"{folder}: the JavaScript check disagrees with the golden vectors")


def reached(summary: dict[str, Any]) -> list[str]:
    """One line per target of a student: what was found, what was wanted, whether it is reached."""
    from mjx_exo.student_check import TARGETS

    met = summary.get("targets_met", {})
    lines = []
    for name, (word, bound) in TARGETS.items():
        value = summary.get(name)
        found = "unknown" if value is None or not math.isfinite(value) else f"{value:.3g}"
        verdict = {True: "reached", False: "NOT reached", None: "unknown"}[met.get(name)]
        lines.append(f"{name:20s} {found:>9s}  {word} {bound:g}: {verdict}")
    if summary.get("benefit_note"):
        lines.append(summary["benefit_note"])
    return lines


if __name__ == "__main__":
    run_command(main)
