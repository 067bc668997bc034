"""The real core in virtual time: arrivals and service times in, ledgers and ages out.

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
from agent.core.outbox import Message, Outbox
from agent.core.scheduler import Overflow, StreamPolicy
from agent.frame import Capture, Frame

_NO_PIXELS = np.empty((0, 0, 3), np.uint8)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One frame that a source will deliver.

    Attributes:
        at_ns: when it is captured; for an every_frame stream, the earliest time.
        stream: whose it is.
        service_ns: how long its inference takes if nobody stops it.
        fails: its inference raises at the end.
    """

    at_ns: int
    stream: str
    service_ns: int
    fails: bool = False


@dataclass(frozen=True, slots=True)
class Sent:
    """One message as the far end sees it."""

    stream: str
    seq: int
    age_ns: int
    replay: bool


@dataclass(slots=True)
class World:
    """What the device does to the core, beyond arrivals and service times.

    Attributes:
        overshoot_ns: how long an aborted inference still runs, drawn once an abort.
        hand_over_ns: from inference to the egress thread, drawn once a message.
        outages: (from, to) times without a broker, in order and apart.
        queue_messages: the outbox's capacity.
    """

    overshoot_ns: Callable[[], int] = lambda: 0
    hand_over_ns: Callable[[], int] = lambda: 0
    outages: Sequence[tuple[int, int]] = ()
    queue_messages: int = 2000

    def is_connected(self, now_ns: int) -> bool:
        """Return whether the broker is there."""
        return not any(start <= now_ns < end for start, end in self.outages)


@dataclass(slots=True)
class Report:
    """What came of a run.

    Attributes:
        intake: with the ledgers.
        outbox: with the delivery book.
        sent: every message in the order it went out.
        published_ages_ns: by stream, at the moment inference handed the result over.
        busy_ns: time that the session worked, useful or not.
        end_ns: virtual time at the end.
    """

    intake: Intake
    outbox: Outbox
    sent: list[Sent] = field(default_factory=list)
    published_ages_ns: dict[str, list[int]] = field(default_factory=dict)
    busy_ns: int = 0
    end_ns: int = 0


class Simulation:
    """Runs one session over one trace.

    Args:
        policies: by stream name.
        rates_hz: `max_fps` by stream name; streams that are left out have none.
        world: see `World`.
    """

    def __init__(
        self, policies: Mapping[str, StreamPolicy], rates_hz: Mapping[str, float | None], world: World
    ) -> None:
        rates = {name: rates_hz.get(name) for name in policies}
        self._world = world
        self._intake = Intake(policies, rates)
        self._outbox = Outbox(world.queue_messages)
        self._report = Report(self._intake, self._outbox, published_ages_ns={name: [] for name in policies})
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._now_ns = 0
        self._is_busy = False
        self._services: dict[tuple[str, int], Arrival] = {}
        self._blocked: dict[str, deque[Arrival]] = {name: deque() for name in policies}

    def run(self, arrivals: Iterable[Arrival]) -> Report:
        """Play the trace to its end and return the report; frames in queues are served first."""
        for arrival in arrivals:
            self._at(arrival.at_ns, lambda arrival=arrival: self._arrive(arrival))  # type: ignore[misc]
        for _, end_ns in self._world.outages:
            self._at(end_ns, self._send_all)
        while self._events:
            self._now_ns, _, action = heapq.heappop(self._events)
            action()
        self._report.end_ns = self._now_ns
        return self._report

    def _at(self, time_ns: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_ns, next(self._order), action))

    def _arrive(self, arrival: Arrival) -> None:
        stream = arrival.stream
        is_blocking = self._intake.policies[stream].overflow is Overflow.BLOCK
        if is_blocking and (self._blocked[stream] or self._intake.is_full(stream)):
            self._blocked[stream].append(arrival)
            return
        frame = self._intake.open(stream, Capture(self._now_ns, _NO_PIXELS))
        if frame is None:
            return
        self._services[stream, frame.sequence] = arrival
        self._intake.queue(frame)
        self._serve_next()

    def _serve_next(self) -> None:
        if self._is_busy:
            return
        frame = self._intake.take(self._now_ns)
        self._unblock()
        if frame is None:
            return
        self._is_busy = True
        arrival = self._services.pop((frame.stream, frame.sequence))
        started_ns = self._now_ns
        end_ns = started_ns + arrival.service_ns
        abort_at_ns = self._intake.abort_at_ns(frame)
        aborted = False
        if abort_at_ns != NEVER_NS and end_ns > abort_at_ns:
            stopped_ns = max(started_ns, abort_at_ns) + self._world.overshoot_ns()
            # A run that would have ended within its overshoot ends by itself and raises nothing.
            aborted = stopped_ns < end_ns
            end_ns = min(end_ns, stopped_ns)
        self._at(end_ns, lambda: self._finish(frame, arrival, started_ns, aborted=aborted))

    def _unblock(self) -> None:
        """Let waiting every_frame sources deliver, as their threads would when room appears."""
        for stream, waiting in self._blocked.items():
            while waiting and not self._intake.is_full(stream):
                arrival = waiting.popleft()
                frame = self._intake.open(stream, Capture(self._now_ns, _NO_PIXELS))
                if frame is not None:
                    self._services[stream, frame.sequence] = arrival
                    self._intake.queue(frame)

    def _finish(self, frame: Frame, arrival: Arrival, started_ns: int, *, aborted: bool) -> None:
        self._is_busy = False
        self._report.busy_ns += self._now_ns - started_ns
        outcome = self._intake.finish(frame, started_ns, self._now_ns, aborted=aborted)
        if arrival.fails and not aborted:
            self._intake.settle(frame, Outcome.FAILED, stage="run")
        else:
            marked = outcome is Outcome.LATE and self._intake.policies[frame.stream].late_is_published
            if outcome is Outcome.PUBLISHED or marked:
                self._emit(frame, is_marked=marked)
            self._intake.settle(frame, outcome)
        self._serve_next()

    def _emit(self, frame: Frame, *, is_marked: bool) -> None:
        if not is_marked:
            self._report.published_ages_ns[frame.stream].append(self._now_ns - frame.captured_at_ns)
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
