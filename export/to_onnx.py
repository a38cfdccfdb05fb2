"""`python -m export.to_onnx STUDENT --out student.onnx`: the file that the device runs.

A file gets its final name only after onnxruntime, with nothing but that file, has computed what Flax computes: what is
there agrees.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import onnx
import tyro

from export.check import CheckedFile, check_file
from export.golden import Parity, flax_torques, parity_windows, streaming_parity, window_parity
from export.graph import streaming_model, window_model
from export.metadata import describe
from mjx_exo.device import DeviceProfile, available_profiles
from mjx_exo.errors import UserError, run_command
from mjx_exo.exchange import GOLDEN_KEY, METADATA_KEY, encode_golden
from mjx_exo.files import whole_file, write_atomically
from policies.storage import SavedStudent, load_student
from policies.student import StudentConfig, check_measures

TOLERANCE_NM_PER_KG = 1e-5
GOLDEN_VECTORS = 8


@dataclasses.dataclass(frozen=True)
class Settings:
    """Exports a student to ONNX, or checks an exported file."""

    student: Annotated[Path | None, tyro.conf.Positional] = None
    """Directory of the student, as distillation wrote it."""
    out: Path = Path("student.onnx")
    """The file to write."""
    streaming: bool = False
    """Write the streaming form (one sample and cached convolutions in and out) instead of the window form."""
    check: Path | None = None
    """Write nothing; check this exported file, against STUDENT too where one is given."""
    profile: str = ""
    """Device profile (name or .toml file) that the student must fit; by default the one it was made for."""
    windows: int = 10_000
    """Windows on which Flax and the file are compared."""
    tolerance: float = TOLERANCE_NM_PER_KG
    """Largest difference allowed, Nm/kg."""


class ParityError(Exception):
    """Flax and the file do not compute the same."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """A written file and what was found when it was checked."""

    path: Path
    parity: Parity
    checked: CheckedFile


def export_student(
    student: SavedStudent,
    out: Path,
    form: str = "window",
    windows: int = 1000,
    tolerance: float = TOLERANCE_NM_PER_KG,
) -> Exported:
    """Writes `out` in one of the forms "window" and "streaming", after comparing it with Flax over `windows` windows.

    tolerance: Nm/kg. Raises ParityError when they differ by more; then nothing is left under the final name, and a file
    that was there before is kept under the name `out` + ".previous". Raises UserError if `out` cannot be written.
    """
    golden, _ = parity_windows(student, GOLDEN_VECTORS, seed=1)
    texts = {
        METADATA_KEY: describe(student, form),
        GOLDEN_KEY: encode_golden(golden, flax_torques(student, golden)),
    }
    build = window_model if form == "window" else streaming_model
    model = build(student.config, student.params, texts)
    with _beside(out) as temporary:
        onnx.save(model, temporary)
        checked = check_file(temporary)
        parity = compare(student, checked, windows)
        problem = _problem(parity, checked, tolerance)
        if problem:
            kept = _set_aside(out)
            raise ParityError(f"{out} is not written: {problem}{kept}")
    return Exported(out, parity, checked)


def compare(student: SavedStudent, checked: CheckedFile, windows: int) -> Parity:
    """Flax against a file, in the form the file has. Raises UserError if the file belongs to another student."""
    sentence = student.config.contract.difference(checked.contract, "the student", "the file")
    if sentence:
        raise UserError(sentence)
    measure = window_parity if checked.metadata.get("form", "window") == "window" else streaming_parity
    return measure(student, checked.session, windows)


def check_fits(config: StudentConfig, profile: DeviceProfile) -> None:
    """Raises UserError when a student was not made for this device: its sensors, rate, limits or version."""
    check_measures(profile, config.signals)
    wanted = StudentConfig.for_profile(
        profile,
        channels=config.channels,
        kernel_size=config.kernel_size,
        dilations=config.dilations,
        window_samples=config.window_samples,
    )
    difference = wanted.contract.difference(config.contract, f"profile {profile.name!r}", "the student")
    if difference:
        raise UserError(difference)


def run(settings: Settings) -> int:
    """Does what the command line says; returns the exit code."""
    if settings.windows < 1:
        raise UserError(f"--windows = {settings.windows}; allowed: 1 or more")
    student = load_student(settings.student) if settings.student else None
    if student:
        config = student.config
        print(f"student   {settings.student}: {', '.join(config.channel_names)} at {config.rate_hz:g} Hz")
        print(f"          window {config.window_samples}, receptive field {config.receptive_field} samples")
        _check_profile(config, settings.profile)
    if settings.check:
        return _check_only(settings.check, student, settings.tolerance, settings.windows)
    if student is None:
        raise UserError("nothing to export: give a STUDENT directory, or --check FILE")
    form = "streaming" if settings.streaming else "window"
    try:
        exported = export_student(student, settings.out, form, settings.windows, settings.tolerance)
    except ParityError as error:
        print(f"FAILED    {error}")
        return 1
    _print_checked(exported.checked)
    _print_parity(exported.parity, settings.tolerance)
    if form == "window" and settings.student and settings.out.parent.resolve() == settings.student.resolve():
        note_in_summary(settings.student, student, exported.parity)
    print(f"written   {exported.path} ({form} form, {exported.path.stat().st_size / 1024:.0f} KiB)")
    return 0


def note_in_summary(folder: Path, student: SavedStudent, parity: Parity) -> bool:
    """Writes `onnx_max_abs_diff` into the student's summary.json, if there is one of these parameters.

    For a file that is kept beside the student; one exported to another place leaves the student's folder alone.
    """
    path = folder / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(summary, dict) or summary.get("params_hash", student.params_hash) != student.params_hash:
        return False
    difference = parity.max_abs_diff_nm_per_kg
    summary |= {"onnx_max_abs_diff": difference, "onnx_windows": parity.windows}
    if isinstance(summary.get("targets_met"), dict):
        summary["targets_met"]["onnx_max_abs_diff"] = difference <= TOLERANCE_NM_PER_KG
    text = json.dumps(summary, indent=2) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return True


def _check_only(file: Path, student: SavedStudent | None, tolerance: float, windows: int) -> int:
    checked = check_file(file)
    print(f"file      {file}: {checked.metadata.get('form')} form, loads alone in an empty folder")
    _print_checked(checked)
    parity = compare(student, checked, windows) if student else None
    if parity:
        _print_parity(parity, tolerance)
    problem = _problem(parity, checked, tolerance)
    print(f"FAILED    {problem}" if problem else "ok")
    return 1 if problem else 0


def _problem(parity: Parity | None, checked: CheckedFile, tolerance: float) -> str:
    """What is wrong, or nothing."""
    if parity and not parity.within(tolerance):
        return (
            f"Flax and onnxruntime differ by {parity.max_abs_diff_nm_per_kg:.3g} Nm/kg over {parity.windows} windows; "
            f"allowed: {tolerance:g}"
        )
    if not checked.golden_diff_nm_per_kg <= tolerance:
        return f"golden vectors differ by {checked.golden_diff_nm_per_kg:.3g} Nm/kg; allowed: {tolerance:g}"
    return ""


def _check_profile(config: StudentConfig, name: str) -> None:
    """Against the profile asked for; otherwise against the student's own where it comes with the project."""
    if name or config.profile in available_profiles():
        check_fits(config, DeviceProfile.load(name or config.profile))
    elif config.profile:
        print(f"profile   {config.profile!r} is not at hand; not compared (--profile FILE.toml compares)")


def _print_checked(checked: CheckedFile) -> None:
    contract = checked.contract
    print(f"contract  {', '.join(contract.torque_channels)} within {contract.torque_limit_nm_per_kg!r} Nm/kg")
    print(f"          profile {contract.profile!r} {contract.profile_hash}")
    print(f"golden    {checked.golden_vectors} vectors, largest difference {checked.golden_diff_nm_per_kg:.2g} Nm/kg")


def _print_parity(parity: Parity, tolerance: float) -> None:
    share = f"{100 * parity.recorded_share:.0f} % from recorded gait"
    print(
        f"parity    Flax against onnxruntime over {parity.windows} windows ({share}): "
        f"{parity.max_abs_diff_nm_per_kg:.2g} Nm/kg, allowed {tolerance:g}"
    )


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """`whole_file`, with a UserError if `out` cannot be written."""
    if out.is_dir():
        raise UserError(f"--out {out}: is a directory; give a file name, such as {out / 'student.onnx'}")
    with contextlib.ExitStack() as stack:
        try:
            temporary = stack.enter_context(whole_file(out))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(f"--out {out}: cannot be written ({error.strerror})") from None
        yield temporary


def _set_aside(out: Path) -> str:
    if not out.exists():
        return ""
    previous = out.with_name(out.name + ".previous")
    os.replace(out, previous)
    return f" (the earlier file is now {previous})"


def main() -> int:
    """Parses the command line and runs."""
    return run(tyro.cli(Settings, prog="python -m export.to_onnx", description=__doc__))


if __name__ == "__main__":
    run_command(main)
