"""Coverage-guided fuzzing of the Python decoder and controller with atheris (its own environment: pip install atheris).

    python tests/fuzz/fuzz_frames.py -max_total_time=120

Every input is used as bytes off the line and as the body of a frame whose CRC is made right. Nothing may raise; how the
bytes are cut changes nothing; what is accepted survives the wire; memory stays below one frame.
"""

from __future__ import annotations

import contextlib
import struct
import sys
import zlib

import atheris

with atheris.instrument_imports(include=["cobs", "runtime"]):
    from cobs import cobs

    from runtime.controller import Controller, Health
    from runtime.frames import Decoder, encode
    from runtime.messages import MAX_BODY_BYTES, MAX_ENCODED_BYTES, PROTOCOL_VERSION, HelloAck


def check_stream(data: bytes, cut: int) -> None:
    """The properties of a decoder on one stream."""
    whole, pieces = Decoder(), Decoder()
    messages = whole.feed(data)
    again = [m for at in range(0, len(data), cut) for m in pieces.feed(data[at : at + cut])]
    assert repr(again) == repr(messages)
    assert whole.counters == pieces.counters
    assert len(whole._pending) <= MAX_ENCODED_BYTES
    assert whole.counters.frames == len(messages)
    for message in messages:
        with contextlib.suppress(ValueError):  # a torque that is not finite, a name that is not text: never sent by us
            assert repr(Decoder().feed(encode(message))) == repr([message])


def check_controller(data: bytes) -> None:
    """Bytes and time in turn; the torque stays zero, because nobody knows the session and arms."""
    controller = Controller(HelloAck(0, 100.0, "fuzz", 1, 0.0, 18.0, 150.0))
    for tick, at in enumerate(range(0, len(data), 16)):
        controller.receive(data[at : at + 16], 1000 * tick)
        controller.reply()
        assert max(map(abs, controller.tick(Health(), 1000 * tick))) <= 18.0


def one_input(data: bytes) -> None:
    cut = 1 + data[0] % 64 if data else 1
    check_stream(data, cut)
    check_controller(data)
    if 0 < len(data) <= MAX_BODY_BYTES - 4:
        version = PROTOCOL_VERSION if data[0] & 0x0F else data[0]
        body = bytes([version]) + data[1:]
        frame = cobs.encode(body + struct.pack("<I", zlib.crc32(body))) + b"\0"
        check_stream(frame * 2, cut)
        check_controller(frame)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
