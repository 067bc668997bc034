"""The real core in virtual time: arrivals and work in, ledgers and ages out.

Nothing here imitates the core: it runs `Intake` and `Outbox` as the loops do, with an event queue in the place of
threads. Seconds of trouble on a device become microseconds, so thousands of them can be checked.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from agent.clock import NEVER_NS
from agent.core.intake import Intake
from agent.core.ledger import Outcome
from agent.core.machine import MachineSpeed
from agent.core.outbox import Message, Outbox
from agent.core.policy import Overflow, SchedulerPolicy, StreamPolicy
from agent.core.scheduler import Ending
from agent.frame import Capture, Frame

_NO_PIXELS = np.empty((0, 0, 3), np.uint8)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One frame that a source will deliver.

    Attributes:
        at_ns: when it is captured; for an every_frame stream, the earliest time.
        stream: whose it is.
        work_ns: how long its inference takes at full speed if nobody stops it.
        fails: its inference raises at the end.
        latency_ns: from capture to arrival: decoding, mostly.
    """

    at_ns: int
    stream: str
    work_ns: int
    fails: bool = False
    latency_ns: int = 0


@dataclass(frozen=True, slots=True)
class Sent:
    """One message as the far end sees it."""

    stream: str
    seq: int
    age_ns: int
    replay: bool


@dataclass(slots=True)
class World:
    """What the device does to the core, beyond arrivals and work.

    Attributes:
        speed: of the machine over time.
        overshoot_ns: work that an aborted inference still does before it returns, drawn once an abort.
        hand_over_ns: from inference to the egress thread, drawn once a message.
        outages: (from, to) times without a broker, in order and apart.
        queue_messages: the outbox's capacity.
    """

    speed: MachineSpeed = field(default_factory=MachineSpeed)
    overshoot_ns: Callable[[], int] = lambda: 0
    hand_over_ns: Callable[[], int] = lambda: 0
    outages: Sequence[tuple[int, int]] = ()
    queue_messages: int = 2000

    def is_connected(self, now_ns: int) -> bool:
        """Return whether the broker is there."""
        return not any(start <= now_ns < end for start, end in self.outages)


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of one frame: when, whose, how and how old it was."""

    at_ns: int
    stream: str
    outcome: Outcome
    age_ns: int


@dataclass(slots=True)
class Report:
    """What came of a run.

    Attributes:
        intake: with the ledgers.
        outbox: with the delivery book.
        sent: every message in the order it went out.
        ends: of every frame, in their order.
        busy_ns: time that sessions worked, useful or not.
        end_ns: virtual time at the end.
    """

    intake: Intake
    outbox: Outbox
    sent: list[Sent] = field(default_factory=list)
    ends: list[Ended] = field(default_factory=list)
    busy_ns: int = 0
    end_ns: int = 0

    def published_ages_ns(self, stream: str) -> list[int]:
        """Return the ages at which inference handed the stream's results over."""
        return [end.age_ns for end in self.ends if end.stream == stream and end.outcome is Outcome.PUBLISHED]


class Simulation:
    """Runs all sessions over one trace.

    Args:
        policies: by stream name.
        world: see `World`.
        scheduling: see `SchedulerPolicy`.
    """

    def __init__(
        self, policies: Mapping[str, StreamPolicy], world: World, scheduling: SchedulerPolicy | None = None
    ) -> None:
        self._world = world
        self._intake = Intake(policies, scheduling, self._note)
        self._outbox = Outbox(world.queue_messages)
        self._report = Report(self._intake, self._outbox)
        self._sessions = list(dict.fromkeys(policy.session for policy in policies.values()))
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._now_ns = 0
        self._busy: set[str] = set()
        self._work: dict[tuple[str, int], Arrival] = {}
        self._blocked: dict[str, deque[Arrival]] = {name: deque() for name in policies}

    def run(self, arrivals: Iterable[Arrival]) -> Report:
        """Play the trace to its end and return the report; frames in queues are served first."""
        for arrival in arrivals:
            self._at(arrival.at_ns + arrival.latency_ns, lambda arrival=arrival: self._arrive(arrival))  # type: ignore[misc]
        for _, end_ns in self._world.outages:
            self._at(end_ns, self._send_all)
        while self._events:
            self._now_ns, _, action = heapq.heappop(self._events)
            action()
        self._report.end_ns = self._now_ns
        return self._report

    def _note(self, stream: str, captured_at_ns: int, outcome: Outcome) -> None:
        self._report.ends.append(Ended(self._now_ns, stream, outcome, self._now_ns - captured_at_ns))

    def _at(self, time_ns: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_ns, next(self._order), action))

    def _arrive(self, arrival: Arrival) -> None:
        stream = arrival.stream
        is_blocking = self._intake.policies[stream].overflow is Overflow.BLOCK
        if is_blocking and (self._blocked[stream] or self._intake.is_full(stream)):
            self._blocked[stream].append(arrival)
            return
        self._admit(arrival, arrival.at_ns)
        self._serve_next()

    def _admit(self, arrival: Arrival, captured_at_ns: int) -> None:
        frame = self._intake.open(arrival.stream, Capture(captured_at_ns, _NO_PIXELS), self._now_ns)
        if frame is not None:
            self._work[arrival.stream, frame.sequence] = arrival
            self._intake.queue(frame, self._now_ns)

    def _serve_next(self) -> None:
        """Let idle sessions take frames until none takes one, as their threads do when something changes."""
        has_changed = len(self._busy) < len(self._sessions)
        while has_changed:
            has_changed = False
            for session in self._sessions:
                if session not in self._busy and (frame := self._intake.take(self._now_ns, session)) is not None:
                    self._start(frame, session)
                    has_changed = True
            self._unblock()
        for session in self._sessions:
            if (again_ns := self._intake.scheduler.look_again_ns(session)) != NEVER_NS:
                self._at(again_ns, self._serve_next)

    def _start(self, frame: Frame, session: str) -> None:
        self._busy.add(session)
        arrival = self._work.pop((frame.stream, frame.sequence))
        started_ns = self._now_ns
        speed = self._world.speed
        end_ns = speed.end_ns(started_ns, arrival.work_ns)
        abort_at_ns = self._intake.scheduler.abort_at_ns(frame)
        ending = Ending.FAILED if arrival.fails else Ending.DONE
        if abort_at_ns != NEVER_NS and end_ns > abort_at_ns:
            stopped_ns = speed.end_ns(max(started_ns, abort_at_ns), self._world.overshoot_ns())
            # A run that would have ended within its overshoot ends by itself and raises nothing.
            if stopped_ns < end_ns:
                end_ns, ending = stopped_ns, Ending.ABORTED
        self._at(end_ns, lambda: self._finish(frame, session, started_ns, ending))

    def _unblock(self) -> None:
        """Let waiting every_frame sources deliver, as their threads would when room appears."""
        for stream, waiting in self._blocked.items():
            while waiting and not self._intake.is_full(stream):
                self._admit(waiting.popleft(), self._now_ns)

    def _finish(self, frame: Frame, session: str, started_ns: int, ending: Ending) -> None:
        self._busy.discard(session)
        self._report.busy_ns += self._now_ns - started_ns
        outcome = self._intake.finish(frame, started_ns, self._now_ns, ending)
        marked = outcome is Outcome.LATE and self._intake.policies[frame.stream].late_is_published
        if outcome is Outcome.PUBLISHED or marked:
            self._emit(frame, is_marked=marked)
        self._intake.settle(frame, outcome, stage="run" if outcome is Outcome.FAILED else None)
        self._serve_next()

    def _emit(self, frame: Frame, *, is_marked: bool) -> None:
        message = Message(
            kind="result",
            topic=f"results/{frame.stream}",
            body={"late": True} if is_marked else {},
            captured_at_ns=frame.captured_at_ns,
            deadline_ns=NEVER_NS if is_marked else frame.deadline_ns,
            stream=frame.stream,
        )
        self._outbox.put(message)
        self._at(self._now_ns + self._world.hand_over_ns(), self._send_all)

    def _send_all(self) -> None:
        while self._world.is_connected(self._now_ns):
            taken = self._outbox.take(self._now_ns)
            if taken is None:
                return
            message, replay = taken
            self._outbox.delivered(replay=replay)
            age_ns = self._now_ns - message.captured_at_ns
            self._report.sent.append(Sent(message.stream, message.seq, age_ns, replay or "late" in message.body))
