"""Configurations from the JSON a run wrote, back into frozen dataclasses."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from mjx_exo.errors import UserError
from mjx_exo.presets import TrainConfig


def train_config_from_dict(settings: Mapping[str, Any], source: str) -> TrainConfig:
    """A `TrainConfig` from nested dicts with the keys seed, walking and ppo; `UserError` naming an unknown field."""
    wanted = {name: settings[name] for name in ("seed", "walking", "ppo") if name in settings}
    return from_dict(TrainConfig, wanted, source)


def from_dict(cls: Any, data: Any, source: str, path: str = "") -> Any:
    """Builds dataclass `cls` from nested dicts and lists; fields that are absent keep their defaults."""
    hints = typing.get_type_hints(cls)
    names = {f.name for f in dataclasses.fields(cls)}
    unknown = sorted(set(data) - names)
    if unknown:
        raise UserError(f"{source}: unknown field '{path}{unknown[0]}'; known: {', '.join(sorted(names))}")
    values = {k: _value(hints[k], v, source, f"{path}{k}.") for k, v in data.items()}
    return cls(**values)


def _value(hint: Any, value: Any, source: str, path: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(hint, value, source, path)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [a for a in arguments if a is not type(None)]
        return None if value is None else _value(inner[0], value, source, path)
    if origin is tuple:
        return tuple(value)
    if isinstance(value, Mapping) and arguments:
        return {k: _value(arguments[1], v, source, f"{path}{k}.") for k, v in value.items()}
    return value
