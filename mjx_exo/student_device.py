"""The device profile a student is made for, where it is not the teacher's: more sensors on the same hardware."""

from __future__ import annotations

import json

from mjx_exo.device import DeviceProfile


def student_device(name_or_path: str, sensors: str = "") -> DeviceProfile:
    """A profile, with `sensors` (a list with commas) in place of its own; its name then says so.

    Raises `UserError` for an unknown profile or sensor.
    """
    profile = DeviceProfile.load(name_or_path)
    if not sensors:
        return profile
    content = profile.to_dict()
    content["imu"]["sensors"] = [name.strip() for name in sensors.split(",")]
    content["name"] = f"{profile.name}_{'_'.join(content['imu']['sensors'])}"
    return DeviceProfile.from_dict(content, f"--sensors {sensors}")


def toml_text(profile: DeviceProfile) -> str:
    """The profile as a TOML file that `DeviceProfile.load` reads back exactly."""
    content = profile.to_dict()
    lines = [f"name = {json.dumps(content.pop('name'))}"]
    for section, fields in content.items():
        lines += ["", f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in fields.items())]
    return "\n".join(lines) + "\n"
