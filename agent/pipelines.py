"""Everything between the sources and egress: who captures, who infers, and how that changes while it runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agent.aside import set_aside
from agent.assembly import load_models, scheduler_policy, stream_policy, used_models
from agent.clock import NEVER_NS, NS_PER_MS, NS_PER_S, Clock
from agent.core.backoff import Backoff
from agent.core.policy import EGRESS_RESERVE_NS, SchedulerPolicy, StreamPolicy
from agent.engine.process import give_back, loading
from agent.errors import ConfigError, DoesNotFitError
from agent.frame import Frame
from agent.interfaces import LoadedModel, Source
from agent.loops.abort import AbortTimer
from agent.loops.annotate import AnnotateLoop
from agent.loops.capture import WAIT_MAX_NS, CaptureLoop, ReportEvent
from agent.loops.hangs import hang_limit_ns
from agent.loops.inbox import Inbox
from agent.loops.inference import Emit, InferenceLoop, ShowResult
from agent.loops.service import CALL_NS, Part
from agent.loops.worker import Worker
from agent.marks import Marks
from agent.provision import Provision
from agent.result import Payload
from agent.settings import ModelSettings, Settings, StreamSettings
from agent.settings.scope import Scope, leaf_fields, scope_of
from agent.sourcing import build_source, has_time_outs

log = logging.getLogger(__name__)

DRAIN_INFERENCE_NS = 2 * NS_PER_S
"""Of the drain time, what a running inference may take before it is aborted."""
DRAIN_CAPTURE_NS = 500 * NS_PER_MS
"""Of the drain time, what a source may take to close; one that hangs in its driver is left behind."""
SWAP_TIMEOUT_S = 10.0
"""How long a change waits for a running inference to end; it happens then in any case."""
SHRINK_WAIT_NS = 500 * NS_PER_MS
"""How long a change waits for the next frame, whose run gives back what the old model had of the shared arena."""
LEFT_BEHIND_MAX = 8
"""Readers that hang in their driver and were replaced; each keeps its thread and its buffers, some 20 MB at 1080p."""

Figures = dict[str, Any]
SOURCE_FIELDS = frozenset(
    path[0] for path, field in leaf_fields(StreamSettings) if scope_of(field) is Scope.RELOAD and path != ("model",)
)
"""Fields of a stream that ask for its source to be opened anew."""


@dataclass(frozen=True, slots=True)
class _Reader:
    loop: CaptureLoop
    worker: Worker


@dataclass(frozen=True, slots=True)
class _Server:
    loop: InferenceLoop
    worker: Worker


@dataclass(frozen=True, slots=True)
class _Plan:
    """What other settings ask for; everything in it is ready.

    Attributes:
        settings: the others.
        provision: what the models are given by these.
        streams: those that run or are off.
        policies: of these.
        scheduling: of all.
        sources: those that a new reader opens, by stream.
        models: those that come in, by name.
        gone_since_ns: when the models went that these take the place of; None where they serve until then.
        left_out: models that could not be loaded at the start and have not changed.
    """

    settings: Settings
    provision: Provision
    streams: list[StreamSettings]
    policies: dict[str, StreamPolicy]
    scheduling: SchedulerPolicy
    sources: dict[str, Source]
    models: dict[str, LoadedModel]
    left_out: dict[str, Figures]
    gone_since_ns: int | None = None


class Pipelines:
    """The capture and inference threads of all streams, around one inbox.

    Args:
        settings: valid.
        models: verified and warm, by name.
        sources: by stream.
        left_out: why models are not there, by name.
        provision: what the models were given.
        marks: of models that hung.
        inbox: with the policies of the streams that `runnable` returns.
        emit: hands a message to egress.
        show: called with every published frame and its payload, beside the annotated picture.
        report: sends an event.
        wake: called when a thread has ended.
        clock: the agent's.
    """

    def __init__(
        self,
        settings: Settings,
        models: Mapping[str, LoadedModel],
        sources: Mapping[str, Source],
        left_out: Mapping[str, Figures],
        *,
        provision: Provision,
        marks: Marks,
        inbox: Inbox,
        emit: Emit,
        show: ShowResult,
        report: ReportEvent,
        wake: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._left_out = dict(left_out)
        self.provision = provision
        """What the models of the moment were given; replaced as a whole."""
        self._marks = marks
        self._inbox = inbox
        self._emit = emit
        self._show = show
        self._report = report
        self._wake = wake
        self._clock = clock
        self.streams = runnable(settings, models, sources)
        self._timer = AbortTimer(clock)
        pictures = {s.name: s.annotated_image for s in self.streams if s.annotated_image is not None}
        self._annotate = AnnotateLoop(pictures, clock)
        bodies = {"abort": self._timer.run, "annotate": self._annotate.run}
        self._workers = {name: Worker(name, body, wake) for name, body in bodies.items()}
        # Both are replaced as a whole, never changed: other threads look at them.
        self._servers = {name: self._server(model, settings) for name, model in models.items()}
        self._readers = {name: self._reader(name, source, 0) for name, source in sources.items()}
        for stream in self.streams:
            if stream.name not in sources:
                inbox.switch_off(stream.name)
        self._left_behind: list[Worker] = []
        self._lock = threading.Lock()
        self._is_stopping = False

    def start(self) -> None:
        """Start every thread: engines, then sources."""
        for worker in self._all_workers():
            worker.start()

    @property
    def inferences(self) -> list[InferenceLoop]:
        """The inference loops of the moment. Any thread."""
        return [server.loop for server in self._servers.values()]

    @property
    def models(self) -> dict[str, LoadedModel]:
        """The models of the moment. Any thread."""
        return {name: server.loop.model for name, server in self._servers.items()}

    def given(self) -> tuple[Settings, Provision]:
        """See `remote.Serving.given`. Any thread."""
        with self._lock:
            return self._settings, self.provision

    def serving(self) -> dict[str, InferenceLoop]:
        """Return the streams that run, each with the loop of its model. Any thread."""
        servers = self._servers
        return {s.name: servers[s.model].loop for s in self.streams if s.enabled and s.model in servers}

    def is_alive(self, loop: InferenceLoop) -> bool:
        """Return whether an inference loop still serves. Any thread."""
        server = self._servers.get(loop.model.name)
        return server is not None and server.loop is loop and server.worker.is_alive

    @property
    def has_ended(self) -> bool:
        """Whether every stream has ended by itself.

        Without a model that may be loaded there is no stream; the agent stays and says so in its health.
        """
        servers = self._servers
        return bool(servers) and not any(server.worker.is_alive for server in servers.values())

    def parts(self) -> list[Part]:
        """Return what must make progress now; of the captures, those whose calls end by themselves. Any thread."""
        hang_ns, loops, readers = int(self._settings.limits.hang_s * NS_PER_S), self.inferences, self._readers
        # Threads are shared: one session may wait as long as another's longest run may take.
        fastest_ns = max((v.fastest_ns for loop in loops for v in loop.model.variants), default=0)
        limit_ns = hang_limit_ns(hang_ns, fastest_ns) + CALL_NS
        timed = [stream.name for stream in self.streams if stream.name in readers and has_time_outs(stream)]
        return [
            *(Part(f"capture-{name}", readers[name].loop.pulse, CALL_NS) for name in timed),
            *(Part(f"infer-{loop.model.name}", loop.pulse, limit_ns) for loop in loops),
        ]

    @property
    def failures(self) -> list[str]:
        """Why streams ended for good."""
        return [reader.loop.failure for reader in self._readers.values() if reader.loop.failure is not None]

    @property
    def crashed(self) -> list[str]:
        """The threads that an unexpected error ended."""
        return [worker.name for worker in self._all_workers() if worker.has_crashed]

    def snapshot(self) -> Figures:
        """Return the figures of every model. Any thread."""
        return {name: _model_figures(server.loop) for name, server in self._servers.items()} | self._left_out

    def report_unreachable(self) -> None:
        """Say which streams have a deadline that their model hardly ever makes."""
        for stream in self.streams:
            fastest_ns = self._servers[stream.model].loop.variant.fastest_ns
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

    def apply(self, new: Settings) -> None:
        """Go on by other settings of streams, models, threads and scheduler. One thread at a time.

        Models are loaded, warmed and verified while the old ones serve, and come in between two frames. Streams that
        keep their source lose no frame; one that changes it is without for as long as that takes to open.

        Raises:
            ConfigError: something cannot be used, or the agent is stopping; nothing was changed.
        """
        self._go_on_by(new, frozenset())

    def reload_model(self, name: str) -> None:
        """Load a model's folder again, whatever its settings say, and bring it in. See `apply`.

        Raises:
            ConfigError: there is no such model, or it cannot be used; nothing was changed.
        """
        if name not in {model.name for model in used_models(self._settings)}:
            raise ConfigError(f"{name!r} is not a model that a stream uses: {', '.join(self._servers) or 'none'} are")
        self._go_on_by(self._settings, frozenset({name}))

    def shut_down(self, *, inference_hangs: bool) -> None:
        """End every thread, and give each frame its outcome.

        Args:
            inference_hangs: one of them does not end; it was given its time already.
        """
        with self._lock:
            self._is_stopping = True
        for reader in self._readers.values():
            reader.loop.stop()
        self._inbox.stop()
        servers = [server.worker for server in self._servers.values()]
        self._join(servers, DRAIN_INFERENCE_NS // 10 if inference_hangs else DRAIN_INFERENCE_NS)
        for loop in self.inferences:
            loop.abort_for_shutdown()
        self._join(servers, DRAIN_CAPTURE_NS)
        self._join([reader.worker for reader in self._readers.values()], DRAIN_CAPTURE_NS)
        self._inbox.settle_in_flight()
        self._timer.stop()
        self._annotate.stop()
        self._join([self._workers["annotate"]], DRAIN_CAPTURE_NS)

    def inference_threads(self) -> list[int]:
        """Return the native ids of the threads that run models. Any thread."""
        ids = [server.worker.native_id for server in self._servers.values()]
        return [native_id for native_id in ids if native_id is not None]

    def _go_on_by(self, new: Settings, reloaded: frozenset[str]) -> None:
        """Prepare a change beside what serves, or in its place where both do not fit and that is allowed."""
        try:
            plan = self._plan(new, reloaded)
        except DoesNotFitError as error:
            wanted = self._to_load(new, reloaded, self.provision.follow(new))
            replaced = [model.name for model in wanted if model.name in self._servers]
            if self.provision.held_bytes(replaced) < error.missing_bytes:
                raise
            if not self._settings.engine.cold_swap:
                way_out = (
                    "  what would fit: engine.cold_swap = true: the old model goes first and nothing serves meanwhile"
                )
                raise DoesNotFitError([*error.problems, way_out], error.missing_bytes) from error
            log.warning("%s: does not fit beside its successor and goes first", ", ".join(replaced))
            loops = [self._servers[name].loop for name in replaced]
            with set_aside(loops, self._inbox, self._clock) as since_ns:
                # Else their activations would count against those that take their place.
                self.provision.leave_arena(replaced)
                give_back()
                plan = self._plan(new, reloaded)
                self._carry_out(replace(plan, gone_since_ns=since_ns))
        else:
            self._carry_out(plan)

    def _to_load(self, new: Settings, reloaded: frozenset[str], provision: Provision) -> list[ModelSettings]:
        """Return the models that other settings need and that do not serve as those want them."""
        before = {model.name: model for model in self._settings.models}
        has_other_threads = provision.threads != self.provision.threads

        def must_load(model: ModelSettings) -> bool:
            known = before.get(model.name)
            if model.name in reloaded or known is None or known.path != model.path:
                return True
            # One that could not be loaded at the start is tried again only when somebody changed it.
            return model.name not in self._left_out and (model.name not in self._servers or has_other_threads)

        return [model for model in used_models(new) if must_load(model)]

    def _plan(self, new: Settings, reloaded: frozenset[str]) -> _Plan:
        """Prepare everything that can fail.

        Raises:
            ConfigError: see `apply`.
        """
        self._left_behind = [worker for worker in self._left_behind if worker.is_alive]
        if len(self._left_behind) >= LEFT_BEHIND_MAX:
            raise ConfigError(f"{LEFT_BEHIND_MAX} sources hang in their drivers: restart the agent to change more")
        provision = self.provision.follow(new)
        wanted = self._to_load(new, reloaded, provision)
        with loading():
            models, refused = load_models(wanted, provision, self._marks, self._clock, must_all_load=True)
        if refused:
            raise ConfigError([f"models.{name}: {why}" for name, why in refused.items()])
        names = {model.name for model in used_models(new)}
        left_out = {name: why for name, why in self._left_out.items() if name in names - models.keys()}
        there = {**{name: model for name, model in self.models.items() if name in names}, **models}
        sources = {
            stream.name: build_source(stream, self._clock, there[stream.model].signal, new.mqtt)
            for stream in new.streams
            if stream.model in there and stream.enabled and self._needs_reader(stream, there[stream.model])
        }
        streams = [stream for stream in new.streams if stream.model in there]
        policies = {s.name: stream_policy(s, is_stateful=there[s.model].is_stateful) for s in streams}
        scheduling = scheduler_policy(new, provision)
        return _Plan(new, provision, streams, policies, scheduling, sources, models, left_out)

    def _needs_reader(self, stream: StreamSettings, model: LoadedModel) -> bool:
        before = next((known for known in self.streams if known.name == stream.name), None)
        if before is None or stream.name not in self._readers:
            return True
        served = self.models.get(before.model)
        if served is None or served.signal != model.signal:
            return True  # Its windows are cut for the model.
        return any(getattr(before, name) != getattr(stream, name) for name in SOURCE_FIELDS)

    def _carry_out(self, plan: _Plan) -> None:
        """Bring a plan in. Nothing in here can be refused."""
        with self._lock:
            if self._is_stopping:
                raise ConfigError("the agent is stopping: nothing was changed")
            names = {model.name for model in used_models(plan.settings)}
            gone = {name: server for name, server in self._servers.items() if name not in names}
            swapped = {name: model for name, model in plan.models.items() if name in self._servers}
            added = {name: model for name, model in plan.models.items() if name not in self._servers}
            before = self.provision
            self._servers = {name: server for name, server in self._servers.items() if name in names}
            # First, or what is cut for the old model would reach the new one.
            retired = self._retire_readers(plan)
            # While models of either number of threads serve, runs are counted with the larger one.
            busiest = max(before.threads, plan.provision.threads)
            self._reconfigure(plan, busiest)
            for stream in plan.streams:
                if stream.name not in self._readers:
                    self._inbox.switch_off(stream.name)
            self._settings, self.streams, self._left_out = plan.settings, plan.streams, plan.left_out
            self.provision = plan.provision
            self._start_servers(added)
        self._join(retired, DRAIN_CAPTURE_NS)
        self._left_behind += [worker for worker in retired if worker.is_alive]
        with self._lock:
            if self._is_stopping:
                return
            self._start_readers(plan)
        for name, model in swapped.items():
            self._swap(name, model, plan.gone_since_ns)
        for event, body in plan.provision.events():
            self._report(event, body)
        self._reconfigure(plan, plan.scheduling.run_threads)
        self._join([server.worker for server in gone.values()], DRAIN_INFERENCE_NS)
        shrinking = [model.variants[0].engine.shrink() for model in swapped.values()]
        if swapped or gone:
            del swapped, gone, plan
            # What the old ones had of the shared arena goes with the next frame, and without one in a while stays.
            by_ns = self._clock.now_ns() + SHRINK_WAIT_NS
            for shrunk in shrinking:
                self._clock.wait(shrunk, by_ns - self._clock.now_ns())
            give_back()

    def _reconfigure(self, plan: _Plan, threads_a_run: int) -> None:
        policy = plan.scheduling
        scheduling = SchedulerPolicy(policy.threads, threads_a_run, policy.min_share, policy.predictor)
        self._inbox.reconfigure(plan.policies, scheduling)

    def _start_servers(self, added: Mapping[str, LoadedModel]) -> None:
        """Start the threads of new models, and of those whose streams had all ended."""
        servers = {**self._servers, **{name: self._server(model, self._settings) for name, model in added.items()}}
        for name, server in servers.items():
            server.loop.keep_warm_ns = _keep_warm_ns(self._settings, name)
            if name in added:
                server.worker.start()
        self._servers = servers

    def _retire_readers(self, plan: _Plan) -> list[Worker]:
        """Let go of the sources that are off, gone or changed; return their threads, which may still be closing."""
        reading = {stream.name for stream in plan.streams if stream.enabled}
        kept = {name: reader for name, reader in self._readers.items() if name in reading - plan.sources.keys()}
        retired = {name: reader for name, reader in self._readers.items() if name not in kept}
        for name, reader in retired.items():
            self._inbox.switch_off(name)
            reader.loop.stop()
        self._readers = kept
        return [reader.worker for reader in retired.values()]

    def _start_readers(self, plan: _Plan) -> None:
        started = {
            name: self._reader(name, source, self._inbox.attach(name)) for name, source in plan.sources.items()
        }
        self._readers = {**self._readers, **started}
        served = {stream.model for stream in plan.streams if stream.name in started}
        for name, server in self._servers.items():
            if name in served and not server.worker.is_alive:
                worker = Worker(server.worker.name, server.loop.run, self._wake)
                worker.start()
                self._servers = {**self._servers, name: _Server(server.loop, worker)}
        for reader in started.values():
            reader.worker.start()

    def _swap(self, name: str, model: LoadedModel, gone_since_ns: int | None) -> None:
        server = self._servers[name]
        is_in = server.loop.swap(model, SWAP_TIMEOUT_S if server.worker.is_alive else 0.0)
        if not is_in and server.worker.is_alive:
            log.warning("%s: still serves a frame after %g s; the new model follows it", name, SWAP_TIMEOUT_S)
        variant = model.variants[0]
        log.info("%s: swapped for %s (SHA-256 %.12s)", name, model.version, variant.sha256)
        body: Figures = {"model": name, "version": model.version, "sha256": variant.sha256}
        if gone_since_ns is not None:
            body["gap_ms"] = round((self._clock.now_ns() - gone_since_ns) / NS_PER_MS)
        self._report("model_swapped", body)

    def _all_workers(self) -> list[Worker]:
        servers = [server.worker for server in self._servers.values()]
        return [*self._workers.values(), *servers, *(reader.worker for reader in self._readers.values())]

    def _show_all(self, frame: Frame, payload: Payload) -> None:
        self._annotate.show(frame, payload)
        self._show(frame, payload)

    def _join(self, workers: list[Worker], within_ns: int) -> None:
        by_ns = self._clock.now_ns() + within_ns
        for worker in workers:
            worker.join_or_leave((by_ns - self._clock.now_ns()) / NS_PER_S)

    def _reader(self, stream: str, source: Source, number: int) -> _Reader:
        loop = CaptureLoop(
            stream, source, self._inbox, self._clock, self._report, Backoff(cap_ns=WAIT_MAX_NS), number
        )
        return _Reader(loop, Worker(f"capture-{stream}", loop.run, self._wake))

    def _server(self, model: LoadedModel, settings: Settings) -> _Server:
        loop = InferenceLoop(
            model=model,
            inbox=self._inbox,
            timer=self._timer,
            emit=self._emit,
            show=self._show_all,
            clock=self._clock,
            keep_warm_ns=_keep_warm_ns(settings, model.name),
        )
        return _Server(loop, Worker(f"infer-{model.name}", loop.run, self._wake))


def runnable(
    settings: Settings, models: Mapping[str, LoadedModel], sources: Mapping[str, Source]
) -> list[StreamSettings]:
    """Return the streams whose model is there, and their source unless they are off."""
    return [
        stream
        for stream in settings.streams
        if stream.model in models and (stream.name in sources or not stream.enabled)
    ]


def _keep_warm_ns(settings: Settings, model: str) -> int:
    keep_warm_s = next(known.keep_warm_s for known in settings.models if known.name == model)
    return NEVER_NS if keep_warm_s is None else int(keep_warm_s * NS_PER_S)


def _model_figures(loop: InferenceLoop) -> Figures:
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
        **(
            {}
            if variant.memory is None
            else {"state_resets": variant.memory.resets, "states_not_finite": variant.memory.broken}
        ),
    }
