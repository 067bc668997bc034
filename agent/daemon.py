"""The agent's life on one screen: start the sinks, then the engines, then the sources; stop in reverse."""

from __future__ import annotations

import contextlib
import logging
import queue
import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agent import __version__
from agent.assembly import (
    build_ladder,
    scheduler_policy,
    stream_policy,
)
from agent.clock import NEVER_NS, NS_PER_MS, NS_PER_S, Clock, SystemClock
from agent.core.degradation import Ladder
from agent.core.message import Message
from agent.core.probation import Readings
from agent.delivery import build_egress, metrics_server
from agent.desired.receiver import SettingsReceiver
from agent.desired.start import Start
from agent.desired.surroundings import Surroundings, no_file
from agent.device.signals import DeviceSignals
from agent.engine.memory import MemoryGauge, MemoryKeeper, resident_bytes
from agent.engine.process import MEMORY_LOCK, prepare_serving
from agent.handover import Handover
from agent.history import HealthHistory
from agent.layers import Layers
from agent.loops.control import ControlLoop
from agent.loops.governor import GovernorLoop
from agent.loops.hangs import HangLoop
from agent.loops.health import HealthLoop, process_figures, versions
from agent.loops.inbox import Inbox
from agent.loops.inference import CurrentRun, InferenceLoop
from agent.loops.log_relay import relaying
from agent.loops.service import CALL_NS, Part, ServiceLoop
from agent.loops.worker import Worker
from agent.marks import HANGS_MAX
from agent.pipelines import Pipelines, runnable
from agent.provision import Provision
from agent.remote import Remote, subscriptions
from agent.rollback import RollbackCommand
from agent.settings import Settings
from agent.sinks.embedded import EmbeddedBroker
from agent.sourcing import build_sources
from agent.wake import Wake
from agent.warming import Warm

if TYPE_CHECKING:
    from agent.loops.trace import TraceRecorder

log = logging.getLogger(__name__)

DRAIN_NS = 4 * NS_PER_S + 500 * NS_PER_MS
"""From a signal to the summary: below the 5 s that service managers and users are promised."""
TRACE_DRAIN_S = 0.5
"""Of the drain time, what the trace may take to write its last lines."""
WAIT_S_MAX = 1e6
"""poll(2) takes 24 days at most, not the 292 years that a run without an end has left."""
HELD_LOOK_S = 1.0
"""Between two looks, once every stream has ended, at whether the change that did it is taken back."""
CONTROL_DRAIN_S = 0.2
"""Of the drain time, what a change of settings may take to end."""
FLUSH_AT_END_NS = 30 * NS_PER_S
"""When every stream has ended by itself there is no hurry: what was accepted is delivered first."""

Output = Literal["mqtt", "stdout"]


class Daemon:
    """One run of the agent, from settings to summary. `run` is called once, by the main thread.

    Args:
        settings: valid.
        warm: the models that they name.
        output: where results go.
        clock: the agent's.
        trace: file for a trace of arrivals and runs, None for none.
        before: what the run left that this one replaces.
        start: the state of the settings that came from afar; None for a check, which is not run and writes nothing.
        reread: reads the settings file again, for a reload; raises ConfigError.

    Raises:
        ConfigError: a source or the embedded broker cannot be used as the settings say.
    """

    def __init__(
        self,
        settings: Settings,
        warm: Warm,
        *,
        output: Output = "mqtt",
        clock: Clock | None = None,
        trace: Path | None = None,
        before: Handover | None = None,
        start: Start | None = None,
        reread: Callable[[], Layers] = no_file,
    ) -> None:
        self._settings = settings
        self._start = start
        self._clock = clock or SystemClock()
        self._started_ns = warm.started_ns
        self._end_ns = NEVER_NS if before is None or before.end_ns is None else before.end_ns
        self._before = before
        self._boot = secrets.token_hex(4)
        self.wake = Wake()
        """What `run` waits on."""
        self._reasons: queue.SimpleQueue[str] = queue.SimpleQueue()
        """To stop; the first one counts."""
        self._applying = threading.RLock()
        self._stop_reason = ""
        self._hang_reason = ""
        self._restart_reason = ""
        self._restart_asked_ns = 0

        # Everything that can be refused is refused here, before the first thread starts.
        self._marks, self._updates, provision = warm.marks, warm.updates, warm.provision
        models, self._left_out = warm.models, warm.left_out
        self._memory_limit_bytes = provision.limit.limit_bytes
        self._cores = provision.cores.in_force()
        sources = build_sources(settings, models, self._clock, must_all_be_known=before is None)
        prepare_serving()
        if settings.limits.lock_memory:
            MEMORY_LOCK.ask()
        scheduling = scheduler_policy(settings, provision)
        policies = {
            stream.name: stream_policy(stream, is_stateful=models[stream.model].is_stateful)
            for stream in runnable(settings, models, sources)
        }
        self._trace: TraceRecorder | None = None
        if trace is not None:
            from agent.loops.trace import TraceRecorder  # With the simulator that reads it; nobody else needs them.

            is_continued = before is not None
            self._trace = TraceRecorder(trace, policies, scheduling, self._clock, is_continued=is_continued)
        self._inbox = Inbox(policies, self._clock, scheduling, self._trace)
        self._control = ControlLoop(self._clock)
        is_embedded = output == "mqtt" and settings.mqtt.url == "embedded"
        self._broker = EmbeddedBroker() if is_embedded else None
        self._egress = build_egress(
            settings,
            subscriptions(settings) if output == "mqtt" else None,
            boot=self._boot,
            version=__version__,
            embedded=self._broker,
            record_sent=self._inbox.record_sent,
            hear=self._control.hear,
            clock=self._clock,
        )
        self._remote = Remote(
            settings,
            control=self._control,
            emit=self._egress.emit,
            report=self._egress.report,
            boot=self._boot,
            commands=[] if before is None else before.commands,
            note=self._note,
            clock=self._clock,
        )
        self._pipelines = Pipelines(
            self._updates.shelves.effective(settings),
            models,
            sources,
            self._left_out,
            provision=provision,
            marks=self._marks,
            inbox=self._inbox,
            emit=self._egress.emit,
            show=self._remote.show,
            report=self._egress.report,
            wake=self._look_around,
            clock=self._clock,
        )
        self._hangs = HangLoop(
            loops=lambda: self._pipelines.inferences,
            hung=self._hung,
            hang_ns=int(settings.limits.hang_s * NS_PER_S),
            clock=self._clock,
        )
        self._governor = self._build_governor()
        self._health = HealthLoop(
            snapshot=self.health,
            emit=self._egress.emit,
            report=self._egress.report,
            self_check=self._inbox.self_check,
            keep=HealthHistory(settings.state.dir, self._clock).add,
            period_ns=int(settings.health.period_s * NS_PER_S),
            memory_limit_bytes=self._memory_limit_bytes,
            clock=self._clock,
        )
        self._receiver = None if start is None else self._build_receiver(start, reread)
        self._updater = self._updates.build_loop(self, self._note)
        self._remote.attach(
            self._pipelines,
            restart=self.request_restart,
            rollback=RollbackCommand(self._receiver, self._updates),
        )
        self._service = ServiceLoop(
            manager=warm.manager,
            parts=lambda: [Part("egress", self._egress.pulse, CALL_NS), *self._pipelines.parts()],
            summary=self.summary,
            contacted=self._egress.contacted,
            reload=self._reload,
            clock=self._clock,
        )
        self._workers = self._build_workers()

    def run(self, duration_s: float | None = None) -> int:
        """Run until a signal, the duration, the end of every stream or a failure; return the exit code."""
        with relaying(self._egress.emit, self._clock), self._metrics():
            return self._run(duration_s)

    def _run(self, duration_s: float | None) -> int:
        if duration_s is not None and self._end_ns == NEVER_NS:
            self._end_ns = self._clock.now_ns() + int(duration_s * NS_PER_S)
        self._report_start()
        for worker in self._workers.values():
            worker.start()
        self._pipelines.start()
        self._place_threads()
        ready = ", ".join(f"{stream.name} <- {stream.model}" for stream in self._pipelines.streams)
        log.info("ready: %s", ready or "no stream can run")
        self._stop_reason = self._main_loop()
        log.info("stopping: %s", self._stop_reason)
        self._shut_down()
        return 1 if self._crashed() or self._pipelines.failures else 0

    def apply(self, settings: Settings) -> None:
        """Go on by other settings; what needs a restart keeps its old value until then. The control thread.

        Raises:
            ConfigError: something cannot be used; nothing was changed.
        """
        with self._applying:
            self._pipelines.apply(self._updates.shelves.effective(settings))
            self._settings = settings
        self._place_threads()
        self._hangs.hang_ns = int(settings.limits.hang_s * NS_PER_S)
        period_ns = int(settings.health.period_s * NS_PER_S)
        self._health.follow(period_ns=period_ns)
        logging.getLogger().setLevel(settings.log.level.upper())
        if self._trace is not None:
            log.warning("the trace ends: other settings are in force now")
        self._governor.follow(self._build_ladder(), self._live_streams())
        self._pipelines.report_unreachable()
        self._remote.streams_changed()

    def request_stop(self, reason: str) -> None:
        """End `run` in order. Any thread and signal handlers: `SimpleQueue.put` and `Wake.set` are reentrant."""
        self._reasons.put(reason)
        self.wake.set()

    def serve_models(self) -> None:
        """See `updating.Agent`. The updater's thread."""
        self.apply(self._settings)

    def request_restart(self, reason: str) -> None:
        """End `run` in order so that a new run can take over settings and messages. Any thread."""
        if self._stop_reason or self._restart_reason:
            return  # It ends already.
        self._restart_reason, self._restart_asked_ns = reason, self._clock.now_ns()
        self._egress.carries_over = True
        self.request_stop(reason)

    def request_reload(self) -> None:
        """Read the settings file again, and go on by it. Any thread and signal handlers."""
        self._service.request_reload()

    def _reload(self) -> None:
        """Hand a reload to the control thread, which alone changes settings. The service thread."""
        if self._receiver is None:
            log.warning("SIGHUP: this run has no settings file to read again")
            self._service.reloaded()
            return
        self._receiver.request_reload()
        self._control.wake()

    def _reloaded(self) -> None:
        self._service.reloaded()

    def handover(self) -> Handover | None:
        """Return what a new run needs when this one ended because it must be replaced; None otherwise."""
        if self._start is None or self._receiver is None:
            return None
        if not self._egress.carries_over or self._stop_was_asked_for():
            return None
        layers, before = self._receiver.for_next_run(has_hung=bool(self._hang_reason))
        return Handover(
            layers=layers.export(),
            layers_before=None if before is None else before.export(),
            given_up=self._receiver.given_up_by_hang(self._hang_reason),
            messages=self._egress.carried,
            marks=self._marks.export(),
            commands=self._remote.export(),
            costs=self._pipelines.provision.export(),
            reason=self._restart_reason,
            restarts=1 + (0 if self._before is None else self._before.restarts),
            end_ns=None if self._end_ns == NEVER_NS else self._end_ns,
            asked_at_ns=self._restart_asked_ns,
            drained_at_ns=self._clock.now_ns(),
        )

    def health(self) -> dict[str, Any]:
        """Return the summary with rates and durations of late. Any thread."""
        return self.summary(recent=True)

    def summary(self, *, recent: bool = False) -> dict[str, Any]:
        """Return every ledger and figure: for the last line since the start, for `health` of late. Any thread."""
        process = process_figures(self._memory_limit_bytes)
        return {
            "device": self._settings.device.id,
            "boot": self._boot,
            "uptime_s": round((self._clock.now_ns() - self._started_ns) / NS_PER_S, 3),
            "restarts": 0 if self._before is None else self._before.restarts,
            "stop_reason": self._stop_reason,
            "streams": self._inbox.snapshot(recent=recent),
            "delivery": self._egress.snapshot(),
            "models": self._pipelines.snapshot(),
            "engine": self._pipelines.provision.snapshot(self._pipelines.models, self._cores),
            "control": self._remote.snapshot(),
            "updates": self._updates.snapshot(),
            "settings": {} if self._receiver is None else self._receiver.snapshot(),
            "degradation": self._governor.snapshot(),
            "process": {**process, "memory_locked": MEMORY_LOCK.refusal is None},
            "versions": versions(),
        }

    def _report_start(self) -> None:
        """Say what is wrong from the start, and take over what the run before left."""
        if self._before is not None:
            log.warning("restarted: %s", self._before.reason)
            self._egress.report("restarted", self._restart_figures(self._before))
            for message in self._before.messages:
                self._egress.emit(message)
            # In a thread of its own, which nobody waits for: a disk that hangs may be why we are here.
            threading.Thread(target=self._marks.save, name="marks", daemon=True).start()
        for given_up in () if self._start is None else self._start.given_up:
            self._egress.report("settings_rolled_back", given_up)
        for name, why in self._left_out.items():
            event = "model_marked" if "marked" in why else "model_failed"
            self._egress.report(event, {"model": name, **why.get("marked", {"problems": why.get("failed")})})
        for event, body in self._pipelines.provision.events():
            self._egress.report(event, body)
        self._pipelines.report_unreachable()

    def _restart_figures(self, before: Handover) -> dict[str, Any]:
        """Tell what the stated bound of a restart is made of: draining, 5 s at most, and this start."""
        return {
            "reason": before.reason,
            "restarts": before.restarts,
            "drain_s": round((before.drained_at_ns - before.asked_at_ns) / NS_PER_S, 3),
            "start_s": round((self._clock.now_ns() - before.drained_at_ns) / NS_PER_S, 3),
            "messages_dropped": before.messages_dropped,
        }

    def _place_threads(self) -> None:
        """Bring every thread to its CPUs; one that starts later inherits those of the thread that starts it."""
        self._cores = self._pipelines.provision.cores.place_threads(self._pipelines.inference_threads())

    def _hung(self, loop: InferenceLoop, run: CurrentRun, overdue_s: float) -> None:
        """End this run so that another can replace it: a thread in native code cannot be ended. The hang thread."""
        if self._restart_reason or self._stop_reason:
            return  # Another one hung first, or somebody asked to stop: this run ends already.
        model = loop.model.name
        served = {variant.sha256 for variant in loop.model.variants}
        # What hung may be another one, which only saw a live frame: it is not the served model's fault.
        digests = served if run.variant.sha256 in served else {run.variant.sha256}
        hangs = self._marks.add(digests, model, self._clock.wall_ns())
        consequence = "is not loaded again" if hangs >= HANGS_MAX else "gets one more chance"
        self._hang_reason = f"{model} hung: {overdue_s:g} s after it should have ended; it {consequence}"
        # Before anything that may wait, such as the reader of standard output.
        self.request_restart(self._hang_reason)
        log.error("%s; the agent restarts itself", self._hang_reason)
        stream = "" if run.frame is None else run.frame.stream
        figures = {"model": model, "variant": run.variant.name, "sha256": run.variant.sha256, "stream": stream}
        self._egress.report("inference_hung", {**figures, "overdue_s": overdue_s, "hangs": hangs})

    def _stop_was_asked_for(self) -> bool:
        """Return whether somebody asked to stop as well, so that no new run must begin."""
        while not self._reasons.empty():
            if (reason := self._reasons.get()) != self._restart_reason:
                self._stop_reason = reason
        return self._stop_reason != self._restart_reason

    def _main_loop(self) -> str:
        """Wait for a reason to stop and return it."""
        while True:
            # Once every stream has ended, nobody wakes this thread when the change that did it stays.
            look_s = HELD_LOOK_S if self._pipelines.has_ended else WAIT_S_MAX
            wait_s = min(look_s, (self._end_ns - self._clock.now_ns()) / NS_PER_S)
            self.wake.wait(wait_s)
            self.wake.clear()
            if not self._reasons.empty():
                return self._reasons.get()
            if self._clock.now_ns() >= self._end_ns:
                return "duration reached"
            if crashed := self._crashed():
                return f"crashed: {', '.join(crashed)}"
            if self._egress.broken is not None:
                return self._egress.broken
            if not self._may_change_back() and self._pipelines.has_ended:
                return "all streams ended"

    def _may_change_back(self) -> bool:
        """Return whether a change that ended every stream may still be taken back, which starts them again."""
        return self._receiver is not None and self._receiver.may_change

    def _shut_down(self) -> None:
        begun_ns = self._clock.now_ns()
        has_ended = self._stop_reason == "all streams ended"
        patience_ns = 2 * (FLUSH_AT_END_NS if has_ended else DRAIN_NS)
        self._service.leave(self._stop_reason, patience_ns, is_replaced=bool(self._restart_reason))
        self._pipelines.shut_down(inference_hangs=bool(self._hang_reason))
        is_on_purpose = not self._hang_reason and not self._crashed()
        self._updater.stop(on_purpose=is_on_purpose)
        for loop in (self._control, self._health, self._governor, self._hangs):
            loop.stop()
        self._remote.stop_showing()
        is_at_rest = self._workers["control"].join(CONTROL_DRAIN_S)
        for name in ("images", "update"):
            self._workers[name].join_or_leave(CONTROL_DRAIN_S)
        if is_at_rest and is_on_purpose and self._receiver is not None:
            self._receiver.stopped()
        if self._trace is not None:
            self._trace.stop()
            self._workers["trace"].join_or_leave(TRACE_DRAIN_S)
        self._health.send()
        self._drain_egress(begun_ns, has_ended=has_ended)
        if self._broker is not None:
            self._broker.stop()

    def _drain_egress(self, begun_ns: int, *, has_ended: bool) -> None:
        """Deliver what was accepted; a signal shortens the patience that the end of all streams has."""
        worker = self._workers["egress"]
        by_ns = begun_ns + (FLUSH_AT_END_NS if has_ended else DRAIN_NS)
        if self._egress.carries_over and self._stop_was_asked_for():
            self._egress.carries_over = False
        self._egress.stop(self._stop_reason, by_ns, flushes_spool=has_ended)
        while not worker.join(0.05) and self._clock.now_ns() < by_ns:
            if self._egress.carries_over and self._stop_was_asked_for():
                self._egress.carries_over = False
            if has_ended and not self._reasons.empty():
                by_ns = min(by_ns, self._clock.now_ns() + DRAIN_NS)
                self._egress.stop(self._reasons.get(), by_ns)
        if worker.is_alive:
            self._egress.give_up()

    def _build_governor(self) -> GovernorLoop:
        return GovernorLoop(
            loops=lambda: self._pipelines.inferences,
            inbox=self._inbox,
            live_streams=self._live_streams(),
            ladder=self._build_ladder(),
            signals=DeviceSignals(temperature_limit_c=self._settings.degradation.temperature_c_max),
            memory=MemoryGauge(self._pipelines.provision.limit),
            giving=MemoryKeeper(self._pipelines.provision.limit),
            report=self._egress.report,
            clock=self._clock,
        )

    def _build_receiver(self, start: Start, reread: Callable[[], Layers]) -> SettingsReceiver:
        restart = self.request_restart
        around = Surroundings(
            emit=self._egress.emit,
            report=self._egress.report,
            read=self.readings,
            restart=restart,
            clock=self._clock,
            reread=reread,
            reloaded=self._reloaded,
        )
        receiver = SettingsReceiver(
            start.layers,
            start.record,
            start.loaded,
            store=start.store,
            audit=start.audit,
            applier=self,
            around=around,
            models=self._updates,
            good=start.good,
            files=start.files,
        )
        self._control.add(receiver)
        return receiver

    def _note(self, action: str, body: Mapping[str, Any]) -> None:
        """Write a line of the audit, where one is kept. Any thread."""
        if self._start is not None:
            self._start.audit.add(action, body)

    def readings(self) -> Readings:
        """Return what a change is judged by. Any thread."""
        return Readings(self._inbox.tallies(), resident_bytes() / self._memory_limit_bytes, self._egress.is_connected)

    def inference(self, model: str) -> InferenceLoop | None:
        """Return the loop that serves a model. Any thread."""
        return next((loop for loop in self._pipelines.inferences if loop.model.name == model), None)

    def provision(self) -> Provision:
        """Return what the models of the moment were given. Any thread."""
        return self._pipelines.provision

    def spare_bytes(self) -> int:
        """Return what is left of the memory limit. Any thread."""
        return self._pipelines.provision.spare_bytes

    def emit(self, message: Message) -> None:
        """Hand a message to egress. Any thread."""
        self._egress.emit(message)

    def report(self, event: str, body: Mapping[str, Any]) -> None:
        """Send an event. Any thread."""
        self._egress.report(event, body)

    def _build_ladder(self) -> Ladder:
        return build_ladder(self._settings.degradation, self._pipelines.streams, self._pipelines.models)

    def _live_streams(self) -> list[str]:
        return [stream.name for stream in self._pipelines.streams if stream.mode == "live"]

    def _build_workers(self) -> dict[str, Worker]:
        """Return the threads beside the pipelines in the order of their start: the sink first."""
        bodies: dict[str, Callable[[], None]] = {
            "egress": self._egress.run,
            **self._remote.bodies(),
            "update": self._updater.run,
            "health": self._health.run,
            "governor": self._governor.run,
            "hangs": self._hangs.run,
            "service": self._service.run,
            **({} if self._trace is None else {"trace": self._trace.run}),
        }
        return {name: Worker(name, body, self._look_around) for name, body in bodies.items()}

    def _look_around(self) -> None:
        """Let the main loop see what changed. Any thread."""
        self.wake.set()

    def _crashed(self) -> list[str]:
        own = [worker.name for worker in self._workers.values() if worker.has_crashed]
        return own + self._pipelines.crashed

    def _metrics(self) -> contextlib.AbstractContextManager[object]:
        port = self._settings.health.prometheus_port
        return contextlib.nullcontext() if port is None else metrics_server(port, self.health)
