"""The serial link to the device: a port that reports trouble instead of raising, and the handshake.

pyserial opens the port (exclusively, with the right speed) and then stands aside: its `write_timeout=None` blocks for
ever when the peer stops reading and `0` spins, so bytes move by non-blocking `os.read` and `os.write` on the
descriptor. The first trouble latches in `SerialLink.fault` as a sentence; a faulted link never works again by itself:
the caller opens a new one and greets the device again. All of `runtime.messages`
and `runtime.frames` is re-exported here.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import select
import termios
import time
from collections.abc import Callable
from pathlib import Path

import serial

from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError
from runtime.frames import Decoder, DecoderCounters, encode, pack_frame
from runtime.messages import (
    LATCH_TEXT,
    MAX_TTL_MS,
    NAME_BYTES,
    PROTOCOL_VERSION,
    Arm,
    ArmFlag,
    ControllerState,
    Disarm,
    FrameType,
    Hello,
    HelloAck,
    HelloResult,
    LatchReason,
    Message,
    Pair,
    Request,
    RequestKind,
    Sensor,
    SensorField,
    SensorFlag,
    Six,
    Stop,
    StopFlag,
    StopReason,
    Torque,
    TorqueFlag,
)

__all__ = [
    "DEFAULT_BAUDRATE",
    "LATCH_TEXT",
    "MASS_RANGE_KG",
    "MAX_TTL_MS",
    "PROTOCOL_VERSION",
    "Arm",
    "ArmFlag",
    "ControllerState",
    "Decoder",
    "DecoderCounters",
    "Disarm",
    "FrameType",
    "Hello",
    "HelloAck",
    "HelloResult",
    "LatchReason",
    "Message",
    "Pair",
    "Request",
    "RequestKind",
    "Sensor",
    "SensorField",
    "SensorFlag",
    "SerialLink",
    "Six",
    "Stop",
    "StopFlag",
    "StopReason",
    "Torque",
    "TorqueFlag",
    "answer_hello",
    "check_hello",
    "check_hello_ack",
    "device_identity",
    "encode",
    "ftdi_latency_note",
    "handshake",
    "hello_for",
    "new_session",
    "pack_frame",
]  # fmt: skip

DEFAULT_BAUDRATE = 921_600
MASS_RANGE_KG = (30.0, 150.0)
_READ_BYTES = 65_536  # a pty or driver buffer holds 4 KiB; one read empties it
_STOP_REPEATS = 3
_RATE_TOLERANCE_HZ = 0.01  # rates travel as 32-bit floats
_FTDI_WANTED_MS = 1


def new_session() -> int:
    """A random non-zero 32-bit number that tells this run's frames from those of an earlier one."""
    return secrets.randbelow(0xFFFFFFFF) + 1


def hello_for(profile: DeviceProfile, wearer_mass_kg: float, session: int | None = None) -> Hello:
    """The greeting for a device of this profile, worn by somebody of that body mass (kg, without the device)."""
    limits = profile.limits(wearer_mass_kg)
    return Hello(
        session=session or new_session(),
        rate_hz=profile.link.rate_hz,
        profile_name=profile.name,
        profile_hash=int(profile.profile_hash(), 16),
        wearer_mass_kg=wearer_mass_kg,
        torque_limit_nm=float(limits.limit_nm),
        torque_rate_limit_nm_s=profile.torque.rate_limit_nm_s,
        ttl_ms=profile.link.time_to_live_ms,
    )


def device_identity(profile: DeviceProfile, firmware: str = "") -> HelloAck:
    """What a device built to this profile says about itself; `answer_hello` adds the verdict on a hello."""
    return HelloAck(
        session=0,
        rate_hz=profile.link.rate_hz,
        profile_name=profile.name,
        profile_hash=int(profile.profile_hash(), 16),
        wearer_mass_kg=0.0,
        torque_limit_nm=profile.torque.limit_nm,
        torque_rate_limit_nm_s=profile.torque.rate_limit_nm_s,
        ttl_ms=profile.link.time_to_live_ms,
        firmware=firmware,
    )


class SerialLink:
    """One open port. `receive` and `send` never raise and never block; `fault` says what ended the link, or is None."""

    def __init__(self, descriptor: int, name: str, port: serial.Serial | None = None):
        """Wraps an open descriptor (a pty end in tests); `open` is the way to a real port."""
        self.name = name
        self.fault: str | None = None
        self.decoder = Decoder()
        self.sent_frames = 0
        self._descriptor = descriptor
        self._port = port
        self._sequences: dict[type, int] = {}
        os.set_blocking(descriptor, False)

    @classmethod
    def open(cls, port: str, baudrate: int = DEFAULT_BAUDRATE) -> SerialLink:
        """Opens a port for this process alone and throws away what lay in its buffers. Raises UserError."""
        try:
            handle = serial.Serial(port, baudrate, timeout=0, exclusive=True)
        except (serial.SerialException, OSError, ValueError) as error:
            raise UserError(f"cannot open port {port!r}: {_reason(error)}") from error
        with contextlib.suppress(termios.error, OSError):
            _tell_silence_from_hangup(handle.fileno())
            termios.tcflush(handle.fileno(), termios.TCIOFLUSH)
        return cls(handle.fileno(), port, handle)

    def fileno(self) -> int:
        """The descriptor, for `select`. It stays readable after an unplug, so that the loop wakes up and is told."""
        return self._descriptor

    @property
    def counters(self) -> DecoderCounters:
        return self.decoder.counters

    def receive(self) -> list[Message]:
        """Everything that has arrived, in order; empty when there is nothing or the link is down."""
        messages: list[Message] = []
        while self.fault is None:
            try:
                data = os.read(self._descriptor, _READ_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                self._latch(f"reading from {self.name} failed ({error.strerror}): was the cable pulled?")
                break
            if not data:
                self._latch(f"{self.name} is gone: was the cable pulled?")
                break
            messages.extend(self.decoder.feed(data))
            if len(data) < _READ_BYTES:
                break
        return messages

    def send(self, message: Message) -> bool:
        """Sends one message with the next sequence number of its type; False (and a fault) if not all of it went out.

        Sensor frames keep their own number. Raises ValueError for a message that must not be sent (see `encode`).
        """
        if not isinstance(message, Sensor):
            sequence = (self._sequences.get(type(message), 0) + 1) & 0xFFFFFFFF
            self._sequences[type(message)] = sequence
            message = message._replace(sequence=sequence)
        return self.send_bytes(encode(message))

    def send_bytes(self, data: bytes) -> bool:
        """Writes raw bytes once; anything short of all of them is a link fault, because the rest would arrive late."""
        if self.fault is not None:
            return False
        try:
            written = os.write(self._descriptor, data)
        except BlockingIOError:
            written = 0
        except OSError as error:
            self._latch(f"writing to {self.name} failed ({error.strerror}): was the cable pulled?")
            return False
        if written < len(data):
            self._latch(f"{self.name} took {written} of {len(data)} bytes: the device has stopped reading")
            return False
        self.sent_frames += 1
        return True

    def send_stop(self, reason: int, immediate: bool = False) -> bool:
        """Best effort to stop the device, also on a faulted link: drops what still waits to go out, then stops thrice.

        A leading delimiter ends whatever half frame went out before. Returns whether one whole stop frame was written.
        """
        with contextlib.suppress(termios.error, OSError):
            termios.tcflush(self._descriptor, termios.TCOFLUSH)
        frames = b"\0" + encode(Stop(reason, immediate)) * _STOP_REPEATS
        try:
            return os.write(self._descriptor, frames) > len(frames) // _STOP_REPEATS
        except OSError as error:
            self._latch(f"stop could not be written to {self.name} ({error.strerror})")
            return False

    def close(self) -> None:
        """Closes the port. The link stays faulted, so later calls do nothing."""
        if self.fault is None:
            self.fault = f"{self.name} is closed"
        with contextlib.suppress(OSError, serial.SerialException):
            if self._port is not None:
                self._port.close()
            else:
                os.close(self._descriptor)

    def _latch(self, sentence: str) -> None:
        if self.fault is None:
            self.fault = sentence


def _tell_silence_from_hangup(descriptor: int) -> None:
    """pyserial leaves VMIN at 0, where an empty line and a pulled cable both read as no bytes; with 1 they differ."""
    attributes = termios.tcgetattr(descriptor)
    attributes[6][termios.VMIN] = 1
    attributes[6][termios.VTIME] = 0
    termios.tcsetattr(descriptor, termios.TCSANOW, attributes)


def _reason(error: Exception) -> str:
    """The plain part of a pyserial or OS error."""
    code = getattr(error, "errno", None)
    if isinstance(error, serial.SerialException) and "exclusively lock" in str(error):
        return "another program is using it; close that program first"
    if code == 2:
        return "there is no such port; is the device plugged in and switched on?"
    if code == 13:
        return "permission denied; add your user to the group that owns it (often dialout) and log in again"
    return os.strerror(code) if code else str(error)


def ftdi_latency_note(port: str, sysfs: Path = Path("/sys/class/tty")) -> str | None:
    """Sets an FTDI adapter's latency timer to 1 ms; a sentence of advice if it stays longer, None when all is well.

    These adapters hold small packets back for 16 ms by default, more than a whole sample period at 100 Hz.
    """
    timer = sysfs / Path(port).resolve().name / "device" / "latency_timer"
    try:
        latency_ms = int(timer.read_text())
        if latency_ms > _FTDI_WANTED_MS:
            with contextlib.suppress(OSError):
                timer.write_text(str(_FTDI_WANTED_MS))
            latency_ms = int(timer.read_text())
    except (OSError, ValueError):
        return None
    if latency_ms <= _FTDI_WANTED_MS:
        return None
    return f"{port} holds bytes back for {latency_ms} ms; run: echo 1 | sudo tee {timer}"


def check_hello(hello: Hello) -> str | None:
    """What is wrong with a hello before it is even sent, as a sentence, or None."""
    low, high = MASS_RANGE_KG
    if not low <= hello.wearer_mass_kg <= high:
        return f"wearer mass {hello.wearer_mass_kg:g} kg is outside {low:g} to {high:g} kg"
    if not (math.isfinite(hello.torque_limit_nm) and hello.torque_limit_nm > 0):
        return f"torque limit {hello.torque_limit_nm:g} Nm is not a positive number"
    if not (math.isfinite(hello.torque_rate_limit_nm_s) and hello.torque_rate_limit_nm_s > 0):
        return f"torque rate limit {hello.torque_rate_limit_nm_s:g} Nm/s is not a positive number"
    if not 1 <= hello.ttl_ms <= MAX_TTL_MS:
        return f"time to live {hello.ttl_ms} ms is outside 1 to {MAX_TTL_MS} ms"
    if len(hello.profile_name.encode()) > NAME_BYTES:
        return f"profile name {hello.profile_name!r} is longer than {NAME_BYTES} bytes"
    return None


def check_hello_ack(hello: Hello, ack: HelloAck) -> str | None:
    """Why this device must not be used with this hello, as a sentence, or None when everything agrees."""
    if ack.result == HelloResult.WRONG_PROTOCOL:
        return f"the device does not speak protocol {PROTOCOL_VERSION}; update its firmware or this program"
    if not abs(ack.rate_hz - hello.rate_hz) < _RATE_TOLERANCE_HZ:
        return f"the device samples at {ack.rate_hz:g} Hz, profile {hello.profile_name!r} says {hello.rate_hz:g} Hz"
    if ack.profile_hash != hello.profile_hash:
        return (
            f"the device carries profile {ack.profile_name!r} ({ack.profile_hash:016x}), this run uses "
            f"{hello.profile_name!r} ({hello.profile_hash:016x}); choose that profile or flash the device"
        )
    if ack.result == HelloResult.WRONG_MASS:
        return f"the device refuses wearer mass {hello.wearer_mass_kg:g} kg"
    if ack.result == HelloResult.WRONG_LIMITS:
        return (
            f"the device refuses the limits {hello.torque_limit_nm:g} Nm and {hello.torque_rate_limit_nm_s:g} Nm/s; "
            f"it allows {ack.torque_limit_nm:g} Nm and {ack.torque_rate_limit_nm_s:g} Nm/s"
        )
    if ack.result != HelloResult.ACCEPTED:
        return f"the device refuses this host with code {ack.result}"
    if not abs(ack.wearer_mass_kg - hello.wearer_mass_kg) < 0.01:
        return f"the device works with wearer mass {ack.wearer_mass_kg:g} kg, this run with {hello.wearer_mass_kg:g} kg"
    return None


def answer_hello(hello: Hello, device: HelloAck) -> HelloAck:
    """The device's side: `device` (what it is and allows) filled in with the verdict on `hello`.

    Limits in the answer are those the device will enforce: never above its own. The C reference decides alike.
    """
    result = HelloResult.ACCEPTED
    if not abs(hello.rate_hz - device.rate_hz) < _RATE_TOLERANCE_HZ:
        result = HelloResult.WRONG_RATE
    elif hello.profile_hash != device.profile_hash:
        result = HelloResult.WRONG_PROFILE
    elif not MASS_RANGE_KG[0] <= hello.wearer_mass_kg <= MASS_RANGE_KG[1]:
        result = HelloResult.WRONG_MASS
    elif not (0 < hello.torque_limit_nm < math.inf and 0 < hello.torque_rate_limit_nm_s < math.inf):
        result = HelloResult.WRONG_LIMITS
    answer = device._replace(session=hello.session, wearer_mass_kg=hello.wearer_mass_kg, result=result)
    if result != HelloResult.ACCEPTED:
        return answer
    return answer._replace(
        torque_limit_nm=min(device.torque_limit_nm, hello.torque_limit_nm),
        torque_rate_limit_nm_s=min(device.torque_rate_limit_nm_s, hello.torque_rate_limit_nm_s),
        ttl_ms=min(device.ttl_ms, max(1, hello.ttl_ms)),
    )


def handshake(
    link: SerialLink,
    hello: Hello,
    timeout_s: float = 2.0,
    retry_s: float = 0.25,
    clock: Callable[[], float] = time.monotonic,
) -> HelloAck:
    """Greets the device until it answers this session; returns its answer or raises UserError with one sentence."""
    mistake = check_hello(hello)
    if mistake is not None:
        raise UserError(mistake)
    deadline = clock() + timeout_s
    next_try = -math.inf
    while clock() < deadline:
        if clock() >= next_try:
            link.send(hello)
            next_try = clock() + retry_s
        select.select([link], [], [], min(retry_s, max(0.0, deadline - clock())))
        for message in link.receive():
            if isinstance(message, HelloAck) and message.session == hello.session:
                mistake = check_hello_ack(hello, message)
                if mistake is not None:
                    raise UserError(f"{link.name}: {mistake}")
                return message
        if link.fault is not None:
            raise UserError(link.fault)
    raise UserError(f"{link.name}: {_silence(link, timeout_s)}")


def _silence(link: SerialLink, timeout_s: float) -> str:
    """Why nothing useful answered a hello."""
    counters = link.counters
    if link.decoder.other_version is not None:
        return f"the device speaks protocol {link.decoder.other_version}, this program speaks {PROTOCOL_VERSION}"
    if counters.frames:
        return f"{counters.frames} sound frames arrived in {timeout_s:g} s, but no answer to the greeting"
    if counters.bytes:
        return f"{counters.bytes} bytes arrived in {timeout_s:g} s, but no sound frame; is the baud rate right?"
    return f"no answer in {timeout_s:g} s; is this the right port, and is the device switched on?"
