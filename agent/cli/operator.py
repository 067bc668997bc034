"""An operator's connection: hears what devices report of their settings, and asks for others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from agent.cli.payloads import UnreadableError, parse_json, parse_status
from agent.cli.reports import Report, parse_desired_version, parse_report
from agent.cli.rollout import DEVICES_MAX, Ask, Device
from agent.cli.viewer import Viewer
from agent.clock import NS_PER_MS, NS_PER_S, Clock
from agent.settings import MqttSettings

PUMP_NS = 200 * NS_PER_MS
QUIET_NS = NS_PER_S
"""Retained messages come in one burst; when none came for so long, all devices are known."""


class Operator:
    """Knows the devices that match. One thread.

    Args:
        settings: broker and prefix.
        device: an id, or `+` for all of them.
        clock: paces it.
        asked_by: told with each document.
        say: shows a line to the person.
    """

    def __init__(
        self, settings: MqttSettings, device: str, clock: Clock, *, asked_by: str, say: Callable[[str], None]
    ) -> None:
        topics = [f"{device}/{tail}" for tail in ("settings/reported", "settings/desired", "status", "model/state")]
        self._viewer = Viewer(
            settings, clock, on_message=self._message, on_connection=lambda _, text: say(text), topics=topics
        )
        self._prefix = f"{settings.topic_prefix}/"
        self._clock = clock
        self._asked_by = asked_by
        self._online: set[str] = set()
        self._desired: dict[str, int] = {}
        self._waiting: list[Ask] = []
        self.devices: dict[str, Device] = {}
        self.on_report: Callable[[str, Report], None] = lambda *_: None
        self.on_model: Callable[[str, Mapping[str, Any]], None] = lambda *_: None
        self.heard = 0
        """Reports that came."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._viewer.close()

    def is_online(self, name: str) -> bool:
        """Return whether a device's status says so."""
        return name in self._online

    def pump(self) -> None:
        """Send what waits for a connection, and take in what came."""
        self._viewer.pump(PUMP_NS)
        left = [ask for ask in self._waiting if not self._publish(ask)]
        self._waiting = left

    def send(self, asks: Sequence[Ask]) -> None:
        """Publish documents; without a connection they wait for the next one."""
        self._waiting += [ask for ask in asks if not self._publish(ask)]

    def wait(self, is_there: Callable[[], bool], timeout_s: float) -> bool:
        """Listen until something holds; return whether it does."""
        by_ns = self._clock.now_ns() + int(timeout_s * NS_PER_S)
        while not is_there() and self._clock.now_ns() < by_ns:
            self.pump()
        return is_there()

    def wait_until_quiet(self, timeout_s: float) -> None:
        """Listen until all retained messages have come."""
        by_ns = self._clock.now_ns() + int(timeout_s * NS_PER_S)
        heard, since_ns = -1, self._clock.now_ns()
        while (now_ns := self._clock.now_ns()) < by_ns:
            self.pump()
            if self.heard != heard or not self._viewer.is_subscribed:
                heard, since_ns = self.heard, now_ns
            elif now_ns - since_ns >= QUIET_NS:
                return

    def _publish(self, ask: Ask) -> bool:
        return self._viewer.publish(f"{ask.device}/settings/desired", ask.payload, asked_by=self._asked_by)

    def _message(self, topic: str, payload: bytes) -> None:
        name, _, tail = topic.removeprefix(self._prefix).partition("/")
        try:
            if tail == "settings/reported":
                self._reported(name, parse_report(payload))
            elif tail == "settings/desired":
                self._desired[name] = parse_desired_version(payload)
                if name in self.devices:
                    self.devices[name].desired_version = self._desired[name]
            elif tail == "model/state" and isinstance(state := parse_json(payload), dict):
                self.on_model(name, state)
            elif tail == "status" and parse_status(payload).state == "online":
                self._online.add(name)
            elif tail == "status":
                self._online.discard(name)
        except UnreadableError:
            return

    def _reported(self, name: str, report: Report) -> None:
        self.heard += 1
        if name in self.devices:
            self.devices[name].report = report
            self.on_report(name, report)
        elif len(self.devices) < DEVICES_MAX:
            self.devices[name] = Device(report, self._desired.get(name, 0))
