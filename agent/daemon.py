"""The agent's life on one screen: start the sinks, then the engines, then the sources; stop in reverse."""

from __future__ import annotations

import contextlib
import logging
import platform
import queue
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal

import cv2

from agent import __version__
from agent.assembly import build_source, load_model, stream_policy
from agent.clock import NEVER_NS, NS_PER_MS, NS_PER_S, Clock, SystemClock
from agent.core.backoff import Backoff
from agent.core.outbox import Outbox
from agent.delivery import build_keeping, metrics_server
from agent.engine.cpus import effective_cpus
from agent.engine.process import prepare_serving
from agent.engine.session import runtime_version
from agent.errors import ConfigError
from agent.interfaces import LoadedModel, Sink
from agent.loops.abort import AbortTimer
from agent.loops.annotate import AnnotateLoop
from agent.loops.capture import CaptureLoop
from agent.loops.egress import EgressLoop, Keeping
from agent.loops.health import HealthLoop, process_figures
from agent.loops.inbox import Inbox
from agent.loops.inference import InferenceLoop
from agent.loops.log_relay import relaying
from agent.loops.worker import Worker
from agent.settings import Settings, StreamSettings
from agent.sinks.embedded import EmbeddedBroker
from agent.sinks.stdout import StdoutSink

log = logging.getLogger(__name__)

DRAIN_NS = 4 * NS_PER_S + 500 * NS_PER_MS
"""From a signal to the summary: below the 5 s that service managers and users are promised."""
DRAIN_INFERENCE_NS = 2 * NS_PER_S
"""Of the drain time, what a running inference may take before it is aborted."""
DRAIN_CAPTURE_NS = 500 * NS_PER_MS
"""Of the drain time, what a source may take to close; one that hangs in its driver is left behind."""
FLUSH_AT_END_NS = 30 * NS_PER_S
"""When every stream has ended by itself there is no hurry: what was accepted is delivered first."""

Output = Literal["mqtt", "stdout"]


class Daemon:
    """One run of the agent, from settings to summary. `run` is called once, by the main thread.

    Args:
        settings: valid.
        output: where results go.
        clock: the agent's.

    Raises:
        ConfigError: a model, a source or the embedded broker cannot be used as the settings say.
    """

    def __init__(self, settings: Settings, *, output: Output = "mqtt", clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._started_ns = self._clock.now_ns()
        self._boot = secrets.token_hex(4)
        self._wakeups: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stop_reason = ""
        memory_mb = settings.limits.memory_mb
        self._memory_limit_bytes = None if memory_mb is None else memory_mb << 20
        # OpenCV's own pool would come on top of the inference threads.
        cv2.setNumThreads(1)

        # Everything that can be refused is refused here, before the first thread starts.
        sources = [(stream, build_source(stream, self._clock)) for stream in settings.streams]
        self._models = self._load_models()
        prepare_serving()
        self._broker: EmbeddedBroker | None = None
        self._egress = self._build_egress(output)
        self._timer = AbortTimer(self._clock)
        pictures = {s.name: s.annotated_image for s in settings.streams if s.annotated_image is not None}
        self._annotate = AnnotateLoop(pictures, self._clock)
        self._inferences = {name: self._build_inference(name) for name in self._models}
        self._captures = [
            CaptureLoop(stream.name, source, self._inboxes[stream.model], self._clock, self._egress.report, Backoff())
            for stream, source in sources
        ]
        self._health = HealthLoop(
            snapshot=self.summary,
            emit=self._egress.emit,
            report=self._egress.report,
            self_check=self._self_check,
            period_ns=int(settings.health.period_s * NS_PER_S),
            memory_limit_bytes=self._memory_limit_bytes,
            clock=self._clock,
        )
        self._workers = self._build_workers()

    def run(self, duration_s: float | None = None) -> int:
        """Run until a signal, the duration, the end of every stream or a failure; return the exit code."""
        with relaying(self._egress.emit, self._clock), self._metrics():
            return self._run(duration_s)

    def _run(self, duration_s: float | None) -> int:
        for worker in self._workers.values():
            worker.start()
        log.info("ready: %s", ", ".join(f"{s.name} <- {s.model}" for s in self._settings.streams))
        self._stop_reason = self._main_loop(duration_s)
        log.info("stopping: %s", self._stop_reason)
        self._shut_down()
        crashed = [worker.name for worker in self._workers.values() if worker.has_crashed]
        failed = [capture.failure for capture in self._captures if capture.failure is not None]
        return 1 if crashed or failed else 0

    def request_stop(self, reason: str) -> None:
        """End `run` in order. Any thread and signal handlers: `SimpleQueue.put` is reentrant."""
        self._wakeups.put(reason)

    def summary(self) -> dict[str, Any]:
        """Return every ledger and figure; the same object goes to `health` and to the last line. Any thread."""
        streams = {name: figures for inbox in self._inboxes.values() for name, figures in inbox.snapshot().items()}
        models = {
            model.name: {"version": model.version, "sha256": model.sha256, "task": model.task}
            for model in self._models.values()
        }
        return {
            "device": self._settings.device.id,
            "boot": self._boot,
            "uptime_s": round((self._clock.now_ns() - self._started_ns) / NS_PER_S, 3),
            "stop_reason": self._stop_reason,
            "streams": streams,
            "delivery": self._egress.snapshot(),
            "models": models,
            "process": process_figures(self._memory_limit_bytes),
            "versions": {
                "edgebeat": __version__,
                "onnxruntime": runtime_version(),
                "opencv": cv2.__version__,
                "python": platform.python_version(),
            },
        }

    def _main_loop(self, duration_s: float | None) -> str:
        """Wait for a reason to stop and return it."""
        end_ns = NEVER_NS if duration_s is None else self._clock.now_ns() + int(duration_s * NS_PER_S)
        inference_workers = [self._workers[f"infer-{name}"] for name in self._models]
        while True:
            left_s = None if end_ns == NEVER_NS else max(0.0, (end_ns - self._clock.now_ns()) / NS_PER_S)
            try:
                reason = self._wakeups.get(timeout=left_s)
            except queue.Empty:
                return "duration reached"
            if reason:
                return reason
            if crashed := [worker.name for worker in self._workers.values() if worker.has_crashed]:
                return f"crashed: {', '.join(crashed)}"
            if self._egress.broken is not None:
                return self._egress.broken
            if not any(worker.is_alive for worker in inference_workers):
                return "all streams ended"

    def _shut_down(self) -> None:
        begun_ns = self._clock.now_ns()
        has_ended = self._stop_reason == "all streams ended"
        for capture in self._captures:
            capture.stop()
        for inbox in self._inboxes.values():
            inbox.stop()
        self._join("infer-", begun_ns + DRAIN_INFERENCE_NS)
        for inference in self._inferences.values():
            inference.abort_for_shutdown()
        self._join("infer-", self._clock.now_ns() + DRAIN_CAPTURE_NS)
        self._join("capture-", self._clock.now_ns() + DRAIN_CAPTURE_NS)
        for inbox in self._inboxes.values():
            inbox.settle_in_flight()
        for loop in (self._timer, self._annotate, self._health):
            loop.stop()
        self._join("annotate", self._clock.now_ns() + DRAIN_CAPTURE_NS)
        self._health.send()
        self._drain_egress(begun_ns, has_ended=has_ended)
        if self._broker is not None:
            self._broker.stop()

    def _drain_egress(self, begun_ns: int, *, has_ended: bool) -> None:
        """Deliver what was accepted; a signal shortens the patience that the end of all streams has."""
        worker = self._workers["egress"]
        by_ns = begun_ns + (FLUSH_AT_END_NS if has_ended else DRAIN_NS)
        self._egress.stop(self._stop_reason, by_ns, flushes_spool=has_ended)
        while not worker.join(0.05) and self._clock.now_ns() < by_ns:
            if has_ended and not self._wakeups.empty() and (reason := self._wakeups.get()):
                by_ns = min(by_ns, self._clock.now_ns() + DRAIN_NS)
                self._egress.stop(reason, by_ns)
        if worker.is_alive:
            self._egress.give_up()

    def _join(self, prefix: str, by_ns: int) -> None:
        for name, worker in self._workers.items():
            if name.startswith(prefix) and not worker.join((by_ns - self._clock.now_ns()) / NS_PER_S):
                log.warning("%s: did not end in time and is left behind", name)

    def _load_models(self) -> dict[str, LoadedModel]:
        used = {stream.model for stream in self._settings.streams}
        cpus = effective_cpus(self._settings.limits.threads)
        threads = max(1, cpus // max(1, len(used)))
        models, problems = {}, []
        for model in self._settings.models:
            if model.name not in used:
                continue
            try:
                models[model.name] = load_model(model, threads)
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
        log.info("models warm and verified: %s; %d inference threads each", ", ".join(models), threads)
        return models

    def _build_egress(self, output: Output) -> EgressLoop:
        wake = threading.Event()
        policies = self._policies()
        rates = {stream.name: stream.max_fps for stream in self._settings.streams}
        self._inboxes = {
            model: Inbox(policies[model], {name: rates[name] for name in policies[model]}, self._clock)
            for model in self._models
        }
        inbox_of = {stream.name: self._inboxes[stream.model] for stream in self._settings.streams}
        return EgressLoop(
            sink=self._build_sink(output, wake),
            outbox=Outbox(self._settings.mqtt.queue_messages),
            clock=self._clock,
            boot=self._boot,
            wake=wake,
            record_sent=lambda stream, *figures: inbox_of[stream].record_sent(stream, *figures),
            waits_for_room=output == "stdout",
            keeping=Keeping() if output == "stdout" else build_keeping(self._settings),
        )

    def _build_sink(self, output: Output, wake: threading.Event) -> Sink:
        if output == "stdout":
            return StdoutSink()
        from agent.sinks.mqtt import MqttSink  # paho takes 9 MiB; not needed for standard output.

        settings = self._settings.mqtt
        if settings.url == "embedded":
            self._broker = EmbeddedBroker()
            settings = settings.model_copy(update={"url": self._broker.url(settings.protocol)})
            log.info("embedded broker: %s", settings.url)
        return MqttSink(
            settings,
            device=self._settings.device.id,
            boot=self._boot,
            version=__version__,
            clock=self._clock,
            wake=wake,
            backoff=Backoff(cap_ns=int(settings.reconnect_max_s * NS_PER_S)),
        )

    def _policies(self) -> dict[str, dict[str, Any]]:
        policies: dict[str, dict[str, Any]] = defaultdict(dict)
        for stream in self._settings.streams:
            policies[stream.model][stream.name] = stream_policy(stream)
        return policies

    def _build_inference(self, model: str) -> InferenceLoop:
        def marks(stream: StreamSettings) -> bool:
            return stream.model == model and stream.on_late == "mark"

        return InferenceLoop(
            model=self._models[model],
            inbox=self._inboxes[model],
            timer=self._timer,
            emit=self._egress.emit,
            marks_late=frozenset(stream.name for stream in self._settings.streams if marks(stream)),
            show=self._annotate.show,
            clock=self._clock,
        )

    def _build_workers(self) -> dict[str, Worker]:
        """Return the threads in the order of their start: sinks, engines, sources."""
        bodies: dict[str, Callable[[], None]] = {
            "egress": self._egress.run,
            "abort": self._timer.run,
            "annotate": self._annotate.run,
            "health": self._health.run,
            **{f"infer-{name}": loop.run for name, loop in self._inferences.items()},
            **{
                f"capture-{stream.name}": loop.run
                for stream, loop in zip(self._settings.streams, self._captures, strict=True)
            },
        }
        return {name: Worker(name, body, lambda: self._wakeups.put("")) for name, body in bodies.items()}

    def _metrics(self) -> contextlib.AbstractContextManager[object]:
        port = self._settings.health.prometheus_port
        return contextlib.nullcontext() if port is None else metrics_server(port, self.summary)

    def _self_check(self) -> dict[str, int]:
        return {name: count for inbox in self._inboxes.values() for name, count in inbox.self_check().items()}
