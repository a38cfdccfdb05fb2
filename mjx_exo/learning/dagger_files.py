"""A distillation's state on disk, so that a stopped one goes on as if nothing had happened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mjx_exo.errors import UserError
from mjx_exo.files import write_atomically
from mjx_exo.learning.checkpoint import flatten, plain_errors, unflatten
from mjx_exo.learning.config import settings_hash

STATE_FILE = "distilling.npz"
LOG_FILE = "log.jsonl"


class DaggerFiles:
    """The folder of one distillation. `latest` is the newest state."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], resume: bool):
        self.folder, self.hash = folder, settings_hash(settings)
        self.state_file, self.log_file = folder / STATE_FILE, folder / LOG_FILE
        self.latest: Any = None
        if resume and not self.state_file.is_file():
            raise UserError(f"nothing to resume in {folder}: it holds no {STATE_FILE}")
        if not resume and self.state_file.exists():
            raise UserError(f"{folder} holds an unfinished distillation; add --resume or choose another folder")
        with plain_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        if not resume:
            self.log_file.unlink(missing_ok=True)

    def restore(self, template: Any) -> Any:
        """The stored state, or `template` if there is none. `UserError` if it was made with other settings."""
        if not self.state_file.is_file():
            return template
        with np.load(self.state_file) as data:
            arrays = dict(data)
        if str(arrays.pop("settings_hash")) != self.hash:
            raise UserError(
                f"{self.state_file} belongs to other settings or another teacher; use those or another --out"
            )
        return unflatten(arrays, template, self.state_file)

    def save(self, state: Any, metrics: Mapping[str, float]) -> None:
        """Keeps the state and appends the metrics to the log."""
        self.latest = state
        arrays = flatten(jax.device_get(state))
        with plain_errors(self.folder):
            write_atomically(self.state_file, lambda path: np.savez(path, settings_hash=np.array(self.hash), **arrays))
            with self.log_file.open("a") as log:
                log.write(json.dumps(dict(metrics)) + "\n")

    def finish(self) -> None:
        """The student is saved: its training state is no longer needed."""
        self.state_file.unlink(missing_ok=True)
