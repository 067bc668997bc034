"""What our client does in the place of paho's own: the same, in less time."""

from __future__ import annotations

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent.sinks.paho_client import BoundedClient


def told(kind: type[mqtt.Client], protocol: MQTTProtocolVersion, packet: bytes) -> list[tuple[int, int, str]]:
    """Return what a client's callback hears of a PUBACK for the only message that is under way, with identifier 1."""
    client = kind(CallbackAPIVersion.VERSION2, protocol=protocol)
    heard: list[tuple[int, int, str]] = []
    client.on_publish = lambda _c, _u, mid, reason, properties: heard.append((mid, reason.value, str(properties)))
    message = mqtt.MQTTMessage(1, b"results/s")
    message.qos = 1
    client._out_messages[1] = message
    client._in_packet["command"], client._in_packet["packet"] = 0x40, bytearray(packet)
    client._handle_pubackcomp("PUBACK")
    assert (1 in client._out_messages) is not bool(heard)
    return heard


@pytest.mark.parametrize(
    ("protocol", "packet"),
    [
        (MQTTProtocolVersion.MQTTv311, b"\x00\x01"),
        (MQTTProtocolVersion.MQTTv5, b"\x00\x01"),  # Success, nothing else: the way that is ours.
        (MQTTProtocolVersion.MQTTv5, b"\x00\x02"),  # Of no message of ours.
        (MQTTProtocolVersion.MQTTv5, b"\x00\x01\x10"),  # Nobody subscribes to it.
        (MQTTProtocolVersion.MQTTv5, b"\x00\x01\x87\x00"),  # Not authorised.
    ],
)
def test_an_acknowledgement_is_heard_as_paho_hears_it(protocol: MQTTProtocolVersion, packet: bytes) -> None:
    """An upgrade of paho that changes what is beneath fails here."""
    assert told(BoundedClient, protocol, packet) == told(mqtt.Client, protocol, packet)


def test_a_success_is_one() -> None:
    """And no other message's."""
    assert [value for _, value, _ in told(BoundedClient, MQTTProtocolVersion.MQTTv5, b"\x00\x01")] == [0]
    assert told(BoundedClient, MQTTProtocolVersion.MQTTv5, b"\x00\x02") == []
