"""A pseudo-terminal that can be unplugged, and how long the other side takes to answer over it."""

from __future__ import annotations

import os
import time
import tty
from pathlib import Path

from mjx_exo.errors import UserError
from runtime.frames import Decoder
from runtime.messages import Torque
from runtime.summary import LatencyHistogram

_REMEMBERED = 256  # frames whose sending time is kept


class PseudoPort:
    """Our end of a raw pty; the host opens `name`. With a link it keeps its name when plugged in again."""

    def __init__(self, link: Path | None = None):
        self._link = link
        self._ours = self._theirs = -1
        self.unsent = 0  # writes that found no room or nobody
        self.plug_in()

    @property
    def plugged(self) -> bool:
        return self._ours >= 0

    @property
    def name(self) -> str:
        """What the host opens."""
        return str(self._link) if self._link is not None else os.ttyname(self._theirs)

    def fileno(self) -> int:
        return self._ours

    def plug_in(self) -> None:
        """Opens a pty; our end does not block, the other is kept open so that hosts may come and go."""
        self._ours, self._theirs = os.openpty()
        tty.setraw(self._theirs)
        os.set_blocking(self._ours, False)
        if self._link is None:
            return
        try:
            self._remove_link()
            self._link.symlink_to(os.ttyname(self._theirs))
        except OSError as error:
            raise UserError(f"--port-link {self._link}: cannot be made ({error.strerror})") from None

    def pull_out(self) -> None:
        """Closes it: the host's reads and writes fail from now on."""
        if self.plugged:
            self._remove_link()
            os.close(self._ours)
            os.close(self._theirs)
            self._ours = self._theirs = -1

    def read(self) -> bytes:
        """What has arrived, or nothing."""
        try:
            return os.read(self._ours, 4096) if self.plugged else b""
        except OSError:
            return b""

    def write(self, data: bytes) -> bool:
        """Whether all of it went out; what does not fit is lost, as on a real line."""
        try:
            whole = self.plugged and os.write(self._ours, data) == len(data)
        except OSError:
            whole = False
        self.unsent += not whole
        return whole

    def _remove_link(self) -> None:
        if self._link is not None and self._link.is_symlink():
            self._link.unlink()


class AnswerMeter:
    """Sensor to command as the device sees it: from writing a sensor frame to reading the torque that answers it."""

    def __init__(self) -> None:
        self.latency = LatencyHistogram()
        self.answered = 0
        self.newest = 0  # sample whose answer came last
        self._decoder = Decoder()
        self._sent: dict[int, tuple[int, float]] = {}

    def sent(self, sequence: int) -> None:
        """A sensor frame has gone out now."""
        self._sent[sequence % _REMEMBERED] = (sequence, time.monotonic())

    def heard(self, data: bytes) -> None:
        """Bytes of the host have been read now."""
        now_s = time.monotonic()
        for message in self._decoder.feed(data):
            if not isinstance(message, Torque):
                continue
            sequence, sent_s = self._sent.pop(message.echo % _REMEMBERED, (None, 0.0))
            if sequence == message.echo:
                self.answered += 1
                self.newest = sequence
                self.latency.add(now_s - sent_s)
