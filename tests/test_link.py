"""Frames, decoder, serial link and handshake: what the loop and a device may rely on."""

from __future__ import annotations

import itertools
import math
import os
import pty
import re
import struct
import time
import tty
import zlib
from pathlib import Path

import pytest
from cobs import cobs
from hypothesis import given, settings
from hypothesis import strategies as st

from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError
from runtime import link as L

PROTOCOL = Path(__file__).resolve().parents[1] / "runtime" / "PROTOCOL.md"
OTHER_VERSION = L.PROTOCOL_VERSION - 1

u8, u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
number = st.floats(width=32, allow_nan=False)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
pair = st.tuples(number, number)
six = st.tuples(*[number] * 6)
name = st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=16)
HELLO_FIELDS = dict(
    session=u32, rate_hz=number, profile_name=name, profile_hash=u64, wearer_mass_kg=number, torque_limit_nm=number,
    torque_rate_limit_nm_s=number, ttl_ms=u16, sequence=u32,
)  # fmt: skip
MESSAGES = st.one_of(
    st.builds(L.Hello, **HELLO_FIELDS),
    st.builds(L.HelloAck, **HELLO_FIELDS, result=u8, state=u8, latch_reason=u8, firmware=name),
    st.builds(
        L.Sensor, u32, u64, pair, pair, u32, u16, u16, u8, u8,
        *[st.none() | group for group in (pair, pair, pair, six, six, pair)],
    ),
    st.builds(L.Torque, u32, u32, st.integers(1, 50), st.tuples(finite, finite), st.booleans(), st.booleans(), u32),
    st.builds(L.Arm, u32, u32, st.booleans(), u32),
    st.builds(L.Disarm, u32, u32),
    st.builds(L.Stop, u8, st.booleans(), u32),
    st.builds(L.Request, u16, number, number, u32),
)  # fmt: skip


def sensor(sequence: int = 1, **changes) -> L.Sensor:
    return L.Sensor(sequence, 1000 * sequence, (0.5, -0.25))._replace(**changes)


def hello(**changes) -> L.Hello:
    return L.hello_for(DeviceProfile.load("hip_3200g"), 70.0, session=7)._replace(**changes)


def device() -> L.HelloAck:
    return L.device_identity(DeviceProfile.load("hip_3200g"))


@pytest.fixture
def line():
    """A host link on the slave end of a raw pty, opened as a port, and the device's end as a second link."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    host = L.SerialLink.open(os.ttyname(slave))
    end = L.SerialLink(master, "device")
    yield host, end
    host.close()
    end.close()
    os.close(slave)


# Frames ----------------------------------------------------------------------------------------------------------


@given(MESSAGES)
def test_every_message_survives_the_wire(message):
    decoder = L.Decoder()
    assert decoder.feed(L.encode(message)) == [message]
    assert decoder.counters.rejected == 0


def test_the_numbers_in_the_specification_are_those_of_the_code():
    text = PROTOCOL.read_text(encoding="utf-8")
    assert zlib.crc32(b"123456789") == 0xCBF43926 and "0xCBF43926" in text
    examples = re.findall(r"^`(\w+\(.*\))`\n\n```\n([0-9a-f \n]+)```", text, re.MULTILINE)
    assert len(examples) >= 6
    for call, bytes_hex in examples:
        message = eval(call, vars(L))
        assert L.encode(message).hex() == re.sub(r"\s", "", bytes_hex), call
    for plain, encoded in re.findall(r"^\| `([0-9A-F ]*)` \| `([0-9A-F ]+)` \|", text, re.MULTILINE):
        assert cobs.encode(bytes.fromhex(plain)) == bytes.fromhex(encoded)


@pytest.mark.parametrize("torque", [(math.nan, 0.0), (0.0, math.inf), (-math.inf, 0.0)])
def test_a_torque_that_is_no_number_never_becomes_a_frame(torque):
    with pytest.raises(ValueError, match="finite"):
        L.encode(L.Torque(1, 1, 50, torque))


@pytest.mark.parametrize("ttl_ms", [-1, 0, 51])
def test_a_time_to_live_outside_1_to_50_ms_never_becomes_a_frame(ttl_ms):
    with pytest.raises(ValueError, match="time to live"):
        L.encode(L.Torque(1, 1, ttl_ms, (0.0, 0.0)))


# Decoder ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=40) | MESSAGES.map(L.encode), max_size=12), st.integers(1, 50))
def test_how_bytes_are_cut_changes_nothing(pieces, size):
    stream = b"".join(pieces)
    whole, cut = L.Decoder(), L.Decoder()
    expected = whole.feed(stream)
    got = [m for start in range(0, len(stream), size) for m in cut.feed(stream[start : start + size])]
    assert repr(got) == repr(expected)
    assert cut.counters == whole.counters


@given(MESSAGES, st.data())
def test_no_frame_with_one_damaged_byte_is_accepted(message, data):
    frame = bytearray(L.encode(message))
    frame[data.draw(st.integers(0, len(frame) - 2))] ^= data.draw(st.integers(1, 255))
    decoder = L.Decoder()
    assert decoder.feed(bytes(frame)) == []
    assert decoder.counters.rejected >= 1


@settings(max_examples=30)
@given(st.binary(max_size=4000))
def test_garbage_is_counted_and_the_next_frames_are_read(garbage):
    decoder = L.Decoder()
    decoder.feed(garbage + b"\0")
    assert decoder.feed(L.encode(sensor())) == [sensor()]
    assert decoder.counters.frames == 1
    assert decoder.counters.rejected == sum(1 for block in garbage.split(b"\0") if block)


def test_an_endless_block_takes_no_memory_and_counts_once():
    decoder = L.Decoder()
    for _ in range(1000):
        decoder.feed(b"\x55" * 1000)
        assert len(decoder._pending) <= 193
    decoder.feed(b"\0")
    assert decoder.counters.oversize == 1
    assert decoder.feed(L.encode(sensor())) == [sensor()]


def test_every_kind_of_bad_frame_has_its_own_counter():
    payload = L.encode(sensor())
    good = cobs.decode(payload[:-1])
    decoder = L.Decoder()
    decoder.feed(b"\x05\x01\0")  # a code that points beyond the block
    decoder.feed(b"\x03\x01\x02\0")  # sound COBS, too short for a frame
    decoder.feed(cobs.encode(good[:-1] + bytes([good[-1] ^ 1])) + b"\0")
    decoder.feed(L.pack_frame(129, 0, 1, good[8:-4], version=OTHER_VERSION))
    decoder.feed(L.pack_frame(77, 0, 1, b""))
    decoder.feed(L.pack_frame(129, 0, 1, good[8:-5]))
    decoder.feed(L.pack_frame(129, 0, 1, struct.pack("<QH", 0, 0x8000) + bytes(26)))
    decoder.feed(b"\x01" * 500 + b"\0")
    c = decoder.counters
    assert (c.bad_cobs, c.too_short, c.bad_crc, c.unknown_version, c.unknown_type) == (1, 1, 1, 1, 1)
    assert (c.bad_payload, c.oversize, c.frames) == (2, 1, 0)
    assert decoder.other_version == OTHER_VERSION


def test_lost_and_repeated_frames_are_counted_across_the_wrap():
    decoder = L.Decoder()
    for sequence in (2**32 - 2, 2**32 - 1, 0, 4, 4, 3):
        decoder.feed(L.encode(sensor(sequence)))
    decoder.feed(L.encode(L.Stop(sequence=900)))  # another type counts for itself
    assert (decoder.counters.missed, decoder.counters.repeated) == (3, 2)


# Serial link -----------------------------------------------------------------------------------------------------


def received(link, count, patience_s=2.0):
    """`count` messages, or what came in time: the kernel may hand over written bytes in several reads."""
    messages, deadline = [], time.monotonic() + patience_s
    while len(messages) < count and time.monotonic() < deadline:
        messages += link.receive()
    return messages


def test_messages_cross_a_port_numbered_by_type(line):
    host, end = line
    for _ in range(2):
        assert host.send(L.Torque(1, 1, 50, (1.0, -1.0), armed=True))
    assert host.send(L.Disarm(1))
    arrived = received(end, 3)
    assert [(type(m).__name__, m.sequence) for m in arrived] == [("Torque", 1), ("Torque", 2), ("Disarm", 1)]
    assert end.send(sensor(41))
    assert received(host, 1) == [sensor(41)]
    assert (host.fault, host.sent_frames) == (None, 3)


def test_silence_is_no_fault(line):
    host, _ = line
    assert host.receive() == [] and host.receive() == []
    assert host.fault is None


def test_a_device_that_stops_reading_is_a_fault_not_a_wait(line):
    host, _ = line
    sent = sum(itertools.takewhile(bool, (host.send(L.Disarm(1)) for _ in range(100_000))))
    assert 0 < sent < 100_000
    assert "stopped reading" in host.fault
    assert not host.send(L.Disarm(1))


def test_stop_frames_get_past_a_full_line(line):
    host, end = line
    while host.send(L.Disarm(1)):
        pass
    assert host.send_stop(L.StopReason.LINK_FAULT)
    received = []
    while (batch := end.receive()) or not received:
        received += batch
    assert [m for m in received if isinstance(m, L.Stop)] == [L.Stop(L.StopReason.LINK_FAULT)] * 3


def test_unplugging_latches_and_stays(line):
    host, end = line
    end.close()
    assert host.receive() == []
    assert "cable" in host.fault
    first = host.fault
    assert not host.send(L.Stop()) and not host.send_stop(L.StopReason.USER) and host.receive() == []
    assert host.fault == first


def test_unplugging_is_also_noticed_by_writing(line):
    host, end = line
    end.close()
    assert not host.send(L.Stop())
    assert "cable" in host.fault


def test_a_port_that_another_program_holds_is_refused_in_words(line):
    host, _ = line
    with pytest.raises(UserError, match="another program is using it"):
        L.SerialLink.open(host.name)


def test_a_port_that_does_not_exist_is_refused_in_words(tmp_path):
    with pytest.raises(UserError, match="there is no such port"):
        L.SerialLink.open(str(tmp_path / "ttyUSB0"))


def test_old_bytes_are_thrown_away_when_a_port_is_opened():
    master, slave = pty.openpty()
    tty.setraw(slave)
    os.write(master, L.encode(sensor()))
    host = L.SerialLink.open(os.ttyname(slave))
    os.write(master, L.encode(sensor(2)))
    assert received(host, 1) == [sensor(2)]
    host.close()
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize(("writable", "note"), [(True, None), (False, "16 ms")])
def test_slow_usb_adapters_are_set_or_named(tmp_path, monkeypatch, writable, note):
    timer = tmp_path / "ttyUSB3" / "device" / "latency_timer"
    timer.parent.mkdir(parents=True)
    timer.write_text("16\n")
    if not writable:
        monkeypatch.setattr(Path, "write_text", lambda *a, **k: (_ for _ in ()).throw(PermissionError()))
    advice = L.ftdi_latency_note("ttyUSB3", tmp_path)
    assert advice is None if note is None else note in advice
    assert L.ftdi_latency_note("ttyACM0", tmp_path) is None


# Handshake -------------------------------------------------------------------------------------------------------


class Answering:
    """A link whose device answers each hello by a function; no port, no waiting."""

    def __init__(self, line, answer):
        self.host, self.end, self.answer = *line, answer
        self.name, self.decoder, self.counters = self.host.name, self.host.decoder, self.host.counters
        self.fault = None

    def fileno(self):
        return self.host.fileno()

    def send(self, message):
        self.host.send(message)
        for heard in self.end.receive():
            self.end.send_bytes(self.answer(heard))
        return True

    def receive(self):
        return self.host.receive()


def greet(line, answer, timeout_s: float = 10.0, **changes) -> L.HelloAck:
    return L.handshake(Answering(line, answer), hello(**changes), timeout_s=timeout_s, retry_s=0.1)


# These wait in vain for a third of a second; a machine that stands still for longer reads nothing meanwhile and has
# another sentence to say. Such a test is run again.
in_vain = pytest.mark.flaky(reruns=2)


def test_a_fitting_device_is_accepted_with_the_smaller_limits(line):
    ack = greet(line, lambda h: L.encode(L.answer_hello(h, device()._replace(torque_limit_nm=10.0))))
    assert (ack.torque_limit_nm, ack.torque_rate_limit_nm_s, ack.ttl_ms) == (10.0, 150.0, 50)
    assert L.check_hello_ack(hello(), ack) is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(rate_hz=200.0), "samples at 200 Hz"),
        (dict(profile_hash=5, profile_name="hip_other"), "hip_other"),
    ],
)
def test_another_device_is_refused_with_a_sentence_that_says_which(line, change, sentence):
    def answer(heard):
        return L.encode(L.answer_hello(heard, device()._replace(**change)))

    with pytest.raises(UserError, match=sentence):
        greet(line, answer)


@pytest.mark.parametrize("mass_kg", [29.9, 150.1, math.nan, -70.0])
def test_a_wearer_outside_30_to_150_kg_is_refused_by_both_sides(line, mass_kg):
    with pytest.raises(UserError, match="30 to 150 kg"):
        greet(line, lambda h: b"", wearer_mass_kg=mass_kg)
    assert L.answer_hello(hello(wearer_mass_kg=mass_kg), device()).result == L.HelloResult.WRONG_MASS


@pytest.mark.parametrize(
    ("change", "result"),
    [
        (dict(rate_hz=200.0), L.HelloResult.WRONG_RATE),
        (dict(profile_hash=1), L.HelloResult.WRONG_PROFILE),
        (dict(torque_limit_nm=math.inf), L.HelloResult.WRONG_LIMITS),
        (dict(torque_rate_limit_nm_s=-1.0), L.HelloResult.WRONG_LIMITS),
    ],
)
def test_the_device_refuses_what_does_not_fit_it_and_the_host_says_so(change, result):
    greeting = hello(**change)
    ack = L.answer_hello(greeting, device())
    assert ack.result == result
    assert L.check_hello_ack(greeting, ack)


@in_vain
def test_another_protocol_is_named_with_both_versions(line):
    with pytest.raises(UserError, match=f"protocol {OTHER_VERSION}, this program speaks {L.PROTOCOL_VERSION}"):
        greet(line, lambda h: L.pack_frame(128, 0, 1, bytes(84), version=OTHER_VERSION), timeout_s=0.3)


def test_a_device_that_does_not_know_our_protocol_is_named(line):
    with pytest.raises(UserError, match=f"does not speak protocol {L.PROTOCOL_VERSION}"):
        greet(line, lambda h: L.encode(device()._replace(session=h.session, result=L.HelloResult.WRONG_PROTOCOL)))


@in_vain
@pytest.mark.parametrize(
    ("noise", "sentence"), [(b"", "no answer"), (b"\xf8\x1c" * 30, "baud"), (L.encode(sensor()), "no answer to the")]
)
def test_silence_noise_and_deafness_are_told_apart(line, noise, sentence):
    with pytest.raises(UserError, match=sentence):
        greet(line, lambda h: noise, timeout_s=0.3)


@in_vain
def test_the_answer_to_an_earlier_session_does_not_count(line):
    with pytest.raises(UserError, match="no answer to the greeting"):
        greet(line, lambda h: L.encode(L.answer_hello(h, device())._replace(session=h.session + 1)), timeout_s=0.3)
