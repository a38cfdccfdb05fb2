"""How messages become bytes on the wire and back.

A frame is `COBS(header | payload | CRC-32) 0x00`, little-endian throughout; `PROTOCOL.md` is the specification and
`firmware/exo_protocol.c` the other side. It is kept apart from the serial port so that tests, fuzzers and the virtual
device can speak it over anything that carries bytes.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cobs import cobs

from runtime.messages import (
    FIRMWARE_BYTES,
    MAX_ENCODED_BYTES,
    MAX_TTL_MS,
    NAME_BYTES,
    PROTOCOL_VERSION,
    Arm,
    ArmFlag,
    Disarm,
    FrameType,
    Hello,
    HelloAck,
    Message,
    Request,
    Sensor,
    SensorField,
    Stop,
    StopFlag,
    Torque,
    TorqueFlag,
)

_HEADER = struct.Struct("<BBHI")  # version, type, flags, sequence
_CRC = struct.Struct("<I")
_HELLO = struct.Struct(f"<IQffffHxx{NAME_BYTES}s")
_HELLO_ACK = struct.Struct(f"<IQffffHxx{NAME_BYTES}sBBBx{FIRMWARE_BYTES}s")
_SENSOR = struct.Struct("<QHBBIHxxffff")
_PAIR = struct.Struct("<ff")
_SIX = struct.Struct("<ffffff")
_TORQUE = struct.Struct("<IIHxxff")
_ARM = struct.Struct("<II")
_DISARM = struct.Struct("<I")
_STOP = struct.Struct("<Bxxx")
_REQUEST = struct.Struct("<Hxxff")
_MIN_BODY_BYTES = _HEADER.size + _CRC.size
_OPTIONAL: tuple[tuple[int, str, struct.Struct], ...] = (
    (SensorField.JOINT_VELOCITY, "joint_velocity_rad_s", _PAIR),
    (SensorField.MEASURED_TORQUE, "measured_torque_nm", _PAIR),
    (SensorField.TEMPERATURE, "temperature_c", _PAIR),
    (SensorField.GYRO3, "gyro3_rad_s", _SIX),
    (SensorField.ACCELEROMETER, "acceleration_m_s2", _SIX),
    (SensorField.HIP_ANGLE, "hip_angle_rad", _PAIR),
)
_OPTIONAL = tuple((int(bit), name, layout) for bit, name, layout in _OPTIONAL)
_KNOWN_FIELDS = sum(bit for bit, _, _ in _OPTIONAL)


def _text(text: str, size: int) -> bytes:
    raw = text.encode()
    if len(raw) > size:
        raise ValueError(f"{text!r} is {len(raw)} bytes long, the protocol carries at most {size}")
    return raw


def pack_frame(frame_type: int, flags: int, sequence: int, payload: bytes, version: int = PROTOCOL_VERSION) -> bytes:
    """The bytes of one frame, closing delimiter included, around any payload (unchecked: tests use it for bad ones)."""
    body = _HEADER.pack(version, frame_type, flags, sequence & 0xFFFFFFFF) + payload
    return cobs.encode(body + _CRC.pack(zlib.crc32(body))) + b"\0"


def _encode_hello(m: Hello) -> tuple[int, int, bytes]:
    payload = _HELLO.pack(
        m.session, m.profile_hash, m.rate_hz, m.wearer_mass_kg, m.torque_limit_nm,
        m.torque_rate_limit_nm_s, m.ttl_ms, _text(m.profile_name, NAME_BYTES),
    )  # fmt: skip
    return FrameType.HELLO, 0, payload


def _encode_hello_ack(m: HelloAck) -> tuple[int, int, bytes]:
    payload = _HELLO_ACK.pack(
        m.session, m.profile_hash, m.rate_hz, m.wearer_mass_kg, m.torque_limit_nm,
        m.torque_rate_limit_nm_s, m.ttl_ms, _text(m.profile_name, NAME_BYTES), m.result, m.state, m.latch_reason,
        _text(m.firmware, FIRMWARE_BYTES),
    )  # fmt: skip
    return FrameType.HELLO_ACK, 0, payload


def _encode_sensor(m: Sensor) -> tuple[int, int, bytes]:
    mask = 0
    groups = []
    for bit, name, layout in _OPTIONAL:
        values = getattr(m, name)
        if values is not None:
            mask |= bit
            groups.append(layout.pack(*values))
    fixed = _SENSOR.pack(
        m.device_time_us, mask, m.state, m.latch_reason, m.applied_echo, m.applied_after_us,
        *m.gyro_rad_s, *m.applied_torque_nm,
    )  # fmt: skip
    return FrameType.SENSOR, m.flags, fixed + b"".join(groups)


def _encode_torque(m: Torque) -> tuple[int, int, bytes]:
    right, left = m.torque_nm
    if not (math.isfinite(right) and math.isfinite(left)):
        raise ValueError(f"torque {m.torque_nm} is not finite")
    if not 1 <= m.ttl_ms <= MAX_TTL_MS:
        raise ValueError(f"time to live {m.ttl_ms} ms is outside 1 to {MAX_TTL_MS} ms")
    flags = (TorqueFlag.ARMED.value if m.armed else 0) | (TorqueFlag.DRY_RUN.value if m.dry_run else 0)
    return FrameType.TORQUE, flags, _TORQUE.pack(m.session, m.echo, m.ttl_ms, right, left)


def _encode_arm(m: Arm) -> tuple[int, int, bytes]:
    return FrameType.ARM, ArmFlag.CLEAR_LATCH if m.clear_latch else 0, _ARM.pack(m.session, m.echo)


def _encode_disarm(m: Disarm) -> tuple[int, int, bytes]:
    return FrameType.DISARM, 0, _DISARM.pack(m.session)


def _encode_stop(m: Stop) -> tuple[int, int, bytes]:
    return FrameType.STOP, StopFlag.IMMEDIATE if m.immediate else 0, _STOP.pack(m.reason)


def _encode_request(m: Request) -> tuple[int, int, bytes]:
    return FrameType.REQUEST, 0, _REQUEST.pack(m.kind, m.value, m.second)


_ENCODERS: dict[type, Callable] = {
    Hello: _encode_hello,
    HelloAck: _encode_hello_ack,
    Sensor: _encode_sensor,
    Torque: _encode_torque,
    Arm: _encode_arm,
    Disarm: _encode_disarm,
    Stop: _encode_stop,
    Request: _encode_request,
}


def encode(message: Message) -> bytes:
    """One message as a frame, closing delimiter included.

    Raises ValueError for a non-finite torque, a time to live outside 1–50 ms or a name that is too long: such a frame
    must never exist on the wire. Numbers that do not fit their field raise struct.error or OverflowError.
    """
    frame_type, flags, payload = _ENCODERS[type(message)](message)
    return pack_frame(frame_type, flags, message.sequence, payload)


def _name(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode(errors="replace")


def _decode_hello(flags: int, sequence: int, p: bytes) -> Hello:
    session, digest, rate, mass, limit, slew, ttl, name = _HELLO.unpack(p)
    return Hello(session, rate, _name(name), digest, mass, limit, slew, ttl, sequence)


def _decode_hello_ack(flags: int, sequence: int, p: bytes) -> HelloAck:
    session, digest, rate, mass, limit, slew, ttl, name, result, state, reason, firmware = _HELLO_ACK.unpack(p)
    return HelloAck(
        session, rate, _name(name), digest, mass, limit, slew, ttl, result, state, reason, _name(firmware), sequence
    )


def _decode_sensor(flags: int, sequence: int, p: bytes) -> Sensor:
    time_us, mask, state, reason, echo, after_us, gyro_r, gyro_l, torque_r, torque_l = _SENSOR.unpack_from(p)
    if mask & ~_KNOWN_FIELDS:
        raise struct.error("unknown sensor fields")
    groups: dict[str, Any] = {}
    offset = _SENSOR.size
    for bit, name, layout in _OPTIONAL:
        if mask & bit:
            groups[name] = layout.unpack_from(p, offset)
            offset += layout.size
    if offset != len(p):
        raise struct.error("sensor frame and its mask disagree in length")
    gyro, torque = (gyro_r, gyro_l), (torque_r, torque_l)
    return Sensor(sequence, time_us, gyro, torque, echo, after_us, flags, state, reason, **groups)


def _decode_torque(flags: int, sequence: int, p: bytes) -> Torque:
    session, echo, ttl, right, left = _TORQUE.unpack(p)
    return Torque(session, echo, ttl, (right, left), bool(flags & 1), bool(flags & 2), sequence)


def _decode_arm(flags: int, sequence: int, p: bytes) -> Arm:
    session, echo = _ARM.unpack(p)
    return Arm(session, echo, bool(flags & 1), sequence)


def _decode_disarm(flags: int, sequence: int, p: bytes) -> Disarm:
    return Disarm(_DISARM.unpack(p)[0], sequence)


def _decode_stop(flags: int, sequence: int, p: bytes) -> Stop:
    return Stop(_STOP.unpack(p)[0], bool(flags & 1), sequence)


def _decode_request(flags: int, sequence: int, p: bytes) -> Request:
    kind, value, second = _REQUEST.unpack(p)
    return Request(kind, value, second, sequence)


_DECODERS: dict[int, Callable[[int, int, bytes], Message]] = {
    FrameType.HELLO.value: _decode_hello,
    FrameType.HELLO_ACK.value: _decode_hello_ack,
    FrameType.SENSOR.value: _decode_sensor,
    FrameType.TORQUE.value: _decode_torque,
    FrameType.ARM.value: _decode_arm,
    FrameType.DISARM.value: _decode_disarm,
    FrameType.STOP.value: _decode_stop,
    FrameType.REQUEST.value: _decode_request,
}


@dataclass
class DecoderCounters:
    """What a decoder has seen. Every block between delimiters ends in exactly one of `frames` … `oversize`."""

    bytes: int = 0
    frames: int = 0
    bad_cobs: int = 0
    too_short: int = 0
    bad_crc: int = 0
    unknown_version: int = 0
    unknown_type: int = 0
    bad_payload: int = 0  # right CRC, but a length or a field mask that the type does not allow
    oversize: int = 0
    missed: int = 0  # sequence numbers of accepted frames that were jumped over
    repeated: int = 0  # accepted frames whose sequence number did not advance

    @property
    def rejected(self) -> int:
        """Blocks that were not accepted, for whatever reason."""
        return (
            self.bad_cobs + self.too_short + self.bad_crc + self.unknown_version
            + self.unknown_type + self.bad_payload + self.oversize
        )  # fmt: skip


@dataclass
class Decoder:
    """Bytes in, messages out. Never raises, never holds more than one frame of bytes, resynchronises at a delimiter."""

    counters: DecoderCounters = field(default_factory=DecoderCounters)
    other_version: int | None = None  # last version byte of a sound frame that is not ours
    foreign_hellos: int = 0  # hellos among those frames: a device answers them with WRONG_PROTOCOL
    _pending: bytes = b""
    _skipping: bool = False
    _last_sequence: dict[int, int] = field(default_factory=dict)

    def feed(self, data: bytes) -> list[Message]:
        """All messages that `data` completes, in order of arrival."""
        self.counters.bytes += len(data)
        *blocks, rest = bytes(data).split(b"\0")
        messages = []
        for block in blocks:
            whole = self._pending + block
            skipped, self._skipping, self._pending = self._skipping, False, b""
            if skipped or not whole:
                continue
            if len(whole) > MAX_ENCODED_BYTES:
                self.counters.oversize += 1
                continue
            message = self._decode(whole)
            if message is not None:
                messages.append(message)
        if not self._skipping:
            self._pending += rest
            if len(self._pending) > MAX_ENCODED_BYTES:
                self.counters.oversize += 1
                self._skipping, self._pending = True, b""
        return messages

    def _decode(self, block: bytes) -> Message | None:
        counters = self.counters
        try:
            body = cobs.decode(block)
        except cobs.DecodeError:
            counters.bad_cobs += 1
            return None
        if len(body) < _MIN_BODY_BYTES:
            counters.too_short += 1
            return None
        if zlib.crc32(body[:-4]) != _CRC.unpack(body[-4:])[0]:
            counters.bad_crc += 1
            return None
        version, frame_type, flags, sequence = _HEADER.unpack_from(body)
        if version != PROTOCOL_VERSION:
            counters.unknown_version += 1
            self.other_version = version
            self.foreign_hellos += frame_type == FrameType.HELLO
            return None
        decoder = _DECODERS.get(frame_type)
        if decoder is None:
            counters.unknown_type += 1
            return None
        try:
            message = decoder(flags, sequence, body[_HEADER.size : -4])
        except struct.error:
            counters.bad_payload += 1
            return None
        counters.frames += 1
        self._account(frame_type, sequence)
        return message

    def _account(self, frame_type: int, sequence: int) -> None:
        last = self._last_sequence.get(frame_type)
        self._last_sequence[frame_type] = sequence
        if last is None:
            return
        step = (sequence - last) & 0xFFFFFFFF
        if 0 < step < 0x80000000:
            self.counters.missed += step - 1
        else:
            self.counters.repeated += 1
