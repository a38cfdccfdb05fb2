"""From configuration to an environment: body, wearers, engine, device."""

from __future__ import annotations

import jax
from jax.sharding import Mesh

from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError
from mjx_exo.musculoskeletal.compiled import compile_body
from mjx_exo.musculoskeletal.wearer import Wearer, draw_wearers
from mjx_exo.physics.interface import EngineConfig
from mjx_exo.walking.config import WalkingConfig
from mjx_exo.walking.env import WalkingEnv

ENGINES = ("auto", "native", "mjx", "published")
DEVICE_MODES = ("absent", "worn", "active")


def choose_engine(name: str) -> str:
    """The engine for this machine: MJX where JAX runs on an accelerator, native otherwise, unless the user says."""
    if name not in ENGINES:
        raise UserError(f"unknown engine '{name}'; known engines: {', '.join(ENGINES)}")
    if name != "auto":
        return name
    return "native" if jax.default_backend() == "cpu" else "mjx"


def load_device(config: WalkingConfig) -> DeviceProfile | None:
    """The profile of the device that is worn, or None; checks that mode and profile go together."""
    if config.device_mode not in DEVICE_MODES:
        raise UserError(f"unknown device mode '{config.device_mode}'; known modes: {', '.join(DEVICE_MODES)}")
    if config.device_mode == "absent":
        return None
    if not config.device:
        raise UserError(f"device mode '{config.device_mode}' needs a device profile; name one with --device")
    return DeviceProfile.load(config.device)


def build_environment(config: WalkingConfig, mesh: Mesh | None = None) -> WalkingEnv:
    """The environment of a configuration, on several devices with a `mesh`, which needs engine mjx.

    Raises `UserError` for what cannot be built.
    """
    if config.num_envs < 1:
        raise UserError(f"num_envs = {config.num_envs} is not allowed; at least 1")
    profile = load_device(config)
    body = compile_body(config.body)
    if config.wearers == 1:
        wearers: tuple[Wearer, ...] = (Wearer(),)
    else:
        wearers = draw_wearers(min(config.wearers, config.num_envs), config.wearer_range, config.wearer_seed)
    engine_config = EngineConfig(timestep_s=config.physics_step_s, threads=config.threads)
    engine_name = choose_engine(config.engine)
    if engine_name == "native":
        from mjx_exo.physics.native import NativeEngine as EngineClass
    elif engine_name == "published":
        from mjx_exo.physics.published import PublishedEngine as EngineClass
    else:
        from mjx_exo.physics.mjx import MjxEngine

        return WalkingEnv(config, MjxEngine(body, config.num_envs, wearers, engine_config, profile, mesh=mesh), profile)
    engine = EngineClass(body, config.num_envs, wearers, engine_config, profile)
    return WalkingEnv(config, engine, profile)
