"""The C99 controller reference: the same bytes and the same decisions as Python, and its safety run for real.

Compiled here with every warning an error and, where the compiler has them, address and undefined-behaviour sanitizers.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_link import MESSAGES

from runtime import link as L
from runtime.controller import Controller, Health

ROOT = Path(__file__).resolve().parents[1]
FIRMWARE = ROOT / "runtime" / "firmware"
FUZZ = ROOT / "tests" / "fuzz"
WARNINGS = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1", "-g"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
COMPILER = shutil.which("gcc") or shutil.which("cc")
HASH = "00c0ffee00c0ffee"
IDENTITY = L.HelloAck(0, 100.0, "play", int(HASH, 16), 0.0, 18.0, 150.0, 50, firmware="host")
HELLO = L.Hello(5, 100.0, "play", int(HASH, 16), 70.0, 15.0, 120.0)

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


@pytest.fixture(scope="session")
def build(tmp_path_factory) -> Path:
    """The host programs, with sanitizers where a trial program links with them."""
    folder = tmp_path_factory.mktemp("firmware")
    (folder / "trial.c").write_text("int main(void) { return 0; }\n")
    trial = subprocess.run([COMPILER, *SANITIZE, "trial.c", "-o", "trial"], cwd=folder, capture_output=True)
    extra = SANITIZE if trial.returncode == 0 else []
    for program in ("host_check", "host_device"):
        sources = [str(FIRMWARE / f"{part}.c") for part in (program, "exo_protocol", "exo_controller")]
        subprocess.run([COMPILER, *WARNINGS, *extra, *sources, "-o", str(folder / program)], check=True)
    return folder


def c_decode(build: Path, stream: bytes) -> tuple[bytes, dict[str, int]]:
    """What the C decoder accepts of a stream, encoded again by C, and its counters."""
    done = subprocess.run([build / "host_check", "decode"], input=stream, capture_output=True, check=True)
    return done.stdout, {k: int(v) for k, v in (line.split() for line in done.stderr.decode().splitlines())}


def sample_messages(count: int, seed: int) -> list[L.Message]:
    """Messages of every type with random contents."""
    r = random.Random(seed)

    def f(n: int) -> tuple:
        return tuple(struct.unpack("<f", struct.pack("<f", r.uniform(-100, 100)))[0] for _ in range(n))

    def some(n: int) -> tuple | None:
        return f(n) if r.random() < 0.5 else None

    def one() -> L.Message:
        seq, word = r.getrandbits(32), r.getrandbits(32)
        match r.randrange(8):
            case 0:
                return L.Hello(word, *f(1), "näme", r.getrandbits(64), *f(3), 50, seq)
            case 1:
                return L.HelloAck(word, *f(1), "x" * 32, r.getrandbits(64), *f(3), 50, 1, 2, 3, "v1", seq)
            case 2 | 3:
                groups = [some(n) for n in (2, 2, 2, 6, 6, 2)]
                return L.Sensor(
                    seq, r.getrandbits(64), f(2), f(2), word, r.getrandbits(16), r.getrandbits(16), 2, 8, *groups
                )
            case 4:
                return L.Torque(word, seq, r.randint(1, 50), f(2), r.random() < 0.5, r.random() < 0.5, seq)
            case 5:
                return r.choice([L.Arm(word, seq, r.random() < 0.5, seq), L.Disarm(word, seq)])
            case 6:
                return L.Stop(r.randrange(256), r.random() < 0.5, seq)
            case _:
                return L.Request(r.getrandbits(16), *f(2), seq)

    return [one() for _ in range(count)]


# Bytes -----------------------------------------------------------------------------------------------------------


def test_every_message_is_encoded_alike_in_c_and_python(build):
    stream = b"".join(L.encode(m) for m in sample_messages(3000, seed=1))
    echoed, counters = c_decode(build, stream)
    assert echoed == stream
    assert counters["frames"] == 3000


@settings(max_examples=25, deadline=None)
@given(messages=st.lists(MESSAGES, max_size=40))
def test_extreme_values_are_encoded_alike(build, messages):
    stream = b"".join(L.encode(m) for m in messages)
    assert c_decode(build, stream)[0] == stream


@pytest.mark.parametrize("seed", range(6))
def test_corrupt_streams_are_accepted_and_refused_alike(build, seed):
    """Dropped, inserted, flipped and zeroed bytes, frames of other versions, types and lengths with a right CRC."""
    r = random.Random(seed)
    stream = bytearray()
    sent = set()
    for message in sample_messages(2000, seed):
        frame = L.encode(message)
        sent.add(frame)
        stream += frame
        if r.random() < 0.1:
            payload = r.randbytes(r.choice([0, 4, 8, 12, 20, 32, 40, 64, 84, 170]))
            kind = r.choice([2, 3, 4, 6, 77, 129])
            stream += L.pack_frame(kind, r.getrandbits(16), 1, payload, version=r.choice([1, 1, 1, 2]))
        if r.random() < 0.02:
            stream += bytes(r.randrange(1, 256) for _ in range(r.choice([1, 192, 193, 194, 195, 900])))
    for _ in range(len(stream) // 400):
        at = r.randrange(len(stream))
        match r.randrange(4):
            case 0:
                del stream[at]
            case 1:
                stream.insert(at, r.randrange(256))
            case 2:
                stream[at] ^= 1 << r.randrange(8)
            case _:
                stream[at] = 0
    decoder = L.Decoder()
    accepted = decoder.feed(bytes(stream))
    echoed, counters = c_decode(build, bytes(stream))
    assert counters == {name: getattr(decoder.counters, name) for name in counters}
    assert all(n > 0 for n in counters.values())
    assert L.Decoder().feed(echoed).__repr__() == accepted.__repr__()
    crafted = [m for m in accepted if math.nan in (getattr(m, "torque_nm", None) or ())]
    genuine = [m for m in accepted if m.sequence != 1 and m not in crafted]
    assert all(L.encode(m) in sent for m in genuine)


def test_random_bytes_and_damaged_traffic(build):
    """A short run of tests/fuzz/random_bytes.py; ten million bytes are its default."""
    command = [sys.executable, str(FUZZ / "random_bytes.py"), "--bytes", "300000", "--frames", "3000"]
    done = subprocess.run([*command, "--c", str(build / "host_check")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("accepts and refuses the same") == 3


@pytest.mark.parametrize("harness", ["fuzz_decoder", "fuzz_controller"])
def test_the_fuzzers_build_and_take_an_input(build, harness):
    sources = [str(FUZZ / f"{harness}.c"), *(str(FIRMWARE / f"exo_{part}.c") for part in ("protocol", "controller"))]
    program = build / harness
    flags = [*WARNINGS, "-DEXO_FUZZ_STDIN", f"-I{FIRMWARE}"]
    subprocess.run([COMPILER, *flags, *sources, "-o", str(program)], check=True)
    for seed in range(20):
        subprocess.run([program], input=random.Random(seed).randbytes(2000), check=True)


# The same decisions ----------------------------------------------------------------------------------------------


class Twin:
    """One script played by the C reference and by `runtime.controller`; answers are compared as they are read."""

    def __init__(self, build: Path):
        args = [build / "host_check", "play", "100", HASH, "18", "150", "50"]
        self.process = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.python = Controller(IDENTITY)
        self.now_us = 1_000_000
        self.newest = 0
        self.torque = (0.0, 0.0)

    def _ask(self, line: str) -> str:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def receive(self, message: L.Message | bytes) -> L.HelloAck | None:
        """Bytes from the host to both; their answer, which must be the same bytes."""
        data = message if isinstance(message, bytes) else L.encode(message)
        answer = self._ask(f"rx {self.now_us} {data.hex()}")
        self.python.receive(data, self.now_us)
        expected = self.python.reply()
        assert answer == (expected.hex() or "-")
        return L.Decoder().feed(expected)[0] if expected else None

    def sample(self) -> L.Sensor | None:
        """One sensor frame of both: equal but for the last bits of the applied torque."""
        answer = self._ask(f"sample {self.now_us} 0.5 -0.5")
        expected = self.python.sample(L.Sensor(0, 0, (0.5, -0.5)), self.now_us)
        if not expected:
            assert answer == "-"
            return None
        c, python = (L.Decoder().feed(frame)[0] for frame in (bytes.fromhex(answer), expected))
        assert c.applied_torque_nm == pytest.approx(python.applied_torque_nm, abs=1e-3)
        assert c._replace(applied_torque_nm=python.applied_torque_nm) == python
        self.newest = c.sequence
        return c

    def tick(self, microseconds: int = 1000, health: Health = Health()) -> tuple[float, float]:  # noqa: B008
        """Time passes for both; their torque, state and reason must agree. Returns the C torque."""
        self.now_us += microseconds
        answer = self._ask(f"tick {self.now_us} {' '.join(str(int(flag)) for flag in health)}").split()
        expected = self.python.tick(health, self.now_us)
        self.torque = (float(answer[0]), float(answer[1]))
        assert self.torque == pytest.approx(expected, abs=1e-3)
        assert (int(answer[2]), int(answer[3])) == (self.python.state, self.python.latch_reason)
        return self.torque

    def run(self, milliseconds: int, torque_nm: tuple[float, float] | None = None, ttl_ms: int = 50) -> list:
        """Ticks at 1 kHz and samples at 100 Hz, each answered by `torque_nm` (None: not at all); right torques."""
        history = []
        for _ in range(milliseconds):
            if self.now_us % 10_000 == 0:
                self.sample()
                if torque_nm is not None:
                    self.receive(L.Torque(HELLO.session, self.newest, ttl_ms, torque_nm, armed=True))
            history.append(self.tick()[0])
        return history

    def arm(self, torque_nm: tuple[float, float] = (0.0, 0.0), **flags) -> None:
        """Greets, arms and reaches `torque_nm`."""
        self.receive(HELLO)
        self.sample()
        self.receive(L.Arm(HELLO.session, self.newest, **flags))
        self.run(300, torque_nm)

    @property
    def state(self) -> tuple[int, int]:
        return int(self.python.state), int(self.python.latch_reason)

    def close(self) -> None:
        """Ends the script; the counters of both must agree."""
        counters, _ = self.process.communicate()
        assert self.process.returncode == 0
        assert [int(n) for n in counters.split()] == list(vars(self.python.counters).values())


@pytest.fixture
def twin(build) -> Iterator[Twin]:
    twin = Twin(build)
    yield twin
    twin.close()


ARMED = (L.ControllerState.ARMED, L.LatchReason.NONE)


def latched(reason: L.LatchReason) -> tuple[int, int]:
    return (L.ControllerState.LATCHED, reason)


@pytest.mark.parametrize("seed", range(12))
def test_random_histories_end_alike_and_within_the_limits(build, seed):
    """Hellos, commands fresh and stale, faults, gaps, clocks that jump: the torque stays finite, clamped and slow."""
    r = random.Random(seed)
    twin = Twin(build)
    previous = (0.0, 0.0)
    for _ in range(1500):
        match r.choices(range(9), [2, 30, 3, 1, 1, 1, 1, 25, 40])[0]:
            case 0:
                twin.receive(HELLO._replace(**r.choice([{}, {}, {}, dict(rate_hz=200.0), dict(wearer_mass_kg=20.0)])))
            case 1:
                echo = twin.newest - r.choice([0, 0, 0, 0, 1, 3, 70])
                flags = (r.random() < 0.9, r.random() < 0.1)
                torque = (r.uniform(-30, 30), r.uniform(-30, 30))
                session = r.choice([5, 5, 5, 5, 6])
                twin.receive(L.Torque(session, echo & 0xFFFFFFFF, r.choice([50, 50, 20, 5]), torque, *flags))
            case 2:
                twin.receive(L.Arm(5, twin.newest, r.random() < 0.8))
            case 3:
                twin.receive(r.choice([L.Disarm(5), L.Stop(1), L.Stop(2, immediate=True), L.Request(1)]))
            case 4:
                twin.receive(L.pack_frame(2, 1, 1, struct.pack("<IIHxxff", 5, twin.newest, 50, math.nan, 0.0)))
            case 5:
                twin.receive(r.randbytes(30))
            case 6:
                twin.tick(1000, r.choice([Health(True), Health(False, True), Health(False, False, True), Health()]))
            case 7:
                twin.sample()
            case _:
                twin.tick(r.choice([500, 1000, 1000, 1000, 3000, 12_000, 60_000 if r.random() < 0.1 else 1000]))
        for now, before in zip(twin.torque, previous, strict=True):
            assert math.isfinite(now) and abs(now) <= 15.0
            assert abs(now) <= abs(before) + 120.0 * 0.005 + 1e-4 or now * before < 0
        previous = twin.torque
    twin.close()


# Safety, in exact time -------------------------------------------------------------------------------------------


def test_nothing_but_zero_before_arming(twin):
    assert set(twin.run(50, (5.0, 5.0))) == {0.0}
    twin.receive(HELLO)
    assert set(twin.run(200, (5.0, 5.0))) == {0.0}
    assert twin.state == (L.ControllerState.DISARMED, 0)


def test_torque_is_clamped_to_the_smaller_limit_and_to_the_rate(twin):
    twin.arm()
    history = twin.run(500, (1e30, -1e30))
    assert max(history) == pytest.approx(15.0) and twin.torque == pytest.approx((15.0, -15.0))
    steps = [b - a for a, b in zip([0.0, *history], history, strict=False)]
    assert max(steps) <= 120.0 * 0.001 * 1.0001
    assert twin.sample().flags & L.SensorFlag.LIMITED


def test_a_late_tick_does_not_jump(twin):
    twin.arm()
    twin.sample()
    twin.receive(L.Torque(5, twin.newest, 50, (10.0, 10.0), armed=True))
    assert twin.tick(20_000)[0] <= 120.0 * 0.005 * 1.0001


@pytest.mark.parametrize("ttl_ms", [50, 30])
def test_silence_fades_to_zero_within_the_time_to_live_and_latches(twin, ttl_ms):
    twin.arm()
    twin.run(200, (10.0, 0.0), ttl_ms)
    assert twin.now_us % 10_000 == 0
    history = twin.run(60)  # the newest answered sample was sent 10 ms before
    end = ttl_ms - 10
    assert history[end - 1] == 0.0 and set(history[end:]) == {0.0}
    assert all(b <= a for a, b in itertools.pairwise(history))
    assert 0.0 < history[end - 2] < 2.0
    assert twin.state == latched(L.LatchReason.WATCHDOG)
    assert set(twin.run(100, (10.0, 0.0))) == {0.0}, "fresh commands do not wake a latched controller"


def test_a_time_to_live_above_what_was_granted_is_cut(twin):
    twin.arm((10.0, 0.0))
    twin.run(10)
    payload = struct.pack("<IIHxxff", 5, twin.newest, 60_000, 10.0, 0.0)
    twin.receive(L.pack_frame(L.FrameType.TORQUE, 1, 1, payload))
    twin.run(60)
    assert twin.state == latched(L.LatchReason.WATCHDOG)


def test_two_lost_commands_are_not_felt_and_three_fade(twin):
    twin.arm((10.0, 0.0))
    assert min(twin.run(14)) == pytest.approx(10.0)
    assert twin.run(10)[-1] < 10.0
    assert twin.state == ARMED
    assert twin.run(150, (10.0, 0.0))[-1] == pytest.approx(10.0)


def test_old_echoes_are_refused(twin):
    twin.arm((5.0, 0.0))
    counters = twin.python.counters
    for _ in range(3):
        twin.receive(L.Torque(5, twin.newest, 50, (9.0, 0.0), armed=True))  # already answered
    twin.receive(L.Torque(5, twin.newest + 1, 50, (9.0, 0.0), armed=True))  # never sent
    twin.receive(L.Torque(5, (twin.newest - 70) & 0xFFFFFFFF, 50, (9.0, 0.0), armed=True))  # forgotten
    assert counters.rejected_echo == 5
    late = twin.sample().sequence
    twin.tick(21_000)
    twin.receive(L.Torque(5, late, 20, (9.0, 0.0), armed=True))  # fresh once, too old now
    assert counters.rejected_stale == 1


def test_a_backlog_wakes_nothing(twin):
    """The frames of 300 ms arrive in one piece: none is fresh, and the controller has latched meanwhile."""
    twin.arm((5.0, 0.0))
    waiting = []
    for _ in range(30):
        waiting.append(L.encode(L.Torque(5, twin.sample().sequence, 50, (9.0, 0.0), armed=True)))
        for _ in range(10):
            twin.tick()
    waiting.append(L.encode(L.Arm(5, twin.newest - 20, clear_latch=True)))
    twin.receive(b"".join(waiting))
    assert set(twin.run(100)) == {0.0}
    assert twin.state == latched(L.LatchReason.WATCHDOG)


def test_a_stale_sample_cannot_arm(twin):
    twin.receive(HELLO)
    old = twin.sample().sequence
    for _ in range(60):
        twin.tick()
    twin.receive(L.Arm(5, old))
    assert twin.state == (L.ControllerState.DISARMED, 0)


@pytest.mark.parametrize(
    ("health", "reason"),
    [
        (Health(emergency_stop=True), L.LatchReason.EMERGENCY_STOP),
        (Health(driver_fault=True), L.LatchReason.DRIVER_FAULT),
        (Health(over_temperature=True), L.LatchReason.OVER_TEMPERATURE),
    ],
)
def test_a_health_line_latches_and_holds_until_it_is_released_and_rearmed_by_hand(twin, health, reason):
    twin.arm((10.0, 0.0))
    now = twin.tick(1000, health)[0]
    assert now == 0.0 or reason == L.LatchReason.OVER_TEMPERATURE
    for _ in range(26):
        twin.tick(1000, health)
    assert twin.torque == (0.0, 0.0) and twin.state == latched(reason)
    twin.sample()
    twin.receive(L.Arm(5, twin.newest, clear_latch=True))  # the line is still set
    twin.tick(1000, Health())
    assert twin.state == latched(reason)
    twin.sample()
    twin.receive(L.Arm(5, twin.newest))  # nobody said that the latch may go
    assert twin.state == latched(reason)
    twin.receive(L.Arm(5, twin.newest, clear_latch=True))
    assert twin.state == ARMED
    assert twin.run(50, (10.0, 0.0))[0] < 0.5, "re-arming starts at zero"


def test_rearming_needs_a_sample_that_shows_the_latch(twin):
    twin.arm((5.0, 0.0))
    before = twin.sample().sequence
    twin.receive(L.Stop(L.StopReason.USER))
    twin.receive(L.Arm(5, before, clear_latch=True))
    assert twin.state == latched(L.LatchReason.HOST_STOP)


@pytest.mark.parametrize("immediate", [False, True])
def test_stop_reaches_zero_within_25_ms_or_at_once(twin, immediate):
    twin.arm((10.0, 0.0))
    twin.receive(L.Stop(L.StopReason.SIGNAL, immediate))
    history = twin.run(30)
    assert (history[0] == 0.0) == immediate
    assert set(history[25:]) == {0.0}
    assert twin.state == latched(L.LatchReason.HOST_STOP)


def test_disarm_releases_without_a_fault(twin):
    twin.arm((10.0, 0.0))
    twin.receive(L.Disarm(5))
    assert set(twin.run(60, (10.0, 0.0))[25:]) == {0.0}
    assert twin.state == (L.ControllerState.DISARMED, 0)


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7F800000, 0xFF800000])
def test_a_torque_that_is_no_number_latches(twin, bits):
    twin.arm((5.0, 0.0))
    twin.sample()
    twin.receive(L.pack_frame(2, 1, 1, struct.pack("<IIHxxII", 5, twin.newest, 50, bits, 0)))
    assert twin.torque != (0.0, 0.0) and twin.tick() == (0.0, 0.0)
    assert twin.state == latched(L.LatchReason.BAD_COMMAND)


def test_dry_run_and_unarmed_frames_mean_zero(twin):
    twin.arm((5.0, 0.0))
    for flags in (dict(armed=True, dry_run=True), dict(armed=False)):
        for _ in range(10):
            twin.sample()
            twin.receive(L.Torque(5, twin.newest, 50, (9.0, 9.0), **flags))
            for _ in range(10):
                twin.tick()
        assert twin.torque == (0.0, 0.0) and twin.state == ARMED


def test_a_second_host_ends_the_first_ones_arming(twin):
    twin.arm((5.0, 0.0))
    twin.receive(HELLO._replace(session=6))
    assert set(twin.run(60, (5.0, 0.0))[25:]) == {0.0}, "the first host's frames no longer count"
    assert twin.state == latched(L.LatchReason.NEW_SESSION)


def test_a_refused_greeting_changes_nothing_and_says_why(twin):
    for change, result in (
        (dict(rate_hz=200.0), L.HelloResult.WRONG_RATE),
        (dict(profile_hash=1), L.HelloResult.WRONG_PROFILE),
        (dict(wearer_mass_kg=151.0), L.HelloResult.WRONG_MASS),
        (dict(wearer_mass_kg=math.nan), L.HelloResult.WRONG_MASS),
        (dict(torque_limit_nm=-1.0), L.HelloResult.WRONG_LIMITS),
    ):
        assert twin.receive(HELLO._replace(**change)).result == result
        assert twin.sample() is None
    other = L.pack_frame(1, 0, 1, bytes(70), version=L.PROTOCOL_VERSION - 1)
    assert twin.receive(other).result == L.HelloResult.WRONG_PROTOCOL
    assert twin.receive(HELLO).result == L.HelloResult.ACCEPTED


def test_a_clock_that_runs_backwards_latches(twin):
    twin.arm((5.0, 0.0))
    assert twin.tick(-2000) == (0.0, 0.0)
    assert twin.state == latched(L.LatchReason.CLOCK)


# Safety, with real processes -------------------------------------------------------------------------------------

# The C reference latches after 50 ms without a command, and is right to do so when a shared machine holds the host up
# for longer. Such a test is run again; what is broken fails three times.
real_time = pytest.mark.flaky(reruns=2)
HOLDING = ["torque", "2.000000", "-2.000000"]
LATCHED_BY_WATCHDOG = ["state", "3", "reason", "1"]


class Bench:
    """The C reference behind a pty and a host process that holds 2 Nm against it."""

    def __init__(self, build: Path):
        self.lines: list[tuple[int, list[str]]] = []
        self.told = 0  # wishes that became frames
        self.device = subprocess.Popen(
            [build / "host_device", "100", "bench", HASH, "18", "150", "50"], stdout=subprocess.PIPE, text=True
        )
        self.port = self.device.stdout.readline().split()[1]
        threading.Thread(target=self._follow, daemon=True).start()
        self.host = self.start_host()

    def start_host(self) -> subprocess.Popen:
        host = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "link_host.py"), self.port, HASH, "2"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert host.stdout.readline() == "ready\n"
        return host

    def _follow(self) -> None:
        for line in self.device.stdout:
            first, *rest = line.split()
            self.lines.append((int(first), rest))

    def tell(self, wish: str) -> None:
        self.told += 1
        self.host.stdin.write(wish + "\n")
        self.host.stdin.flush()

    def wait_for(self, start: int, *wanted: list[str], seconds: float = 20.0) -> tuple[int, list[str]]:
        """The first device line after `start` lines that is one of `wanted`, with its time in us."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for when, words in self.lines[start:]:
                if words in wanted:
                    return when, words
            time.sleep(0.005)
        raise TimeoutError(f"the device never said {wanted}: {self.lines[-5:]}")

    def arm(self) -> int:
        """Arms and waits for 2 Nm; returns how many lines the device had printed before.

        A busy machine may keep the host waiting for longer than 50 ms; the watchdog is right to latch then: once more.
        """
        for _ in range(8):
            start = len(self.lines)
            self.tell("rearm")
            with contextlib.suppress(TimeoutError):
                if self.wait_for(start, HOLDING, LATCHED_BY_WATCHDOG, seconds=3)[1] == HOLDING:
                    return start
        raise AssertionError(f"this machine is too busy for a 50 ms watchdog: {self.lines[-5:]}")

    def torques_after(self, start: int, when_us: int) -> set[tuple[str, ...]]:
        return {tuple(rest[1:]) for when, rest in self.lines[start:] if rest[0] == "torque" and when > when_us}

    def finish(self) -> dict[str, int]:
        """Ends the device; its counters."""
        self.device.send_signal(signal.SIGTERM)
        assert self.device.wait(10) == 0
        time.sleep(0.1)
        words = self.lines[-1][1][1:]
        return {k: int(v) for k, v in zip(words[::2], words[1::2], strict=True)}

    def close(self) -> None:
        for process in (self.host, self.device):
            process.kill()
            process.wait()


@pytest.fixture
def bench(build) -> Iterator[Bench]:
    bench = Bench(build)
    yield bench
    bench.close()


def now_us() -> int:
    return time.monotonic_ns() // 1000


def zero_within_the_time_to_live(bench: Bench, start: int, since_us: int) -> None:
    """By the device's log: latched; at zero no later than 50 ms and one of its own longest ticks after `since_us`."""
    zero, _ = bench.wait_for(start, ["torque", "0.000000", "0.000000"])
    bench.wait_for(start, LATCHED_BY_WATCHDOG)
    time.sleep(0.3)
    assert bench.torques_after(start, zero) == set()
    assert zero <= since_us + 50_000 + bench.finish()["longest_us"]


@real_time
def test_killing_the_host_ends_at_zero_within_the_time_to_live(bench):
    start = bench.arm()
    bench.host.kill()
    bench.host.wait()
    zero_within_the_time_to_live(bench, start, now_us())


@real_time
def test_a_stopped_and_continued_host_gives_no_command_from_its_backlog(bench):
    start = bench.arm()
    bench.host.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, bench.host.pid, os.WSTOPPED | os.WNOWAIT)
    stopped = now_us()
    bench.wait_for(start, LATCHED_BY_WATCHDOG)
    time.sleep(0.7)
    bench.host.send_signal(signal.SIGCONT)
    time.sleep(0.3)
    zero_within_the_time_to_live(bench, start, stopped)


@real_time
def test_after_a_kill_a_new_host_arms_only_by_hand(bench):
    start = bench.arm()
    bench.host.kill()
    bench.host.wait()
    bench.wait_for(start, LATCHED_BY_WATCHDOG)
    bench.host = bench.start_host()
    start = len(bench.lines)
    bench.tell("arm")
    time.sleep(0.3)
    assert len(bench.lines) == start, "arming without clearing the latch does nothing"
    bench.arm()
    assert bench.finish()["arm"] >= 1


@real_time
def test_the_emergency_stop_is_at_once_and_stays(bench):
    pressed = ["state", "3", "reason", "3"]
    for _ in range(5):
        start = bench.arm()
        bench.device.send_signal(signal.SIGUSR1)
        if bench.wait_for(start, pressed, LATCHED_BY_WATCHDOG)[1] == pressed:
            break
        bench.device.send_signal(signal.SIGUSR2)
    at = [words for _, words in bench.lines].index(pressed)
    assert bench.lines[at - 1] == (bench.lines[at][0], ["torque", "0.000000", "0.000000"])
    assert bench.lines[at - 2][1] == HOLDING, "no ramp"
    bench.tell("rearm")
    time.sleep(0.2)
    bench.device.send_signal(signal.SIGUSR2)
    time.sleep(0.2)
    assert len(bench.lines) == at + 1
    bench.arm()


@real_time
def test_no_frame_between_host_and_device_is_unaccounted_for(bench):
    bench.arm()
    time.sleep(1.0)
    bench.tell("stop")
    bench.host.communicate("quit\n")
    counters = bench.finish()
    answers = counters["accepted"] + counters["echo"] + counters["stale"]
    hellos = counters["frames"] - answers - bench.told
    assert 1 <= hellos <= 8, "one greeting, repeated every 250 ms until it is answered"
    assert (counters["bad_crc"], counters["bad_cobs"], counters["lost"], counters["value"]) == (0, 0, 0, 0)
    assert (counters["session"], counters["ignored"]) == (0, 0)
