"""Small files for using a policy: parameters, normaliser, configuration, hash. What `policies/pretrained/` holds.

    DIR/policy.npz    arrays of every actor
    DIR/policy.json   sizes, what the policy is for, how it was trained, the SHA-256 of policy.npz

A policy without its normaliser is worthless and one for another body is dangerous, so both travel with it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mjx_exo.errors import UserError
from mjx_exo.files import write_atomically
from mjx_exo.learning import networks
from mjx_exo.learning.checkpoint import Checkpoints, Manifest, check_identity, flatten, plain_errors, unflatten
from mjx_exo.learning.config import settings_hash
from mjx_exo.learning.ppo import PPO, ActorState

FORMAT_VERSION = 1
"""Raised whenever the meaning of a stored array changes."""

STORED_WEIGHT = 200_000_000
"""Samples that a stored normaliser counts for when training goes on from it: enough that it hardly moves. Inputs that
move under a policy with little noise make it fall, falls move them further, and nothing is learnt from then on."""


@dataclasses.dataclass(frozen=True)
class Policy:
    """Trained actors, ready to act. `arrays` is a pytree, so `act` may be traced."""

    arrays: Mapping[str, Any]
    description: Mapping[str, Any]
    """The content of policy.json."""

    @property
    def actors(self) -> tuple[str, ...]:
        """Names of the actors."""
        return tuple(sorted(self.arrays))

    def act(self, actor: str, observation: jax.Array) -> jax.Array:
        """Deterministic action (..., action_size) for observations (..., observation_size)."""
        sizes, arrays = self.description["actors"][actor], self.arrays[actor]
        statistics = networks.MeanStd(mean=arrays["mean"], std=arrays["std"])
        inputs = networks.normalise(observation, statistics, self.description["observation_clip"])
        return _network(sizes).apply(None, arrays["params"], inputs)[0]


def export_policy(folder: Path, ppo: PPO, actors: Mapping[str, ActorState], manifest: Manifest) -> None:
    """Writes the policies of a training state's actors; `manifest` says what they belong to."""
    arrays = {
        name: {
            "params": actor.policy_params,
            "mean": actor.observation_statistics.mean,
            "std": actor.observation_statistics.std,
        }
        for name, actor in actors.items()
    }
    sizes = {
        spec.name: {
            "observation_size": spec.observation_size,
            "action_size": spec.action_size,
            "hidden": list(ppo.config.of(spec.name).hidden),
        }
        for spec in ppo.env.actors
        if spec.name in actors
    }
    description = _description(sizes, ppo.config.observation_clip, ppo.env.control_dt, manifest)
    write_policy(folder, Policy(arrays, description))


def _description(
    sizes: Mapping[str, Any], observation_clip: float, control_dt_s: float, manifest: Manifest
) -> dict[str, Any]:
    """The content of policy.json, but for the hash of its arrays."""
    return {
        "format_version": FORMAT_VERSION,
        "actors": sizes,
        "observation_clip": observation_clip,
        "control_dt_s": control_dt_s,
        "identity": dict(manifest.identity),
        "settings": manifest.settings,
        "settings_hash": settings_hash(manifest.settings),
        "versions": dict(manifest.versions),
        "seed": manifest.seed,
        "env_steps": manifest.env_steps,
        "wall_seconds": manifest.wall_seconds,
    }


def policy_so_far(checkpoints: Path) -> Policy:
    """The policy in the newest of a run's `checkpoints`; the run may go on. Raises `UserError` without any."""
    if not checkpoints.is_dir():
        raise UserError(f"no checkpoints at {checkpoints}: not a folder")
    reader = Checkpoints(checkpoints)
    stored, manifest = reader.read()
    reader.close()
    actors = _nested(stored)["actors"]
    arrays, sizes = {}, {}
    for name, actor in actors.items():
        params, statistics = actor["policy_params"], actor["observation_statistics"]
        arrays[name] = {"params": params, "mean": statistics["mean"], "std": statistics["std"]}
        inputs, *hidden, actions = _layer_sizes(params)
        sizes[name] = {"observation_size": inputs, "action_size": actions, "hidden": hidden}
    settings = manifest.settings
    description = _description(
        sizes, settings["ppo"]["observation_clip"], settings["walking"]["control_dt_s"], manifest
    )
    digest = hashlib.sha256()
    for name, array in sorted(flatten(arrays).items()):
        digest.update(name.encode() + array.tobytes())
    return Policy(arrays, {**description, "sha256": digest.hexdigest()})


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """What was stored under paths, as dictionaries within dictionaries."""
    tree: dict[str, Any] = {}
    for path, array in flat.items():
        *parents, name = path.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = array
    return tree


def write_policy(folder: Path, policy: Policy) -> None:
    """Writes policy.npz, then policy.json with its SHA-256; `UserError` if the disk is full or read-only."""
    flat = flatten(policy.arrays)

    def save_arrays(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **flat)

    with plain_errors(folder):
        write_atomically(folder / "policy.npz", save_arrays)
        description = {**policy.description, "sha256": _sha256(folder / "policy.npz")}
        text = json.dumps(description, indent=2, sort_keys=True, default=str) + "\n"
        write_atomically(folder / "policy.json", lambda path: path.write_text(text))


def load_policy(folder: Path, identity: Mapping[str, str] | None = None) -> Policy:
    """Reads a policy written by `export_policy` or `write_policy`.

    Raises `UserError` if a file is missing or damaged, has another format version, or, with `identity` given, is for
    another body or device.
    """
    try:
        description = json.loads((folder / "policy.json").read_text())
        digest = _sha256(folder / "policy.npz")
    except OSError as error:
        raise UserError(f"no policy in {folder}: cannot read {error.filename}") from error
    except ValueError as error:
        raise UserError(f"{folder / 'policy.json'} is not JSON: {error}") from error
    version = description.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(f"policy {folder} has format version {version}; this program reads {FORMAT_VERSION}")
    if digest != description["sha256"]:
        raise UserError(f"{folder / 'policy.npz'} is damaged: its SHA-256 is not the one in policy.json")
    if identity is not None:
        stored = {name: description["identity"].get(name, "") for name in identity}
        check_identity(stored, identity, folder, "policy")
    template = {name: _template(sizes) for name, sizes in description["actors"].items()}
    with np.load(folder / "policy.npz") as arrays:
        return Policy(unflatten(dict(arrays), template, folder), description)


def actor_from_policy(actor: ActorState, policy: Policy, name: str, more_at: int | None = None) -> ActorState:
    """`actor` with the stored policy and normaliser; value function and optimisers stay fresh.

    The actor must be of the stored sizes, or know more actions, which then start at zero: before the stored action
    `more_at`, or after all of them. Raises `UserError` for one that knows fewer actions, sees other inputs or has other
    hidden layers.
    """
    arrays = policy.arrays[name]
    stored, wanted = (_layer_sizes(params) for params in (arrays["params"], actor.policy_params))
    if stored[:-1] != wanted[:-1] or stored[-1] > wanted[-1]:
        raise UserError(
            f"the {name} policy to start from has layers {stored} (inputs, hidden, actions), this run's has {wanted}; "
            "the same are allowed, or more actions; see --ppo.actor.hidden, --walking.clock-freedom and "
            "--walking.muscle-freedom"
        )
    statistics = actor.observation_statistics
    statistics = statistics.replace(
        mean=arrays["mean"],
        std=arrays["std"],
        count=statistics.count.replace(lo=jnp.full_like(statistics.count.lo, STORED_WEIGHT)),
        summed_variance=STORED_WEIGHT * jnp.square(arrays["std"]),
    )
    return actor.replace(
        policy_params=_widened(arrays["params"], actor.policy_params, more_at), observation_statistics=statistics
    )


def _layer_sizes(params: Any) -> list[int]:
    """Inputs, hidden layers and actions of policy parameters."""
    hidden = params["params"]["MLP_0"]
    kernels = [hidden[f"hidden_{i}"]["kernel"] for i in range(len(hidden))]
    return [kernels[0].shape[0], *(kernel.shape[1] for kernel in kernels), networks.log_std(params).shape[0]]


def _widened(stored: Any, fresh: Any, more_at: int | None) -> Any:
    """Stored policy parameters with the actions that only `fresh` ones have: mean zero, noise as fresh."""
    layer, noise = stored["params"]["Dense_0"], networks.log_std(stored)
    known, wanted = noise.shape[0], networks.log_std(fresh).shape[0]
    if known == wanted:
        return stored
    at = known if more_at is None else more_at
    kept = np.delete(np.arange(wanted), np.arange(at, at + wanted - known))  # where the stored actions go
    last = {
        "kernel": jnp.zeros((layer["kernel"].shape[0], wanted)).at[:, kept].set(layer["kernel"]),
        "bias": jnp.zeros(wanted).at[kept].set(layer["bias"]),
    }
    widened = {"params": {**stored["params"], "Dense_0": last}}
    return networks.with_log_std(widened, networks.log_std(fresh).at[kept].set(noise))


def _template(sizes: Mapping[str, Any]) -> dict[str, Any]:
    params = jax.eval_shape(_network(sizes).init, jax.random.key(0))
    statistics = jax.eval_shape(lambda: networks.init_statistics(sizes["observation_size"]))
    return {"params": params, "mean": statistics.mean, "std": statistics.std}


def _network(sizes: Mapping[str, Any]) -> Any:
    return networks.make_policy_network(sizes["observation_size"], sizes["action_size"], tuple(sizes["hidden"]))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
