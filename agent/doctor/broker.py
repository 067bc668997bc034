"""The broker: whether it answers, and what it last heard of this device."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agent.clock import NS_PER_S, iso_utc
from agent.doctor.finding import Device, Finding, advice, ok, problem, unknown
from agent.settings import MqttSettings

FUTURE_NS = 60 * NS_PER_S
"""A report that is dated later than this from now was made with another clock."""

LOOPBACK = ("mqtt://127.", "mqtt://localhost", "mqtt://[::1]", "embedded")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a visit.

    Attributes:
        sentence: what happened.
        is_reached: whether the broker let us in.
        retained: payloads of `status` and `health`, by topic below the device's tree, as far as we may read them.
    """

    sentence: str
    is_reached: bool
    retained: Mapping[str, bytes] = field(default_factory=dict)


Visit = Callable[[MqttSettings, str], Answer]


def broker(visit: Visit) -> Callable[[Device], list[Finding]]:
    """Return the check of the broker.

    Args:
        visit: connects with the settings and reads the device's retained messages.
    """

    def check(device: Device) -> list[Finding]:
        if device.settings is None:
            return []
        settings = device.settings.mqtt
        if settings.url == "embedded":
            advised = "set mqtt.url to a broker of yours: this one is for trials, and nobody else reaches it"
            return [advice("broker", "embedded", advised)]
        answer = visit(settings, device.settings.device.id)
        if not answer.is_reached:
            advised = "is it running, does the firewall let it through, are name and password right?"
            if "certificate" in answer.sentence:
                advised = "look at the clock first (see time), then at mqtt.ca_file"
            return [problem("broker", answer.sentence, advised)]
        found = [ok("broker", answer.sentence)]
        if settings.url.startswith("mqtt://") and not settings.url.startswith(LOOPBACK):
            advised = "use mqtts:// (config/mosquitto/edgebeat.conf): the password can be read on the way"
            found.append(advice("broker", "no TLS", advised))
        return [*found, *_skew(device, answer.retained.get("health", b""))]

    return check


def _skew(device: Device, health: bytes) -> list[Finding]:
    """Compare our clock with the stamp of the last report that the broker holds: MQTT itself has no time."""
    try:
        text = json.loads(health)["at"]
        at_ns = int(datetime.datetime.fromisoformat(text).timestamp() * NS_PER_S)
    except (ValueError, TypeError, KeyError):
        return [unknown("clock skew", "the broker holds no health of this device that we may read")]
    if at_ns > device.wall_ns + FUTURE_NS:
        advised = "the clock was put back, or another device has our device.id"
        return [
            problem("clock skew", f"the last health is of {text}, and here it is {iso_utc(device.wall_ns)}", advised)
        ]
    return [ok("clock skew", f"the last health is of {text}")]
