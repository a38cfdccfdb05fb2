"""One session: the event loop between a policy, the guard and the device, from greeting to the last stop frame.

The loop blocks in `select` and lives on sensor frames: everything that has arrived goes into the window, and one answer
goes out for the newest. A timer only notices that nothing comes. Whatever ends the loop (a signal, an exception, a
pulled cable, the clock) ends in `_end`: stop frames first, words afterwards.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import threading
import time
from collections.abc import Callable

import numpy as np

from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError
from runtime import realtime
from runtime.channels import missing_group
from runtime.console import HELP, Console
from runtime.feed import window_rows
from runtime.guard import Guard, latch_words
from runtime.link import SerialLink, ftdi_latency_note, handshake, hello_for
from runtime.live import LivePlot
from runtime.messages import Arm, Disarm, Request, RequestKind, Sensor, SensorFlag, StopReason, Torque
from runtime.policy import Policy
from runtime.recorder import Recorder
from runtime.rehearsal import Rehearsal
from runtime.settings import Settings, guard_config
from runtime.stages import MOVING, Observation, Stage
from runtime.startup import process_age_s, started
from runtime.summary import Tally, table
from runtime.wishes import Wishes
from runtime.witness import Answer, Witness

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TIMER_S = 0.01  # longest wait while frames are expected
AWAKE_S = 0.001  # before a frame is due, this much of the wait is spent awake
WARMING_SHARE = 2.0  # of an inference, before a frame is due: from then on there is none that it could wait for
OVERDUE_S = 0.0005  # and this much after it was due
RECONNECT_S = 1.0
HINT_S = 5.0
WIND_DOWN_S = 1.0
EXIT_FAULT = 3
_NAN_PAIR = (math.nan, math.nan)


class Session:
    """`run` once. `clock` is monotonic seconds; a test may bring its own console."""

    def __init__(
        self,
        settings: Settings,
        policy: Policy,
        profile: DeviceProfile,
        console: Console,
        recorder: Recorder | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._settings, self._policy, self._profile = settings, policy, profile
        self._console, self._clock = console, clock
        self.guard = Guard(guard_config(settings, policy, profile))
        self.tally = Tally()
        self._witness = Witness(recorder, LivePlot(settings.live) if settings.live else None)
        self._wishes = Wishes(settings.walk)
        self._rehearsal = Rehearsal()
        self._link: SerialLink | None = None
        self._link_rejected = self._lost_before = 0
        self._session = 0
        self._period_s, self._due_s = math.inf, math.inf  # of the device's frames; when the next one is due
        self._last_row: np.ndarray | None = None
        self._student = _NAN_PAIR
        self._inference_s = math.inf  # how long the last one took
        self._auto_arm = settings.arm
        self._deadline_s = math.inf
        self._wind_down_s = math.inf
        self._next_hint_s = self._next_try_s = 0.0
        self._first_frame = True
        self._stage = Stage.BOOT
        self._ended: tuple[str, int, StopReason] | None = None  # words, exit code, what the controller is told
        self._scheduling = "ordinary"
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def run(self) -> int:
        """Greets the device and runs until something ends it; returns the exit code, prints the table.

        Raises UserError when the device cannot be opened or refuses, before anything moved.
        """
        restore = self._take_signals()
        try:
            self.guard.booted(self._clock())
            self._go_real_time()
            self._connect()
            self.tally.start_s = process_age_s()
            self._console.say(f"ready for the wearer, {started(self.tally.start_s)}")
            self._deadline_s = self._clock() + self._settings.duration_s
            while self._ended is None:
                self._round()
        except UserError:
            self._ended = ("before it began", 2, StopReason.LINK_FAULT)
            raise
        except BaseException as error:
            self._ended = (f"exception: {error!r}", 1, StopReason.EXCEPTION)
            raise
        finally:
            self._end()
            restore()
            os.close(self._wake_read)
            os.close(self._wake_write)
        return self._ended[1]

    # One round: wait, take what came, answer once.

    def _round(self) -> None:
        waiting = [self._wake_read]
        if self._link is not None:
            waiting.append(self._link.fileno())
        if self._console.fileno is not None:
            waiting.append(self._console.fileno)
        ready = self._wait(waiting)
        now_s = self._clock()
        if self._link is not None and self._link.fileno() in ready:
            self._receive(now_s)
        elif self._link is not None:
            self.tally.timeouts += 1
        self.guard.tick(now_s)
        if self._link is None:
            self._reconnect(now_s)
        if self._console.fileno in ready:
            for command in self._console.commands():
                self._command(now_s, command)
        self._follow(now_s)

    def _wait(self, waiting: list[int]) -> list[int]:
        """Blocks until something is there, for `TIMER_S` at most; returns what.

        The moment before a frame is due is spent awake, with the student computed again and again on what it has seen
        and the answer rehearsed: a processor that slept and caches that went cold answer late. It ends while a frame
        that comes early would not yet wait for it, and where computing takes too long it is left out.
        """
        began_s = self._clock()
        pause_s = self._due_s - AWAKE_S - began_s
        if not (0.0 < pause_s < TIMER_S and self._inference_s < 0.5 * AWAKE_S):
            return select.select(waiting, [], [], TIMER_S)[0]
        ready = select.select(waiting, [], [], pause_s)[0]
        while not ready and self._clock() + WARMING_SHARE * self._inference_s < self._due_s:
            self._policy.infer()
            self._rehearsal.run(began_s, self._student, self._session, self._profile.link.time_to_live_ms)
            ready = select.select(waiting, [], [], 0.0)[0]
        while not ready and self._clock() < self._due_s + OVERDUE_S:
            ready = select.select(waiting, [], [], 0.0)[0]
        return ready or select.select(waiting, [], [], max(0.0, began_s + TIMER_S - self._clock()))[0]

    def _receive(self, woke_s: float) -> None:
        link = self._link
        frames = [message for message in link.receive() if isinstance(message, Sensor)]
        tally = self.tally
        tally.frames += len(frames)
        tally.first_s = woke_s if tally.first_s is None and frames else tally.first_s
        if frames:
            tally.last_s, self._due_s = woke_s, woke_s + self._period_s
        pending: tuple[Sensor, Observation] | None = None
        rows = 0
        for sample in frames:
            if self._first_frame:
                self._meet(woke_s, sample)
            rejected = self.guard.rejected
            seen = self.guard.observe(woke_s, sample)
            tally.stage_frames[self.guard.stage] += 1
            rows += self._push(seen)
            if seen.fresh:
                tally.arrived(sample)
                if pending is not None:
                    tally.superseded += 1
                    self._record(woke_s, *pending)
                pending = (sample, seen)
            else:
                tally.rejected += self.guard.rejected - rejected
                tally.repeated += self.guard.rejected == rejected
                self._record(woke_s, sample, seen)
        if pending is not None and link.fault is None:
            self._answer(woke_s, *pending, rows > 0)
        elif pending is not None:
            tally.unsent += 1
            self._record(woke_s, *pending)
        if link.fault is not None:
            self._lose_link(woke_s, link.fault)

    def _push(self, seen: Observation) -> int:
        """Rows into the window; returns how many."""
        if seen.flush and seen.rows:
            self._policy.flush()
            self._last_row = None
        if seen.rows:
            new = np.array(seen.values)
            for row in window_rows(self._last_row, new, seen.rows):
                self._policy.push(row)
            self._last_row = new
        return seen.rows

    def _answer(self, woke_s: float, sample: Sensor, seen: Observation, new_rows: bool) -> None:
        guard, link, tally = self.guard, self._link, self.tally
        student, inference_s = None, math.nan
        if new_rows and self._policy.full:
            started_s = self._clock()
            right, left = self._policy.infer().tolist()
            inference_s = self._inference_s = self._clock() - started_s
            self._student = student = (right, left)
            tally.inferences += 1
            tally.inference.add(inference_s)
        decision = guard.decide(woke_s, student)
        ttl_ms = self._profile.link.time_to_live_ms
        dry_run = self._settings.dry_run
        link.send(Torque(self._session, sample.sequence, ttl_ms, decision.torque_nm, decision.armed, dry_run))
        done_s = self._clock()
        if guard.stage == Stage.FAULT and sample.armed:
            link.send_stop(StopReason.GUARD_FAULT, guard.immediate_stop)
        elif guard.wants_arm:
            link.send(Arm(self._session, sample.sequence, clear_latch=sample.latched))
        elif sample.armed and not guard.armed and guard.stage not in MOVING:
            link.send(Disarm(self._session))
        if link.fault is None:
            tally.answered += 1
            tally.latency.add(done_s - woke_s)
        else:
            tally.unsent += 1
        moving = guard.stage in MOVING
        tally.moving += moving
        tally.limited += moving and decision.limited
        self._record(woke_s, sample, seen, Answer(decision, done_s - woke_s, inference_s))
        if sample.flags & SensorFlag.SIMULATED:
            self._ask(woke_s)
        self._rehearsal.prepare(woke_s, guard, sample, self._period_s)

    def _record(self, woke_s: float, sample: Sensor, seen: Observation, answer: Answer | None = None) -> None:
        self._witness.record(woke_s, sample, seen, self._student, self.guard, answer)

    def _ask(self, now_s: float) -> None:
        """A virtual wearer is asked for what a person would read off the screen."""
        request = self._wishes.next(now_s, self.guard)
        if request is not None:
            self._link.send(request)
            self._witness.note(
                now_s, "request", request=_request_words(request), value=request.value, second=request.second
            )

    # The link coming and going.

    def _connect(self) -> None:
        """Opens and greets; raises UserError."""
        settings = self._settings
        link = SerialLink.open(settings.port, settings.baud or self._profile.link.baud)
        try:
            hello = hello_for(self._profile, settings.wearer_mass_kg)
            acknowledged = handshake(link, hello, settings.timeout_s)
        except UserError:
            link.close()
            raise
        self._link, self._session, self._first_frame = link, hello.session, True
        self._period_s = 1.0 / acknowledged.rate_hz
        own = self.guard.config.limits
        limits = own._replace(
            limit_nm=min(float(own.limit_nm), acknowledged.torque_limit_nm),
            rate_limit_nm_s=min(own.rate_limit_nm_s, acknowledged.torque_rate_limit_nm_s),
        )
        firmware = f"firmware {acknowledged.firmware or 'unknown'}"
        self._console.say(
            f"{link.name}: {self._profile.name} at {acknowledged.rate_hz:g} Hz, {firmware}, at most "
            f"{limits.limit_nm:.1f} Nm and {limits.rate_limit_nm_s:g} Nm/s for {settings.wearer_mass_kg:g} kg"
        )
        if acknowledged.latch_reason:
            self._console.say(
                f"the controller had stopped earlier: {latch_words(acknowledged.latch_reason)}; 'arm' clears that"
            )
        note = ftdi_latency_note(settings.port)
        if note:
            self._console.say(note)
        self._policy.flush()
        self._last_row = None
        self._lost_before += self.guard.feed.missed
        self.guard.linked(self._clock(), acknowledged.rate_hz, limits)

    def _meet(self, now_s: float, sample: Sensor) -> None:
        """The first frame shows which sensors the device has."""
        self._first_frame = False
        missing = missing_group(sample, self._policy.channels)
        if missing is not None:
            self.guard.fault(now_s, f"the policy needs {missing} and this device does not send it")

    def _lose_link(self, now_s: float, reason: str) -> None:
        self._link_rejected += self._link.counters.rejected
        self._link.send_stop(StopReason.LINK_FAULT)
        self._link.close()
        self._link = None
        self._rehearsal.forget()
        self._next_try_s = now_s + RECONNECT_S
        self.guard.link_lost(now_s, reason)
        self._witness.note(now_s, "link", up=False, text=reason)
        self._console.say(
            "the link is lost: the device goes to zero by itself and stays there, whatever happens here; look after "
            f"cable and power and plug it in again, this program keeps looking for {self._settings.port}"
        )

    def _reconnect(self, now_s: float) -> None:
        if now_s < self._next_try_s:
            return
        with contextlib.suppress(UserError):
            self._connect()
            self.tally.reconnects += 1
            self._witness.note(self._clock(), "link", up=True, text="the device is back")
            self._console.say(
                "the device is back; type 'reset', then stand still and lift each thigh as asked (cables may have been "
                "swapped), then type 'arm'; there is no torque before that"
                if self.guard.stage == Stage.FAULT
                else "the device is back; stand still"
            )
        self._next_try_s = self._clock() + RECONNECT_S

    # People, time and signals.

    def _command(self, now_s: float, command: str) -> None:
        self._witness.note(now_s, "command", text=command)
        refusal = None
        if command == "arm":
            refusal = self.guard.arm(now_s)
        elif command == "disarm":
            self.guard.disarm(now_s)
        elif command == "reset":
            refusal = self.guard.reset(now_s)
        elif command == "status":
            self._console.say(f"{self.guard.stage.name}: {self.guard.hint}")
        elif command in ("quit", "stop", "exit"):
            self._ended = ("by command", 0, StopReason.USER)
        else:
            self._console.say(f"{command!r} is not a command; {HELP}")
        if refusal:
            self._console.say(refusal)

    def _follow(self, now_s: float) -> None:
        """Acts on where the guard has got to: stop frames at a fault, words, arming by option, the end of time."""
        guard = self.guard
        if guard.stage == Stage.FAULT and self._stage != Stage.FAULT:
            self.tally.faults.append(guard.reason)
            if self._link is not None:
                self._link.send_stop(StopReason.GUARD_FAULT, guard.immediate_stop)
            if self._console.fileno is None:
                self._ended = (f"by a fault: {guard.reason}", EXIT_FAULT, StopReason.GUARD_FAULT)
        self._stage = guard.stage
        if guard.stage == Stage.READY and self._auto_arm:
            self._auto_arm = False
            guard.arm(now_s)
        if now_s >= self._deadline_s:
            self._deadline_s, self._wind_down_s = math.inf, now_s + WIND_DOWN_S
            guard.disarm(now_s)
        at_rest = guard.stage not in MOVING and not guard.device_armed
        if self._wind_down_s < math.inf and (at_rest or now_s >= self._wind_down_s):
            self._ended = ("after the time asked for", 0, StopReason.FINISHED)
        while guard.events:
            event = guard.events.pop(0)
            self._console.say(f"{event.stage.name.lower():>10}  {event.text}")
            self._witness.note(event.time_s, "stage", stage=event.stage.name, text=event.text)
            self._next_hint_s = now_s + HINT_S
        if now_s >= self._next_hint_s and guard.stage not in MOVING:
            self._next_hint_s = now_s + HINT_S
            self._console.say(f"{guard.stage.name.lower():>10}  {guard.hint}")

    def _take_signals(self) -> Callable[[], None]:
        """Signals end the session; returns what undoes that. Only the main thread may take them."""
        if threading.current_thread() is not threading.main_thread():
            return lambda: None

        def on_signal(number: int, frame: object) -> None:
            self._ended = (f"by {signal.Signals(number).name}", 128 + number, StopReason.SIGNAL)

        def on_overrun(number: int, frame: object) -> None:
            realtime.step_down()
            self._scheduling = "real-time until it computed too long"
            self.guard.fault(self._clock(), "the loop computed for too long without a pause")

        before = {number: signal.signal(number, on_signal) for number in SIGNALS}
        before[signal.SIGXCPU] = signal.signal(signal.SIGXCPU, on_overrun)
        old_wake = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

        def restore() -> None:
            signal.set_wakeup_fd(old_wake)
            for number, handler in before.items():
                signal.signal(number, handler)

        return restore

    def _go_real_time(self) -> None:
        if self._settings.real_time:
            granted, notes = realtime.enter()
            self._scheduling = "real-time (SCHED_FIFO)" if granted else "ordinary (real-time refused)"
            for note in notes:
                self._console.say(note)
        realtime.freeze_garbage()

    def _end(self) -> None:
        """Stop frames first; then the table and the files."""
        words, _, reason = self._ended or ("for no reason it knows", 1, StopReason.EXCEPTION)
        if self._link is not None:
            self._link.send_stop(reason)
            self._link_rejected += self._link.counters.rejected
            self._link.close()
        realtime.step_down()
        realtime.thaw_garbage()
        self._witness.note(self._clock(), "end", text=words)
        self.tally.lost = self._lost_before + self.guard.feed.missed
        summary = {
            **self.tally.to_dict(),
            "link_rejected": self._link_rejected,
            "scheduling": self._scheduling,
            "recording": self._witness.words,
            "ended": words,
        }
        self._witness.close(summary)
        if self.tally.frames:
            self._console.say(table(summary))


def _request_words(request: Request) -> str:
    return RequestKind(request.kind).name
