"""How long a frame takes from the device to the host and back over a pseudo-terminal, with nothing in between.

    python -m benchmarks.link_roundtrip [--rate-hz 200] [--seconds 10] [--json FILE]

`echo`: the host returns the bytes it read. `link`: it decodes the sensor frame and answers with a torque frame through
`SerialLink`; when several frames have arrived it answers only the newest, as the loop does, and the others count as
unanswered. The echo is the baseline that the loop is measured against: what remains is the loop's own work, and both
must come from the same run, because a busy machine moves them together. The sender is this process, the host a second.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import subprocess
import sys
import time
import tty

import numpy as np

from mjx_exo.errors import UserError, run_command
from mjx_exo.files import write_atomically
from runtime.frames import Decoder, encode
from runtime.link import SerialLink
from runtime.messages import MAX_TTL_MS, Sensor, Torque

MODES = ("echo", "link")
SETTLE_FRAMES = 50  # the first answers carry imports and cold caches


def host(mode: str, port: str) -> None:
    """The other end: answers for ever."""
    link = SerialLink.open(port)
    print("ready", flush=True)
    while link.fault is None:
        select.select([link], [], [])
        if mode == "echo":
            with contextlib.suppress(BlockingIOError):
                os.write(link.fileno(), os.read(link.fileno(), 4096))
            continue
        samples = [m for m in link.receive() if isinstance(m, Sensor)]
        if samples:
            link.send(Torque(1, samples[-1].sequence, MAX_TTL_MS, (1.0, -1.0)))


def measure(mode: str, rate_hz: float, seconds: float) -> np.ndarray:
    """Round trips in s of every answered frame, in order; unanswered frames are missing from it."""
    master, slave = os.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    command = [sys.executable, "-m", "benchmarks.link_roundtrip", "--host", mode, "--port", os.ttyname(slave)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        if child.stdout is None or child.stdout.readline() != "ready\n":
            raise UserError(f"the host process for {mode!r} did not start")
        return _exchange(master, 1.0 / rate_hz, int(rate_hz * seconds) + SETTLE_FRAMES)
    finally:
        child.kill()
        child.wait()
        os.close(master)
        os.close(slave)


def _exchange(port: int, period_s: float, frames: int) -> np.ndarray:
    """Sends `frames` sensor frames on time and notes when each came back."""
    decoder = Decoder()
    sent = np.full(frames + 1, np.nan)
    trips = np.full(frames + 1, np.nan)
    next_s = time.perf_counter()
    sequence = 0
    while sequence < frames or time.perf_counter() < next_s + 0.2:
        ready, _, _ = select.select([port], [], [], max(0.0, min(next_s - time.perf_counter(), 0.2)))
        if ready:
            with contextlib.suppress(BlockingIOError):
                messages = decoder.feed(os.read(port, 4096))
                now = time.perf_counter()
                for message in messages:
                    number = message.echo if isinstance(message, Torque) else message.sequence
                    trips[number] = now - sent[number]
        if sequence < frames and time.perf_counter() >= next_s:
            sequence += 1
            next_s += period_s
            sent[sequence] = time.perf_counter()
            with contextlib.suppress(BlockingIOError):  # a host that stands still: this frame goes unanswered
                os.write(port, encode(Sensor(sequence, int(1e6 * sent[sequence]), (0.1, -0.1))))
    trips = trips[1 + SETTLE_FRAMES :]
    return trips[np.isfinite(trips)]


def summary(trips_s: np.ndarray, expected: int) -> dict[str, float]:
    """Percentiles in ms, and how many frames went unanswered."""
    p50, p99, p999 = np.percentile(trips_s, [50, 99, 99.9]) * 1e3
    return {
        "frames": expected,
        "unanswered": expected - len(trips_s),
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "p999_ms": float(p999),
        "max_ms": float(trips_s.max() * 1e3),
    }


def main() -> int:
    """Parses, measures both modes, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate-hz", type=float, default=200.0, help="frames per second, 10 to 1000")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each mode")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    parser.add_argument("--host", choices=MODES, help=argparse.SUPPRESS)
    parser.add_argument("--port", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.host:
        host(args.host, args.port)
        return 0
    if not 10.0 <= args.rate_hz <= 1000.0:
        raise UserError(f"--rate-hz {args.rate_hz:g} is outside 10 to 1000 Hz")
    if not 0.0 < args.seconds <= 3600.0:
        raise UserError(f"--seconds {args.seconds:g} is outside 0 to 3600 s")
    print(f"round trip over a pty at {args.rate_hz:g} Hz, {args.seconds:g} s each, ms")
    print(f"{'':6}{'frames':>8}{'unanswered':>12}{'p50':>8}{'p99':>8}{'p99.9':>8}{'max':>8}")
    figures = {}
    for mode in MODES:
        trips_s = measure(mode, args.rate_hz, args.seconds)
        if not len(trips_s):
            raise UserError(f"no frame came back in mode {mode!r}")
        row = figures[mode] = summary(trips_s, int(args.rate_hz * args.seconds))
        print(
            f"{mode:6}{row['frames']:8d}{row['unanswered']:12d}"
            f"{row['p50_ms']:8.3f}{row['p99_ms']:8.3f}{row['p999_ms']:8.3f}{row['max_ms']:8.3f}"
        )
    if args.json:
        text = json.dumps({"rate_hz": args.rate_hz, "seconds": args.seconds, **figures}, indent=2)
        write_atomically(args.json, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return 0


if __name__ == "__main__":
    run_command(main)
