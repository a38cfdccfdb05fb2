"""What the virtual wearer was asked to do, over device time: the transfer report cuts a log into pieces by it.

A device does not know how fast its wearer walks; a virtual one does. `conditions.csv` has the columns of
`mjx_exo.gait.device_log`, and a line whenever speed or slope change. Without a speed nobody walks: the wearer stands,
lifts a thigh, or has just fallen.
"""

from __future__ import annotations

import math
from pathlib import Path

from mjx_exo.errors import UserError
from runtime.outlet import Outlet

FILE_NAME = "conditions.csv"
Command = tuple[float, float]  # m/s, rad uphill


class ConditionsFile:
    """Takes the command of every period; writing never holds up the device."""

    def __init__(self, folder: Path):
        """Begins the file in `folder`, which is made if missing. Raises UserError."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / FILE_NAME, "w", encoding="utf-8") as file:
                self._outlet = Outlet(file)
        except OSError as error:
            raise UserError(f"--log {folder}: cannot be written ({error.strerror})") from None
        self._last = "nothing yet"
        self._outlet.write(b"device_time_s,speed_m_s,slope_deg\n")

    def note(self, device_time_us: int, command: Command | None) -> None:
        """Speed and slope as they are now, None for a wearer who does not walk."""
        words = "," if command is None else f"{command[0]:.3f},{math.degrees(command[1]):.3f}"
        if words != self._last:
            self._last = words
            self._outlet.write(f"{1e-6 * device_time_us:.6f},{words}\n".encode())

    def close(self) -> None:
        """Waits for the rest to be written."""
        self._outlet.close()
