"""A host process for the tests of the controller: greets a port, answers every sample with one torque, obeys its stdin.

    python link_host.py PORT HASH TORQUE_NM

Lines on stdin: `arm`, `rearm` (clears a latch), `disarm`, `stop`, `quit`. Prints `ready`, then `state STATE REASON`
at changes.
"""

from __future__ import annotations

import select
import sys

from runtime import link as L


def main() -> None:
    port, digest, torque_nm = sys.argv[1], int(sys.argv[2], 16), float(sys.argv[3])
    link = L.SerialLink.open(port)
    hello = L.Hello(L.new_session(), 100.0, "bench", digest, 70.0, 18.0, 150.0)
    L.handshake(link, hello)
    print("ready", flush=True)
    wishes: list[str] = []
    seen = (-1, -1)
    while True:
        ready, _, _ = select.select([link, sys.stdin], [], [])
        if sys.stdin in ready:
            wishes.append(sys.stdin.readline().strip())
        samples = [m for m in link.receive() if isinstance(m, L.Sensor)]
        if link.fault is not None:
            sys.exit(link.fault)
        if not samples:
            continue
        newest = samples[-1]
        if (newest.state, newest.latch_reason) != seen:
            seen = (newest.state, newest.latch_reason)
            print("state", *seen, flush=True)
        while wishes:
            obey(link, wishes.pop(0), hello.session, newest.sequence)
        link.send(L.Torque(hello.session, newest.sequence, 50, (torque_nm, -torque_nm), armed=True))


def obey(link: L.SerialLink, wish: str, session: int, echo: int) -> None:
    if wish in ("arm", "rearm"):
        link.send(L.Arm(session, echo, clear_latch=wish == "rearm"))
    elif wish == "disarm":
        link.send(L.Disarm(session))
    elif wish == "stop":
        link.send(L.Stop(L.StopReason.USER))
    elif wish == "quit":
        sys.exit(0)


if __name__ == "__main__":
    main()
