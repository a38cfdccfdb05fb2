"""A run's folder: configuration, versions, log, checkpoints. One place that knows the names in it.

DIR/config.json     settings, seed and versions, written once
DIR/log.jsonl       one JSON object per logged update
DIR/tensorboard/    the same for TensorBoard
DIR/checkpoints/    whole training states
DIR/not_finite/     what a replay needs, if the training was stopped by a NaN
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from tensorboardX import SummaryWriter

from mjx_exo.errors import UserError
from mjx_exo.files import write_atomically
from mjx_exo.learning.checkpoint import CHECKPOINTS, plain_errors

VERSIONED = ("jax", "jaxlib", "brax", "flax", "optax", "orbax-checkpoint", "mujoco", "numpy")


class RunFolder:
    """Paths of a run and the lock that keeps a second training out."""

    def __init__(self, path: Path, resume: bool) -> None:
        """Makes the folder, or takes the one of a run to resume.

        Raises `UserError` if it already holds a run and is not to be resumed, holds none although it is, cannot be
        written, or is being trained into.
        """
        self.path = path
        self.config = path / "config.json"
        self.log = path / "log.jsonl"
        self.tensorboard = path / "tensorboard"
        self.checkpoints = path / CHECKPOINTS
        self.not_finite = path / "not_finite"
        if resume and not self.config.is_file():
            raise UserError(f"nothing to resume in {path}: it holds no config.json of a run")
        if not resume and (self.log.exists() or self.checkpoints.exists()):
            raise UserError(f"{path} already holds a run; resume it or choose another folder")
        with plain_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path / ".lock", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another training is writing into {path}; wait for it or choose another folder") from error

    def write_json(self, path: Path, content: Any) -> None:
        """Writes JSON atomically."""
        text = json.dumps(_plain(content), indent=2, sort_keys=True, default=str) + "\n"
        with plain_errors(path):
            write_atomically(path, lambda temporary: temporary.write_text(text))

    def close(self) -> None:
        """Lets go of the lock."""
        os.close(self._lock)


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries a result depends on."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


class RunLog:
    """Scalars of every update as JSON lines and for TensorBoard."""

    def __init__(self, folder: RunFolder, env_steps: int) -> None:
        """Opens the log, forgetting lines beyond `env_steps`: a killed run wrote them after its last checkpoint."""
        self._path = folder.log
        with plain_errors(self._path):
            self._forget_after(env_steps)
            self._lines: TextIO = self._path.open("a")
            self._board = SummaryWriter(str(folder.tensorboard), purge_step=env_steps + 1, flush_secs=30)

    def _forget_after(self, env_steps: int) -> None:
        if not self._path.is_file():
            return
        kept = [line for line in self._path.read_text().splitlines() if _steps_of(line) <= env_steps]
        write_atomically(self._path, lambda temporary: temporary.write_text("".join(f"{line}\n" for line in kept)))

    def write(self, row: Mapping[str, float | int]) -> None:
        """Appends one object; it must hold `env_steps`. Numbers that are not finite become null."""
        with plain_errors(self._path):
            self._lines.write(json.dumps(_plain(row)) + "\n")
            self._lines.flush()
            for name, value in row.items():
                if name != "env_steps" and math.isfinite(value):
                    self._board.add_scalar(name, value, int(row["env_steps"]))

    def close(self) -> None:
        """Flushes and closes both."""
        with plain_errors(self._path):
            self._lines.close()
            self._board.close()


def _steps_of(line: str) -> float:
    """`env_steps` of a log line; infinite for a line that a kill cut short."""
    try:
        return json.loads(line)["env_steps"]
    except (ValueError, KeyError, TypeError):
        return math.inf


def _plain(content: Any) -> Any:
    """JSON-ready: mappings and sequences walked, numbers that are not finite replaced by None."""
    if isinstance(content, Mapping):
        return {str(name): _plain(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    if isinstance(content, os.PathLike):
        return os.fspath(content)
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
