"""Everything that somebody may ask of the device from afar: the commands, and the receivers around them.

A new command is one method and one line in `_registry`.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from pydantic import Field

from agent import __version__
from agent.clock import NS_PER_MS, NS_PER_S, Clock
from agent.core import discovery
from agent.core.commands import Answered, Command, CommandError, CommandMemory, Pending
from agent.core.inbound import SUBSCRIPTIONS
from agent.core.message import Message
from agent.frame import Frame
from agent.journal import CommandJournal, from_values, to_values
from agent.loops.commands import CommandReceiver
from agent.loops.control import ControlLoop
from agent.loops.home_assistant import Announcement, Withdrawal
from agent.loops.images import ImageLoop, ImagePolicy
from agent.loops.inference import InferenceLoop
from agent.loops.recorder import RecorderLoop
from agent.provision import Provision
from agent.result import Payload
from agent.rollback import Rollback, RollbackCommand
from agent.settings import Settings
from agent.settings.fields import Section
from agent.tuning_command import WAIT_S, TuneArguments, TuneCommand

WATCH_S_MAX = 120.0
"""A viewer that dies leaves pictures running for no longer; one that lives renews its lease in time."""
SNAPSHOT_WAIT_S = 10.0
SELF_TEST_WAIT_S = 30.0
CAPTURE_WAIT_S = 30.0
"""128 MiB on a slow SD card."""
SNAPSHOT_KB_MAX = 128
"""In an answer a picture is base64, a third larger: 171 kB of the 256 KiB that any reader takes."""


class _Nothing(Section):
    """Arguments of a command that has none."""


class _Watch(Section):
    """Arguments of `watch`."""

    stream: str
    duration_s: float = Field(default=30.0, ge=0.0, le=WATCH_S_MAX)


class _Snapshot(Section):
    """Arguments of `snapshot`."""

    stream: str
    view: Literal["annotated", "plain"] = "annotated"
    max_kb: int = Field(default=64, ge=8, le=SNAPSHOT_KB_MAX)


class _Restart(Section):
    """Arguments of `restart`."""

    reason: str = Field(default="", max_length=200)


class Serving(Protocol):
    """What serves at the moment; see `pipelines.Pipelines`. Any thread."""

    def serving(self) -> dict[str, InferenceLoop]:
        """Return the streams that run, each with the loop of its model."""

    def is_alive(self, loop: InferenceLoop) -> bool:
        """Return whether a loop still serves."""

    def given(self) -> tuple[Settings, Provision] | None:
        """Return the settings in force and what the models were given; None before the agent is built."""


class _NothingServes:
    """Before the agent is built."""

    def serving(self) -> dict[str, InferenceLoop]:
        """See `Serving.serving`."""
        return {}

    def is_alive(self, loop: InferenceLoop) -> bool:
        """See `Serving.is_alive`."""
        del loop
        return False

    def given(self) -> tuple[Settings, Provision] | None:
        """See `Serving.given`."""
        return None


class Remote:
    """The receivers of the control thread, and the thread that makes pictures.

    Args:
        settings: valid.
        control: gets the receivers.
        emit: hands a message to egress.
        report: sends an event.
        boot: identifies this run.
        commands: what the run before this one answered, where no state folder keeps it.
        note: writes to the audit.
        clock: the agent's.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        control: ControlLoop,
        emit: Callable[[Message], None],
        report: Callable[[str, Mapping[str, Any]], None],
        boot: str,
        commands: Sequence[Mapping[str, Any]],
        note: Callable[[str, Mapping[str, Any]], None],
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._base = f"{settings.mqtt.topic_prefix}/{settings.device.id}"
        self._control = control
        self._report = report
        self._boot = boot
        self._clock = clock
        self._started_ns = clock.now_ns()
        self._serving: Serving = _NothingServes()
        self._restart_agent: Callable[[str], None] = lambda _: None
        self._roll_back_one: Callable[[Pending, Rollback], None] = lambda *_: None
        journal = CommandJournal(settings.state.dir, may_make="dir" in settings.state.model_fields_set)
        carried = [entry for values in commands if (entry := from_values(values)) is not None]
        memory = CommandMemory([*journal.read(), *carried])
        self.images = ImageLoop(
            _left_over(memory.entries(), settings),
            ImagePolicy(
                interval_ns=int(settings.images.interval_s * NS_PER_S),
                bytes_max=settings.images.max_kb << 10,
                on_find=settings.images.on_find,
            ),
            emit,
            clock,
        )
        self._recorder = _build_recorder(settings, clock)
        self._tuner = TuneCommand(clock)
        self._commands = CommandReceiver(
            self._registry(),
            base=self._base,
            memory=memory,
            journal=journal,
            emit=emit,
            wake=control.wake,
            on_connection=self.images.connected,
            note=note,
            clock=clock,
        )
        control.add(self._commands)
        place = discovery.config_topic(settings.home_assistant.prefix, settings.device.id)
        self._announcement: Announcement | None = None
        if settings.home_assistant.enabled:
            self._announcement = Announcement(
                settings.home_assistant.prefix, place, build=self._describe, emit=emit, clock=clock
            )
            control.add(self._announcement)
        else:
            control.add(Withdrawal(place, emit=emit, clock=clock))

    def attach(self, serving: Serving, *, restart: Callable[[str], None], rollback: RollbackCommand) -> None:
        """Tell what the commands act on. Before the threads start.

        Args:
            serving: the streams and models of the moment.
            restart: replaces this run of the agent in order, and says why.
            rollback: takes settings and releases back.
        """
        self._serving = serving
        self._restart_agent = restart
        self._roll_back_one = rollback.run

    def streams_changed(self) -> None:
        """Tell those who must know that other streams or models run now. Any thread."""
        if self._announcement is not None:
            self._announcement.again()
            self._control.wake()

    def bodies(self) -> dict[str, Callable[[], None]]:
        """Return the bodies of the threads by their names."""
        recorder = {} if self._recorder is None else {"recorder": self._recorder.run}
        return {"control": self._control.run, "images": self.images.run, **recorder}

    def show(self, frame: Frame, payload: Payload) -> None:
        """Offer a published frame to those who look at them. Any thread."""
        self.images.show(frame, payload)
        if self._recorder is not None:
            self._recorder.show(frame, payload)

    def stop_showing(self) -> None:
        """End the threads that look at frames. Any thread."""
        self.images.stop()
        if self._recorder is not None:
            self._recorder.stop()

    def snapshot(self) -> dict[str, Any]:
        """Return figures for health. Any thread."""
        return {
            **self._control.snapshot(),
            "commands": self._commands.snapshot(),
            "images": self.images.snapshot(),
            **({} if self._recorder is None else {"capture": self._recorder.snapshot()}),
            **({} if self._announcement is None else {"home_assistant": self._announcement.snapshot()}),
        }

    def export(self) -> list[dict[str, Any]]:
        """Return the answered commands, for `handover`. After the control thread's end."""
        return [to_values(entry) for entry in self._commands.export()]

    def _describe(self) -> dict[str, Any]:
        """Return the document for Home Assistant."""
        streams = self._serving.serving()
        return discovery.document(
            base=self._base,
            device=self._settings.device.id,
            version=__version__,
            streams={name: loop.model.task for name, loop in streams.items()},
            models={loop.model.name: loop.model.version for loop in streams.values()},
            stale_after_s=2 * self._settings.health.period_s + 5,
        )

    def _registry(self) -> dict[str, Command]:
        """Return every command."""
        return {
            "capture": Command(self._capture, _Nothing, timeout_s=CAPTURE_WAIT_S, is_audited=True),
            "ping": Command(self._ping, _Nothing),
            "restart": Command(self._restart, _Restart, is_audited=True),
            "rollback": Command(self._roll_back, Rollback, is_audited=True),
            "self-test": Command(self._self_test, _Nothing, timeout_s=SELF_TEST_WAIT_S),
            "snapshot": Command(self._snapshot, _Snapshot, timeout_s=SNAPSHOT_WAIT_S),
            "tune": Command(self._tune, TuneArguments, timeout_s=WAIT_S, is_audited=True),
            "watch": Command(self._watch, _Watch),
        }

    def _capture(self, pending: Pending, _: _Nothing) -> None:
        if self._recorder is None:
            raise CommandError("off", "nothing is kept: set capture.seconds, and start the agent anew")

        def tell(told: Mapping[str, Any] | OSError) -> None:
            if isinstance(told, OSError):
                pending.failed(
                    CommandError("disk", f"{told.filename or 'captures'}: cannot be written: {told.strerror}")
                )
            else:
                pending.done(told)

        self._recorder.capture(tell)

    def _ping(self, pending: Pending, _: _Nothing) -> None:
        uptime_s = round((self._clock.now_ns() - self._started_ns) / NS_PER_S, 3)
        pending.done({"version": __version__, "uptime_s": uptime_s, "streams": sorted(self._serving.serving())})

    def _watch(self, pending: Pending, asked: _Watch) -> None:
        self._require(asked.stream)
        holder = pending.request.address.client or pending.request.address.id
        if not self.images.watch(asked.stream, holder, int(asked.duration_s * NS_PER_S)):
            raise CommandError("busy", "too many streams are watched, or by too many: ask again later")
        lease = {"duration_s": asked.duration_s, "duration_s_max": WATCH_S_MAX}
        pending.done({"stream": asked.stream, **lease, "topic": f"image/{asked.stream}"})

    def _snapshot(self, pending: Pending, asked: _Snapshot) -> None:
        self._require(asked.stream)

        def tell(frame: Frame, jpeg: bytes | None) -> None:
            if jpeg is None:
                pending.failed(CommandError("oversize", f"no picture of it fits into {asked.max_kb} KiB"))
                return
            height, width = frame.pixels.shape[:2]
            figures = {"stream": asked.stream, "frame": frame.sequence, "source": {"width": width, "height": height}}
            age_ms = round((self._clock.now_ns() - frame.captured_at_ns) / NS_PER_MS, 3)
            content = {"content_type": "image/jpeg", "image": base64.b64encode(jpeg).decode()}
            pending.done({**figures, "age_ms": age_ms, "view": asked.view, **content})

        is_taken = self.images.take_snapshot(
            asked.stream,
            is_annotated=asked.view == "annotated",
            bytes_max=asked.max_kb << 10,
            wait_ns=int(SNAPSHOT_WAIT_S * NS_PER_S),
            tell=tell,
        )
        if not is_taken:
            raise CommandError("busy", "too many snapshots wait for a frame: ask again later")

    def _restart(self, pending: Pending, asked: _Restart) -> None:
        request = pending.request
        who = {"client": request.address.client, "asked_by": request.asked_by}
        reason = f"restart command of {request.address.client or 'an unknown client'}" + (
            f": {asked.reason}" if asked.reason.isprintable() and asked.reason else ""
        )

        def then() -> None:
            self._report("restarting", {"reason": reason, **who})
            self._restart_agent(reason)

        pending.done({"restarting": True, "boot": self._boot}, then=then)

    def _roll_back(self, pending: Pending, asked: Rollback) -> None:
        self._roll_back_one(pending, asked)

    def _self_test(self, pending: Pending, _: _Nothing) -> None:
        serving = self._serving.serving().values()
        loops = {loop.model.name: loop for loop in serving if self._serving.is_alive(loop)}
        figures: dict[str, dict[str, Any]] = {}
        lock = threading.Lock()

        def tell(name: str, found: dict[str, Any]) -> None:
            with lock:
                figures[name] = found
                if len(figures) < len(loops):
                    return
            pending.done({"passed": all(each["passed"] for each in figures.values()), "models": figures})

        if not loops:
            raise CommandError("no_model", "no model runs: health tells why")
        for name, loop in loops.items():
            loop.self_test(lambda found, name=name: tell(name, found))  # type: ignore[misc]

    def _tune(self, pending: Pending, asked: TuneArguments) -> None:
        given = self._serving.given()
        if given is None:
            raise CommandError("no_model", "no model runs: health tells why")
        self._tuner.begin(pending, asked, *given)

    def _require(self, stream: str) -> None:
        if stream not in (streams := self._serving.serving()):
            known = ", ".join(sorted(streams)) or "none"
            raise CommandError("unknown_stream", f"{stream[:64]!r} is no stream that runs: known are {known}")


def _build_recorder(settings: Settings, clock: Clock) -> RecorderLoop | None:
    asked = settings.capture
    if not asked.seconds:
        return None
    return RecorderLoop(int(asked.seconds * NS_PER_S), asked.max_mb << 20, settings.state.dir / "captures", clock)


def subscriptions(settings: Settings) -> tuple[list[str], list[str]]:
    """Return what the device must hear, and what the broker may refuse."""
    prefix = settings.home_assistant.prefix
    if settings.home_assistant.enabled:
        return [*SUBSCRIPTIONS, f"/{prefix}/status"], []
    return [*SUBSCRIPTIONS], [f"/{discovery.config_topic(prefix, settings.device.id)}"]


def _left_over(entries: Sequence[Answered], settings: Settings) -> set[str]:
    """Return streams that earlier runs published pictures of, as far as is remembered."""
    if settings.images.on_find:
        return set()
    watched = {entry.body.get("stream") for entry in entries if entry.name == "watch"}
    return {stream.name for stream in settings.streams if stream.name in watched}
