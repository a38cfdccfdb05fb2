"""Live curves: JSON over UDP, as PlotJuggler's UDP server reads them. The loop never waits for a viewer."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

from mjx_exo.errors import UserError

DEFAULT_PORT = 9870  # PlotJuggler's


class LivePlot:
    """Sends at most `rate_hz` datagrams a second."""

    def __init__(self, target: str, rate_hz: float = 50.0):
        """`target` is HOST or HOST:PORT. Raises UserError when it cannot be resolved."""
        host, _, port = target.partition(":")
        if port and not port.isdigit():
            raise UserError(f"--live {target}: the port must be a number, e.g. 127.0.0.1:{DEFAULT_PORT}")
        try:
            found = socket.getaddrinfo(host, int(port or DEFAULT_PORT), type=socket.SOCK_DGRAM)
        except (OSError, OverflowError) as error:
            raise UserError(f"--live {target}: {error}") from None
        family, kind, _, _, address = found[0]
        self._address: tuple[Any, ...] = address
        self._socket = socket.socket(family, kind)
        self._socket.setblocking(False)
        self._period_s = 1.0 / rate_hz
        self._next_s = 0.0

    def due(self, now_s: float) -> bool:
        """Whether a datagram would be sent now; so that nobody makes one in vain."""
        return now_s >= self._next_s

    def send(self, now_s: float, values: dict[str, float | list[float]]) -> None:
        """One datagram; `values` may hold pairs, which become name/0 (right) and name/1 (left) in the viewer."""
        self._next_s = now_s + self._period_s
        with contextlib.suppress(OSError):
            self._socket.sendto(json.dumps({"timestamp": now_s, **values}).encode(), self._address)

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()
