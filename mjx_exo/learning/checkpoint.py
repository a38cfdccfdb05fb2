"""Checkpoints of the whole training state, written by Orbax.

A checkpoint is one folder per update under `checkpoints/`: the arrays, and a manifest that says what they belong to.
Orbax writes under a temporary name and renames, so a run killed at any moment leaves whole checkpoints only.

The state is stored as one flat mapping from a leaf's path to its array. That keeps the files independent of Python
classes, lets a later stage read single actors, and makes a mismatch nameable.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from mjx_exo.errors import UserError

FORMAT_VERSION = 1
"""Raised whenever the meaning of a stored array changes."""
CHECKPOINTS = "checkpoints"
"""The folder in a run's that holds them."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a checkpoint belongs to and how far it is."""

    identity: Mapping[str, str]
    """What must agree for the arrays to make sense at all: body, device, …"""
    settings: Mapping[str, Any]
    """Everything the run was configured with, as plain JSON."""
    versions: Mapping[str, str]
    """Versions of the libraries that wrote it."""
    seed: int
    updates: int
    """Updates done."""
    env_steps: int
    """Environment steps done, all environments together."""
    wall_seconds: float
    """Time spent training so far, over all starts, s."""
    format_version: int = FORMAT_VERSION


class Checkpoints:
    """The checkpoints of one run; the newest `keep` are kept."""

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self.folder = folder
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False, create=False)
        with plain_errors(folder), _quiet():
            folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def latest(self) -> int | None:
        """Updates done in the newest checkpoint, or None if there is none."""
        return self._manager.latest_step()

    def save(self, state: Any, manifest: Manifest) -> Path:
        """Writes the state (a pytree of arrays) and returns the checkpoint's folder. Writing it again is no harm."""
        if self.latest() != manifest.updates:
            items = ocp.args.Composite(
                state=ocp.args.StandardSave(flatten(state)), manifest=ocp.args.JsonSave(dataclasses.asdict(manifest))
            )
            with plain_errors(self.folder), _quiet():
                self._manager.save(manifest.updates, args=items, force=True)
                self._manager.wait_until_finished()
        return self.folder / str(manifest.updates)

    def read(self, updates: int | None = None) -> tuple[dict[str, np.ndarray], Manifest]:
        """The flat arrays and the manifest of one checkpoint, the newest unless said otherwise.

        Raises `UserError` if there is none or if it has another format version.
        """
        updates = self.latest() if updates is None else updates
        if updates is None or updates not in self._manager.all_steps():
            raise UserError(f"no checkpoint {'' if updates is None else f'{updates} '}in {self.folder}")
        try:
            with _quiet():
                wanted = ocp.args.Composite(manifest=ocp.args.JsonRestore())
                manifest = self._manager.restore(updates, args=wanted).manifest
        except (KeyError, FileNotFoundError, ValueError) as error:
            raise UserError(
                f"checkpoint {self.folder / str(updates)} is not whole: it has no manifest that can be read; "
                "without that folder, the one before it is used"
            ) from error
        version = manifest.get("format_version")
        if version != FORMAT_VERSION:
            raise UserError(
                f"checkpoint {self.folder / str(updates)} has format version {version}; this program reads "
                f"{FORMAT_VERSION}"
            )
        with _quiet():
            arrays = self._manager.restore(updates, args=ocp.args.Composite(state=ocp.args.StandardRestore())).state
        return arrays, Manifest(**manifest)

    def restore(
        self, template: Any, identity: Mapping[str, str], settings: Mapping[str, Any], free: tuple[str, ...] = ()
    ) -> tuple[Any, Manifest]:
        """The newest state in the template's structure, and its manifest.

        `free` names settings (dotted) that may differ from the checkpoint's. Raises `UserError` for a checkpoint of
        another body, device, format version or settings, or whose arrays have other shapes.
        """
        arrays, manifest = self.read()
        where = self.folder / str(manifest.updates)
        check_identity(manifest.identity, identity, where)
        check_settings(manifest.settings, settings, where, free)
        return unflatten(arrays, template, where), manifest

    def close(self) -> None:
        """Releases Orbax's threads."""
        self._manager.close()


def load_actors(folder: Path, template: Mapping[str, Any], identity: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Single actors from the newest checkpoint in `folder`, to start another stage with.

    `template` maps actor names to `ActorState`s (or their shapes, `jax.eval_shape`) as the new run has them. Raises
    `UserError` if an actor is missing or has other sizes, or if `identity` is given and disagrees.
    """
    if not folder.is_dir():
        raise UserError(f"no checkpoints at {folder}: not a folder")
    checkpoints = Checkpoints(folder)
    arrays, manifest = checkpoints.read()
    checkpoints.close()
    where = folder / str(manifest.updates)
    if identity is not None:
        check_identity({name: manifest.identity.get(name, "") for name in identity}, identity, where)
    return unflatten(arrays, {"actors": dict(template)}, where, "")["actors"]


def check_identity(stored: Mapping[str, str], wanted: Mapping[str, str], where: Path, kind: str = "checkpoint") -> None:
    """Raises `UserError` naming the first thing in which a checkpoint or policy is of something else."""
    for name in sorted({*stored, *wanted}):
        if stored.get(name) != wanted.get(name):
            raise UserError(
                f"{kind} {where} is of {name} {stored.get(name)!r}, this run is of {name} {wanted.get(name)!r}; "
                "they must be the same"
            )


def check_settings(
    stored: Mapping[str, Any], wanted: Mapping[str, Any], where: Path, free: tuple[str, ...] = ()
) -> None:
    """Raises `UserError` naming the settings that changed since a checkpoint, except those that are `free` to."""
    old, new = dict(_dotted(stored)), dict(_dotted(as_json(wanted)))
    changed = [name for name in sorted({*old, *new}) if name not in free and old.get(name) != new.get(name)]
    if changed:
        listed = ", ".join(f"{name} was {old.get(name)} and is {new.get(name)}" for name in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(f"settings differ from those of checkpoint {where}: {listed}{more}; resume with the same ones")


def _dotted(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            yield from _dotted(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, settings


def as_json(settings: Any) -> Any:
    """Settings as they come back from a JSON file: tuples are lists, what JSON does not know is text."""
    return json.loads(json.dumps(settings, default=str))


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """Leaf path to array; typed PRNG keys become their key data, arrays without elements are left out."""
    flat = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if leaf.size:
            flat[_leaf_name(path)] = np.asarray(leaf)
    return flat


def unflatten(arrays: Mapping[str, np.ndarray], template: Any, where: Path, prefix: str = "") -> Any:
    """The template's structure filled with the arrays. Raises `UserError` naming an array that is missing or that has
    another shape or type."""

    def fill(path: Any, leaf: Any) -> jax.Array:
        name = prefix + _leaf_name(path)
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        wanted = jax.eval_shape(jax.random.key_data, leaf) if is_key else leaf
        if not wanted.size:
            return jnp.zeros(wanted.shape, wanted.dtype)
        if name not in arrays:
            raise UserError(f"checkpoint {where} has no {name}; it is of another version or of another task")
        array = arrays[name]
        if array.shape != wanted.shape or array.dtype != wanted.dtype:
            raise UserError(
                f"{name} in checkpoint {where} is {array.dtype}{list(array.shape)}; "
                f"this run needs {wanted.dtype}{list(wanted.shape)}"
            )
        array = jnp.asarray(array)
        return jax.random.wrap_key_data(array, impl=jax.random.key_impl(jnp.empty((), leaf.dtype))) if is_key else array

    return jax.tree_util.tree_map_with_path(fill, template)


def _leaf_name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


@contextmanager
def plain_errors(where: Path) -> Iterator[None]:
    """Turns a full disk or a folder that cannot be written into a `UserError` that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        code = getattr(error, "errno", None)
        if code in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            raise UserError(
                f"the disk is full while writing {where}; free some space and resume, nothing finished is lost"
            ) from error
        if isinstance(error, OSError):
            raise UserError(f"cannot write {where}: {error.strerror or error}; choose another folder") from error
        raise


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax's progress lines and logged tracebacks out of a user's terminal; its errors are raised anyway."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
