"""Everything between the sources and egress: who captures, who infers, and how they start and end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

from agent.clock import NEVER_NS, NS_PER_MS, NS_PER_S, Clock
from agent.core.backoff import Backoff
from agent.core.scheduler import EGRESS_RESERVE_NS
from agent.interfaces import LoadedModel, Source
from agent.loops.abort import AbortTimer
from agent.loops.annotate import AnnotateLoop
from agent.loops.capture import CaptureLoop, ReportEvent
from agent.loops.hangs import hang_limit_ns
from agent.loops.inbox import Inbox
from agent.loops.inference import Emit, InferenceLoop
from agent.loops.service import CALL_NS, Part
from agent.loops.worker import Worker
from agent.settings import Settings, StreamSettings

log = logging.getLogger(__name__)

DRAIN_INFERENCE_NS = 2 * NS_PER_S
"""Of the drain time, what a running inference may take before it is aborted."""
DRAIN_CAPTURE_NS = 500 * NS_PER_MS
"""Of the drain time, what a source may take to close; one that hangs in its driver is left behind."""


class Pipelines:
    """The capture and inference threads of all streams, around one inbox.

    Args:
        settings: valid.
        models: verified and warm, by name.
        sources: by stream; a stream without one does not run.
        inbox: with the policies of the streams that run.
        emit: hands a message to egress.
        report: sends an event.
        wake: called when a thread has ended.
        clock: the agent's.
    """

    def __init__(
        self,
        settings: Settings,
        models: Mapping[str, LoadedModel],
        sources: Mapping[str, Source],
        *,
        inbox: Inbox,
        emit: Emit,
        report: ReportEvent,
        wake: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._models = models
        self._inbox = inbox
        self._emit = emit
        self._report = report
        self._clock = clock
        self.streams = [stream for stream in settings.streams if stream.name in sources]
        self._timer = AbortTimer(clock)
        pictures = {s.name: s.annotated_image for s in self.streams if s.annotated_image is not None}
        self._annotate = AnnotateLoop(pictures, clock)
        self.inferences = {name: self._build_inference(name) for name in models}
        self._captures = {
            name: CaptureLoop(name, source, inbox, clock, report, Backoff()) for name, source in sources.items()
        }
        bodies: dict[str, Callable[[], None]] = {
            "abort": self._timer.run,
            "annotate": self._annotate.run,
            **{f"infer-{name}": loop.run for name, loop in self.inferences.items()},
            **{f"capture-{name}": loop.run for name, loop in self._captures.items()},
        }
        self.workers = {name: Worker(name, body, wake) for name, body in bodies.items()}
        """The threads in the order of their start: engines, then sources."""

    def start(self) -> None:
        """Start every thread."""
        for worker in self.workers.values():
            worker.start()

    @property
    def has_ended(self) -> bool:
        """Whether every stream has ended by itself.

        Without a model that may be loaded there is no stream; the agent stays and says so in its health.
        """
        inferring = [self.workers[f"infer-{name}"] for name in self.inferences]
        return bool(inferring) and not any(worker.is_alive for worker in inferring)

    def parts(self, timed: Collection[str]) -> list[Part]:
        """Return what must make progress while the agent runs; of the captures, those of the `timed` streams."""
        hang_ns = int(self._settings.limits.hang_s * NS_PER_S)
        # Threads are shared: one session may wait as long as another's longest run may take.
        longest_ns = max(
            (hang_limit_ns(hang_ns, v.fastest_ns) for model in self._models.values() for v in model.variants),
            default=hang_ns,
        )
        return [
            *(
                Part(f"capture-{name}", self._captures[name].pulse, CALL_NS)
                for name in self._captures
                if name in timed
            ),
            *(Part(f"infer-{name}", loop.pulse, longest_ns + CALL_NS) for name, loop in self.inferences.items()),
        ]

    @property
    def failures(self) -> list[str]:
        """Why streams ended for good."""
        return [capture.failure for capture in self._captures.values() if capture.failure is not None]

    def snapshot(self) -> dict[str, Any]:
        """Return the figures of every model. Any thread."""
        return {name: _model_figures(loop) for name, loop in self.inferences.items()}

    def report_unreachable(self) -> None:
        """Say which streams have a deadline that their model hardly ever makes."""
        for stream in self.streams:
            fastest_ns = self.inferences[stream.model].variant.fastest_ns
            budget_ms = stream.budget_ms
            if budget_ms is None or stream.on_late == "mark":
                continue
            if fastest_ns + EGRESS_RESERVE_NS > budget_ms * NS_PER_MS:
                fastest_ms = round(fastest_ns / NS_PER_MS, 1)
                log.warning(
                    "%s: its deadline of %g ms is shorter than the fastest run of %s in the warm-up, %g ms: hardly "
                    "any frame can make it",
                    stream.name,
                    budget_ms,
                    stream.model,
                    fastest_ms,
                )
                figures = {"stream": stream.name, "model": stream.model}
                limits = {"deadline_ms": budget_ms, "fastest_ms": fastest_ms}
                self._report("deadline_too_short", {**figures, **limits})

    def shut_down(self, *, inference_hangs: bool) -> None:
        """End every thread, and give each frame its outcome.

        Args:
            inference_hangs: one of them does not end; it was given its time already.
        """
        for capture in self._captures.values():
            capture.stop()
        self._inbox.stop()
        drain_ns = DRAIN_INFERENCE_NS // 10 if inference_hangs else DRAIN_INFERENCE_NS
        self._join("infer-", self._clock.now_ns() + drain_ns)
        for inference in self.inferences.values():
            inference.abort_for_shutdown()
        self._join("infer-", self._clock.now_ns() + DRAIN_CAPTURE_NS)
        self._join("capture-", self._clock.now_ns() + DRAIN_CAPTURE_NS)
        self._inbox.settle_in_flight()
        for loop in (self._timer, self._annotate):
            loop.stop()
        self._join("annotate", self._clock.now_ns() + DRAIN_CAPTURE_NS)

    def _join(self, prefix: str, by_ns: int) -> None:
        for name, worker in self.workers.items():
            if name.startswith(prefix):
                worker.join_or_leave((by_ns - self._clock.now_ns()) / NS_PER_S)

    def _build_inference(self, model: str) -> InferenceLoop:
        def marks(stream: StreamSettings) -> bool:
            return stream.model == model and stream.on_late == "mark"

        keep_warm_s = next(known.keep_warm_s for known in self._settings.models if known.name == model)
        return InferenceLoop(
            model=self._models[model],
            inbox=self._inbox,
            timer=self._timer,
            emit=self._emit,
            marks_late=frozenset(stream.name for stream in self.streams if marks(stream)),
            show=self._annotate.show,
            clock=self._clock,
            keep_warm_ns=NEVER_NS if keep_warm_s is None else int(keep_warm_s * NS_PER_S),
        )


def _model_figures(loop: InferenceLoop) -> dict[str, Any]:
    model, variant = loop.model, loop.variant
    return {
        "version": model.version,
        "sha256": variant.sha256,
        "task": model.task,
        "variant": variant.name,
        "variants": [known.name for known in model.variants],
        "fastest_ms": round(variant.fastest_ns / NS_PER_MS, 3),
        "abort_overshoot_ms": {**loop.overshoot.summary_ms(), "count": loop.overshoot.count},
        "warm_runs": loop.warm_runs,
    }
