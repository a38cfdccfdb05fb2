"""Ten million random bytes, and real traffic with damage, through both decoders.

    python tests/fuzz/random_bytes.py [--bytes 10000000] [--frames 200000] [--seed 0] [--c BUILD/host_check]

Prints what was accepted: from noise nothing should be (the chance is stated), from damaged traffic only what was sent.
Exits with 1 if the decoders disagree or anything was accepted that nobody sent.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
import tracemalloc
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from runtime.frames import Decoder, encode
from runtime.messages import Disarm, Message, Sensor, Torque

CHUNK = 4096
DAMAGE_SHARE = 0.005  # of all bytes: flipped, dropped, doubled or zeroed
SHARED_COUNTERS = (
    "frames", "bad_cobs", "too_short", "bad_crc", "unknown_version", "unknown_type", "bad_payload", "oversize",
)  # fmt: skip


def noise(size: int, rng: random.Random, zeros: bool) -> bytes:
    """Random bytes; with `zeros`, one in 40 is a delimiter, so that most blocks have the length of a frame."""
    data = bytearray(rng.randbytes(size))
    if zeros:
        for _ in range(size // 40):
            data[rng.randrange(size)] = 0
    return bytes(data)


def traffic(frames: int, rng: random.Random) -> tuple[bytes, set[bytes]]:
    """Real frames with damage, and the frames as they were sent."""
    sent, stream = set(), bytearray()
    for sequence in range(frames):
        pair = (rng.gauss(0, 2), rng.gauss(0, 2))
        message = rng.choice(
            [
                Sensor(sequence, 10_000 * sequence, pair, pair, sequence, joint_velocity_rad_s=pair),
                Torque(7, sequence, 50, pair, True, sequence=sequence),
                Disarm(7, sequence),
            ]
        )
        frame = encode(message)
        sent.add(frame)
        for byte in frame:
            if rng.random() >= DAMAGE_SHARE:
                stream.append(byte)
                continue
            match rng.randrange(4):
                case 0:
                    stream.append(byte ^ (1 << rng.randrange(8)))
                case 1:
                    stream += bytes([byte, byte])
                case 2:
                    stream.append(0)
    return bytes(stream), sent


def decode(stream: bytes) -> tuple[list[Message], Decoder]:
    """All messages of a stream that arrives in pieces."""
    decoder = Decoder()
    return [m for at in range(0, len(stream), CHUNK) for m in decoder.feed(stream[at : at + CHUNK])], decoder


def c_counters(program: str, stream: bytes) -> tuple[bytes, dict[str, int]]:
    """The C decoder's accepted frames and counters."""
    done = subprocess.run([program, "decode"], input=stream, capture_output=True, check=True)
    return done.stdout, {k: int(v) for k, v in (line.split() for line in done.stderr.decode().splitlines())}


def judge(name: str, stream: bytes, sent: set[bytes], program: str | None) -> bool:
    """Runs one stream through the decoders and prints a line; whether all is well."""
    start = time.perf_counter()
    messages, decoder = decode(stream)
    seconds = time.perf_counter() - start
    counters = asdict(decoder.counters)
    foreign = sum(encode(m) not in sent for m in messages)
    checked = counters["bad_crc"] + counters["frames"]
    print(
        f"{name}: {len(stream):,} bytes in {seconds:.1f} s, "
        f"{counters['frames']:,} frames accepted, {foreign} of them never sent"
    )
    print("  refused: " + ", ".join(f"{k} {counters[k]:,}" for k in SHARED_COUNTERS[1:] if counters[k]))
    print(f"  {checked:,} blocks reached the CRC: chance of one wrong acceptance {counters['bad_crc'] / 2**32:.1e}")
    if program:
        echoed, theirs = c_counters(program, stream)
        same = theirs == {k: counters[k] for k in SHARED_COUNTERS} and echoed == b"".join(map(encode, messages))
        print(f"  the C decoder {'accepts and refuses the same' if same else f'DISAGREES: {theirs}'}")
        return same and not foreign
    return not foreign


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=int, default=10_000_000)
    parser.add_argument("--frames", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--c", help="host_check of runtime/firmware, to compare with")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    tracemalloc.start()
    decoder = Decoder()
    for _ in range(256):
        decoder.feed(b"\x55" * CHUNK)
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(256):
        decoder.feed(b"\x55" * CHUNK)
    growth = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    print(f"an endless block of {512 * CHUNK:,} bytes: {growth} bytes of memory growth in its second half")
    streams = [
        ("noise", noise(args.bytes, rng, zeros=False), set()),
        ("noise with many delimiters", noise(args.bytes, rng, zeros=True), set()),
        ("damaged traffic", *traffic(args.frames, rng)),
    ]
    verdicts = [judge(*stream, args.c) for stream in streams]
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
