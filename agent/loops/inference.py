"""One thread a session: preprocess, run, decode, and the verdict on every frame it took."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from agent.clock import NEVER_NS, Clock
from agent.core.ledger import Outcome
from agent.core.outbox import Message
from agent.errors import InferenceAbortedError, PermanentError
from agent.frame import Frame
from agent.interfaces import LoadedModel
from agent.loops.abort import AbortTimer
from agent.loops.inbox import Inbox
from agent.loops.quiet_log import QuietLog
from agent.result import Payload

log = logging.getLogger(__name__)

Emit = Callable[[Message], None]
ShowResult = Callable[[Frame, Payload], None]


class InferenceLoop:
    """Serves the frames of one session's inbox.

    Args:
        model: verified and warm.
        inbox: its streams.
        timer: stops a run at its deadline.
        emit: hands a result to egress; never waits for the network.
        marks_late: streams that publish late results, marked.
        show: called with every published frame and its payload, for the annotated picture.
        clock: the agent's.
    """

    def __init__(
        self,
        *,
        model: LoadedModel,
        inbox: Inbox,
        timer: AbortTimer,
        emit: Emit,
        marks_late: frozenset[str],
        show: ShowResult,
        clock: Clock,
    ) -> None:
        self._model = model
        self._inbox = inbox
        self._timer = timer
        self._emit = emit
        self._marks_late = marks_late
        self._show = show
        self._clock = clock
        self._faults = QuietLog(log, clock)
        self._stopping = threading.Event()

    def run(self) -> None:
        """The thread's body: until every stream has ended or the inbox is stopped."""
        while (frame := self._inbox.take()) is not None:
            self._serve(frame)

    def abort_for_shutdown(self) -> None:
        """Stop a running inference now; its frame ends as `shutdown`. Any thread."""
        self._stopping.set()
        self._timer.abort_all()

    def _serve(self, frame: Frame) -> None:
        started_ns = self._clock.now_ns()
        abort = self._model.engine.new_abort()
        self._timer.arm(abort, self._inbox.abort_at_ns(frame))
        stage = "preprocess"
        marks = [started_ns]
        try:
            inputs, placement = self._model.preprocess(frame.pixels)
            marks.append(self._clock.now_ns())
            stage = "run"
            outputs = self._model.engine.run(inputs, abort)
            marks.append(self._clock.now_ns())
            stage = "decode"
            payload = self._model.decoder.decode(outputs, placement)
            marks.append(self._clock.now_ns())
        except InferenceAbortedError:
            outcome = self._inbox.finish(frame, started_ns, aborted=True)
            overshoot_ns = max(0, self._clock.now_ns() - self._inbox.abort_at_ns(frame))
            self._inbox.record_stages(frame.stream, {"abort_overshoot": overshoot_ns})
            self._inbox.settle(frame, Outcome.SHUTDOWN if self._stopping.is_set() else outcome)
            return
        except (PermanentError, MemoryError) as error:
            self._inbox.settle(frame, Outcome.FAILED, stage=stage)
            self._faults.warn(frame.stream, f"{stage} failed: {error or type(error).__name__}")
            return
        finally:
            self._timer.disarm(abort)
        self._conclude(frame, started_ns, payload)
        self._inbox.record_stages(
            frame.stream,
            {
                name: end - start
                for name, start, end in zip(("preprocess", "run", "decode"), marks, marks[1:], strict=False)
            },
        )

    def _conclude(self, frame: Frame, started_ns: int, payload: Payload) -> None:
        """Publish, or not: the clock decides, whatever the inference returned."""
        outcome = self._inbox.finish(frame, started_ns)
        is_marked = outcome is Outcome.LATE and frame.stream in self._marks_late
        if outcome is Outcome.PUBLISHED or is_marked:
            height, width = frame.pixels.shape[:2]
            body = {
                "frame": frame.sequence,
                "deadline_ms": None
                if frame.deadline_ns == NEVER_NS
                else (frame.deadline_ns - frame.captured_at_ns) / 1e6,
                "model": self._model.name,
                "model_version": self._model.version,
                "task": self._model.task,
                "source": {"width": width, "height": height},
                **({"late": True} if is_marked else {}),
                **payload,
            }
            self._emit(
                Message(
                    kind="result",
                    topic=f"results/{frame.stream}",
                    body=body,
                    captured_at_ns=frame.captured_at_ns,
                    deadline_ns=NEVER_NS if is_marked else frame.deadline_ns,
                    stream=frame.stream,
                    emitted_at_ns=self._clock.now_ns(),
                )
            )
            self._show(frame, payload)
        self._inbox.settle(frame, outcome)
