"""A student on disk: a small directory that is whole or not there.

`student.json` says everything (sizes, device, training configuration) and names a parameter file by the hash of what is
in it. It is written last, in one `os.replace`, so a process killed at any moment leaves either the old student or the
new one, and a parameter file that does not belong to it is noticed when loading.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mjx_exo.errors import UserError
from mjx_exo.files import write_atomically
from policies.student import StudentConfig, init_params

FORMAT = "mjx_exo.student/1"
CONFIG_FILE = "student.json"
_EXAMPLES = "examples"


@dataclasses.dataclass(frozen=True)
class SavedStudent:
    """A loaded student. `params` as `Student.init` made them; `examples` [n, T, input_channels] may be empty."""

    config: StudentConfig
    params: Any
    training: dict[str, Any]
    params_hash: str
    examples: np.ndarray

    @property
    def training_hash(self) -> str:
        """16 hex digits over the training configuration."""
        return _digest(json.dumps(self.training, sort_keys=True, separators=(",", ":")).encode())


def save_student(
    directory: str | os.PathLike[str],
    config: StudentConfig,
    params: Any,
    training: Mapping[str, Any] | None = None,
    examples: np.ndarray | None = None,
) -> Path:
    """Writes the student, replacing an earlier one in the same directory; returns the directory.

    training: JSON-ready configuration it was trained with. examples: [n, T, input_channels] recorded signals in SI,
    kept so that an export can be checked on windows of the gait it was trained on.
    Raises UserError if the directory cannot be written.
    """
    directory = Path(directory)
    arrays = {name: np.asarray(value) for name, value in flatten_dict(params, sep="/").items()}
    digest = _arrays_hash(arrays)
    if examples is None:
        examples = np.zeros((0, config.window_samples, config.input_channels), np.float32)
    stored: dict[str, Any] = {**arrays, _EXAMPLES: np.asarray(examples, np.float32)}
    file_name = f"params-{_arrays_hash(stored)}.npz"
    content = {
        "format": FORMAT,
        "config": dataclasses.asdict(config),
        "training": dict(training or {}),
        "params_file": file_name,
        "params_hash": digest,
    }
    try:
        write_atomically(directory / file_name, lambda path: np.savez_compressed(path, **stored))
        text = json.dumps(content, indent=1) + "\n"
        write_atomically(directory / CONFIG_FILE, lambda path: path.write_text(text, encoding="utf-8"))
        for old in directory.glob("params-*.npz"):
            if old.name != file_name:
                old.unlink()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"student directory {directory}: cannot be written ({error.strerror})") from None
    return directory


def load_student(directory: str | os.PathLike[str]) -> SavedStudent:
    """Reads what `save_student` wrote. Raises UserError if it is no student, or not a whole one."""
    directory = Path(directory)
    content = _read_content(directory)
    try:
        fields = content["config"]
        config = StudentConfig(**fields)
        with np.load(directory / content["params_file"], allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        examples = arrays.pop(_EXAMPLES)
        training, expected = dict(content["training"]), content["params_hash"]
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"student {directory}: cannot be read ({_one_line(error)})") from None
    if _arrays_hash(arrays) != expected:
        raise UserError(f"student {directory}: the parameters are not the ones {CONFIG_FILE} speaks of ({expected})")
    params = unflatten_dict(arrays, sep="/")
    wanted = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    shapes = jax.tree.map(np.shape, params, is_leaf=lambda leaf: isinstance(leaf, np.ndarray))
    if shapes != jax.tree.map(lambda leaf: leaf.shape, wanted):
        raise UserError(f"student {directory}: the parameters do not have the sizes that {CONFIG_FILE} says")
    return SavedStudent(config, params, training, expected, examples)


def _read_content(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{directory} is no student: it has no {CONFIG_FILE}; give a directory that distillation wrote")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({_one_line(error)})") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise UserError(f"{path}: format = {found!r}; this version reads {FORMAT!r}")
    return content


def _arrays_hash(arrays: Mapping[str, np.ndarray]) -> str:
    """16 hex digits over names, types, shapes and contents."""
    parts = []
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        parts.append(f"{name}:{value.dtype}:{value.shape};".encode() + value.tobytes())
    return _digest(b"".join(parts))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
