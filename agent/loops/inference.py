"""One thread a session: preprocess, run, decode, and the verdict on every frame it took."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent.clock import NEVER_NS, NS_PER_MS, NS_PER_S, Clock
from agent.core.ledger import Outcome
from agent.core.outbox import Message
from agent.core.pulse import Pulse
from agent.core.scheduler import Ending
from agent.errors import InferenceAbortedError, PermanentError
from agent.frame import Frame
from agent.interfaces import LoadedModel, Noticed, Variant
from agent.loops.abort import AbortTimer
from agent.loops.inbox import Inbox, Nothing
from agent.loops.quiet_log import QuietLog
from agent.loops.stream_steps import StreamSteps
from agent.metrics import Histogram
from agent.result import Payload, source_size

log = logging.getLogger(__name__)

Emit = Callable[[Message], None]
ShowResult = Callable[[Frame, Payload], None]
TellTest = Callable[[dict[str, Any]], None]


@dataclass(slots=True, eq=False)
class CurrentRun:
    """What an inference thread does now; its heartbeat. Nothing of it changes; `frozen` would cost 2 us a frame.

    Attributes:
        frame: being run; None in a run that only keeps the model warm.
        variant: of the model.
        due_ns: when it should be over: its deadline, or its start where it has none.
    """

    frame: Frame | None
    variant: Variant
    due_ns: int


class Canary:
    """A model that looks at live frames beside the one that serves.

    Args:
        variant: verified and warm.
        wanted: frames that it is to see.
    """

    def __init__(self, variant: Variant, wanted: int) -> None:
        self.variant = variant
        self._wanted = wanted
        self._durations_ns: list[int] = []
        self._done = threading.Event()
        self.stopped = 0
        """Runs that a live frame ended."""
        self.failure: str | None = None
        """What went wrong on a frame, None while nothing did."""

    @property
    def is_done(self) -> bool:
        """Whether it has seen enough, or failed."""
        return self._done.is_set()

    def record(self, duration_ns: int) -> None:
        """Count a frame that it finished. The inference thread."""
        self._durations_ns.append(duration_ns)
        if len(self._durations_ns) >= self._wanted:
            self._done.set()

    def fail(self, reason: str) -> None:
        """Note that it cannot take a frame that the model in service could. The inference thread."""
        self.failure = reason
        self._done.set()

    def wait(self, timeout_s: float) -> list[int]:
        """Return the durations of its runs, ns, once it has seen enough or the time is over."""
        self._done.wait(timeout_s)
        return sorted(self._durations_ns)


class InferenceLoop:
    """Serves the frames of one model's streams.

    Args:
        model: verified and warm.
        inbox: with the streams of all models.
        timer: stops a run at its deadline.
        emit: hands a result to egress; never waits for the network.
        show: called with every published frame and its payload, for the annotated picture.
        clock: the agent's.
        keep_warm_ns: after so long without a frame the model runs on its warm-up input; `NEVER_NS` for never.
    """

    def __init__(
        self,
        *,
        model: LoadedModel,
        inbox: Inbox,
        timer: AbortTimer,
        emit: Emit,
        show: ShowResult,
        clock: Clock,
        keep_warm_ns: int = NEVER_NS,
    ) -> None:
        self._model = model
        self._inbox = inbox
        self._timer = timer
        self._emit = emit
        self._show = show
        self._clock = clock
        self.keep_warm_ns = keep_warm_ns
        """May be changed by any thread."""
        self._steps = StreamSteps(inbox)
        self._faults = QuietLog(log, clock)
        self._stopping = threading.Event()
        self._turns = 0
        self._wanted_model = model
        self._wanted_variant = 0
        self._selected = 0
        self._tell_test: TellTest | None = None
        self._swapped = threading.Event()
        self._use(0)
        self.current: CurrentRun | None = None
        """What runs now; read by the governor's thread."""
        self.overshoot = Histogram()
        """From the deadline to the end of each run that was told to stop, whether it raised or went on to its end."""
        self.canary: Canary | None = None
        """Sees the frames that were served, in the pauses; set and cleared by any thread."""
        self.warm_runs = 0
        """Runs that only kept the model warm."""

    @property
    def model(self) -> LoadedModel:
        """The model that it serves."""
        return self._model

    @property
    def variant(self) -> Variant:
        """The variant in use."""
        return self._model.variants[self._selected]

    def pulse(self) -> Pulse:
        """Return the heartbeat: looks for a frame and runs; due while one waits or runs. Any thread."""
        looks, is_waiting = self._inbox.attention(self._model.name)
        return Pulse(looks + self._turns, is_waiting or self.current is not None)

    def select(self, index: int) -> None:
        """Run another variant from the next frame on. Any thread."""
        self._wanted_variant = index

    def swap(self, model: LoadedModel, timeout_s: float) -> bool:
        """Run another model between two frames; return whether that happened in time. The control thread.

        Args:
            model: verified and warm, under the same name.
            timeout_s: how long to wait for the running inference; afterwards it happens when that ends.
        """
        self._swapped.clear()
        self._wanted_model = model
        self._inbox.nudge(self._model.name)
        return self._swapped.wait(timeout_s)

    def run(self) -> None:
        """The thread's body: until every stream has ended or the inbox is stopped."""
        while (taken := self._inbox.take(self._model.name, self.keep_warm_ns)) is not Nothing.ENDED:
            self.turn(taken)

    def turn(self, taken: Frame | Nothing) -> None:
        """Do what one look into the inbox asks for. The inference thread, from `run`."""
        if self._wanted_model is not self._model or self._wanted_variant != self._selected:
            self._follow()
        if isinstance(taken, Frame):
            self._serve(taken)
            if self.canary is not None:
                self._show_to_canary(taken, self.canary)
        elif taken is Nothing.IDLE:
            self._keep_warm()
        if self._tell_test is not None:
            self._test(self._tell_test)
        self._turns += 1

    def self_test(self, tell: TellTest) -> None:
        """Run the golden sample when no frame waits, and tell what came of it from the inference thread. Any thread.

        Frames go first until it runs; the one that comes meanwhile waits for one run at most. A newer request takes
        the place of one that has not begun.
        """
        self._tell_test = tell
        self._inbox.nudge(self._model.name)

    def abort_for_shutdown(self) -> None:
        """Stop a running inference now; its frame ends as `shutdown`. Any thread."""
        self._stopping.set()
        self._timer.abort_all()

    def _follow(self) -> None:
        """Bring in the model and the variant that were asked for."""
        model = self._wanted_model
        index = min(self._wanted_variant, len(model.variants) - 1)
        if model is not self._model:
            self._model = model
            for event in self._steps.reset():
                self._report(event)
            self._use(index, is_new_model=True)
            self._swapped.set()
        elif index != self._selected:
            self._use(index)

    def _use(self, index: int, *, is_new_model: bool = False) -> None:
        self._selected = index
        variant = self.variant
        if not self._model.keeps_all:
            self._leave_others(variant)
        self._inbox.select_variant(self._model.name, variant.name, variant.fastest_ns, is_new_model=is_new_model)

    def _leave_others(self, variant: Variant) -> None:
        """Let the other networks go before this one is loaded for its first frame: memory holds one of them."""
        others = [other.engine for other in self._model.variants if other.engine is not variant.engine]
        if any(engine.is_loaded for engine in others):
            for engine in others:
                engine.release()
            variant.engine.shrink()  # Its first run gives back what the others had of the shared arena.

    def _serve(self, frame: Frame) -> None:
        variant = self.variant
        started_ns = self._clock.now_ns()
        abort_at_ns = self._inbox.abort_at_ns(frame)
        self.current = CurrentRun(frame, variant, started_ns if abort_at_ns == NEVER_NS else abort_at_ns)
        abort = variant.engine.new_abort()
        self._timer.arm(abort, abort_at_ns)
        stage = "preprocess"
        marks = [started_ns]
        try:
            inputs, placement = variant.preprocess(frame.pixels, frame.captured_at_ns)
            if variant.memory is not None:
                inputs |= variant.memory.recall(frame)
            marks.append(self._clock.now_ns())
            stage = "run"
            outputs = variant.engine.run(inputs, abort)
            marks.append(self._clock.now_ns())
            stage = "decode"
            payload = variant.decoder.decode(outputs, placement)
            marks.append(self._clock.now_ns())
            stage = "steps"
            payload, happened = self._steps.observe(frame, payload)
            if self._steps.has(frame.stream):
                marks.append(self._clock.now_ns())
            stage = "state"
            if variant.memory is not None:
                # Last: a frame that fails leaves a hole in the numbers, which is a gap.
                variant.memory.remember(frame, outputs)
        except InferenceAbortedError:
            outcome = self._inbox.finish(frame, started_ns, Ending.ABORTED)
            self._record_overshoot(self._clock.now_ns() - abort_at_ns)
            self._inbox.settle(frame, Outcome.SHUTDOWN if self._stopping.is_set() else outcome)
            return
        except (PermanentError, MemoryError) as error:
            outcome = self._inbox.finish(frame, started_ns, Ending.FAILED)
            self._inbox.settle(frame, outcome, stage=stage)
            self._faults.warn(frame.stream, f"{stage} failed: {error or type(error).__name__}")
            return
        finally:
            self._timer.disarm(abort)
            self.current = None
        if marks[2] > abort_at_ns:
            self._record_overshoot(marks[2] - abort_at_ns)
        self._conclude(frame, variant, marks, payload)
        for event in happened:
            self._report(event, frame.sequence)

    def _record_overshoot(self, overshoot_ns: int) -> None:
        if overshoot_ns > 0 and not self._stopping.is_set():
            self.overshoot.record(overshoot_ns)

    def _conclude(self, frame: Frame, variant: Variant, marks: list[int], payload: Payload) -> None:
        """Publish, or not: the clock decides, whatever the inference returned."""
        outcome = self._inbox.finish(frame, marks[0])
        is_marked = outcome is Outcome.LATE and self._inbox.publishes_late(frame.stream)
        is_sent = outcome is Outcome.PUBLISHED or is_marked
        if is_sent and not self._steps.is_news(frame, payload):
            is_sent = False
            outcome = Outcome.UNCHANGED if outcome is Outcome.PUBLISHED else outcome
        if is_sent:
            self._emit(self._result(frame, variant, payload, is_marked=is_marked))
            self._show(frame, payload)
        self._inbox.settle(frame, outcome, marks=marks)

    def _result(self, frame: Frame, variant: Variant, payload: Payload, *, is_marked: bool) -> Message:
        has_deadline = frame.deadline_ns != NEVER_NS
        body = {
            "frame": frame.sequence,
            "deadline_ms": (frame.deadline_ns - frame.captured_at_ns) / 1e6 if has_deadline else None,
            "model": self._model.name,
            "model_version": self._model.version,
            "variant": variant.name,
            "task": self._model.task,
            "source": source_size(frame.pixels),
            **({"late": True} if is_marked else {}),
            **payload,
        }
        return Message(
            kind="result",
            topic=f"results/{frame.stream}",
            body=body,
            captured_at_ns=frame.captured_at_ns,
            deadline_ns=NEVER_NS if is_marked else frame.deadline_ns,
            stream=frame.stream,
            emitted_at_ns=self._clock.now_ns(),
        )

    def _show_to_canary(self, frame: Frame, canary: Canary) -> None:
        """Run another model on a frame that was served; the next frame stops it."""
        if canary.is_done:
            return
        variant = canary.variant
        abort = variant.engine.new_abort()
        if not self._inbox.begin_warm_run(self._model.name, abort):
            return
        started_ns = self._clock.now_ns()
        self.current = CurrentRun(None, variant, started_ns)
        try:
            inputs, placement = variant.preprocess(frame.pixels, frame.captured_at_ns)
            variant.decoder.decode(variant.engine.run(inputs, abort), placement)
            canary.record(self._clock.now_ns() - started_ns)
        except InferenceAbortedError:
            canary.stopped += 1
        except (PermanentError, MemoryError) as error:
            canary.fail(str(error) or type(error).__name__)
        finally:
            self.current = None
            self._inbox.end_warm_run(self._model.name)

    def _report(self, event: Noticed, sequence: int | None = None) -> None:
        """Send an event of a stream's steps, whatever became of the frame's result: what was seen was seen."""
        if not self._stopping.is_set():
            body = {"event": event.name, **({} if sequence is None else {"frame": sequence}), **event.body}
            now_ns = self._clock.now_ns()
            self._emit(Message(kind="event", topic=f"events/{event.name}", body=body, captured_at_ns=now_ns))

    def _keep_warm(self) -> None:
        """Go the whole way of a frame, so that caches, clock frequency and pages are ready for the next one."""
        variant = self.variant
        abort = variant.engine.new_abort()
        if not self._inbox.begin_warm_run(self._model.name, abort):
            return
        self.current = CurrentRun(None, variant, self._clock.now_ns())
        try:
            _, placement = variant.preprocess(variant.blank, 0)
            variant.decoder.decode(variant.engine.run(variant.warm_inputs, abort), placement)
            self.warm_runs += 1
        except InferenceAbortedError:
            pass  # A frame came: it goes first.
        except (PermanentError, MemoryError) as error:
            self._faults.warn(self._model.name, f"keep-warm run failed: {error or type(error).__name__}")
        finally:
            self.current = None
            self._inbox.end_warm_run(self._model.name)

    def _test(self, tell: TellTest) -> None:
        """Run the golden sample once, as the warm-up did, and judge it."""
        variant = self.variant
        abort = variant.engine.new_abort()
        # The inbox gets another one: frames must not end it for ever on a busy stream.
        if not self._inbox.begin_warm_run(self._model.name, variant.engine.new_abort()):
            return  # A frame waits, or the threads are taken: after that.
        self._tell_test = None
        started_ns = self._clock.now_ns()
        limit_ns = started_ns + max(NS_PER_S, 10 * variant.fastest_ns)
        self.current = CurrentRun(None, variant, limit_ns)
        self._timer.arm(abort, limit_ns)
        found: list[str] = []
        try:
            outputs = variant.engine.run(variant.warm_inputs, abort)
            run_ns = self._clock.now_ns() - started_ns
            found = [] if variant.judge is None else variant.judge(outputs)
        except (InferenceAbortedError, PermanentError, MemoryError) as error:
            run_ns = self._clock.now_ns() - started_ns
            found = [f"the run failed: {error or type(error).__name__}"]
        finally:
            self._timer.disarm(abort)
            self.current = None
            self._inbox.end_warm_run(self._model.name)
        tell(
            {
                "variant": variant.name,
                "sha256": variant.sha256,
                "passed": not found,
                "has_golden": variant.judge is not None,
                "differences": found[:3],
                "run_ms": round(run_ns / NS_PER_MS, 3),
                "fastest_ms": round(variant.fastest_ns / NS_PER_MS, 3),
            }
        )
