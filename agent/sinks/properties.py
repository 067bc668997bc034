"""MQTT 5 properties of what we send and of how we connect."""

from __future__ import annotations

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.interfaces import Packet

WILL_DELAY_S = 20
"""A device that is back within 20 s was never offline to its operator."""
SESSION_EXPIRY_S = 3600
"""The broker keeps the session so that the will can be delayed and revoked."""
PACKET_BYTES_IN_MAX = 262_144
"""Told to the broker, and held to in MQTT 3.1.1 too: a 50 MB inbound message would cost 144 MiB of memory."""
EXPIRY_STEP_S = 60
"""Expiries are rounded down to a minute: paho takes 20 us to build properties, and so few are built."""
_CACHED_MAX = 64


class _Packed(Properties):
    """Properties in their wire form: paho packs those of each message anew, a quarter of what it costs."""

    def __init__(self, properties: Properties) -> None:
        super().__init__(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        # Past paho's own check of names, which knows the protocol's only.
        object.__setattr__(self, "_packed", bytes(properties.pack()))

    def pack(self) -> bytes:
        """Return what follows the packet's identifier."""
        packed: bytes = object.__getattribute__(self, "_packed")
        return packed


class PublishProperties:
    """Gives each packet its properties, built once for all packets alike. One thread."""

    def __init__(self) -> None:
        self._cached: dict[tuple[str, int | None], Properties] = {}

    def of(self, packet: Packet) -> Properties:
        """Return the content type and the expiry of a packet, and what an answer brings back."""
        expiry_s = packet.expiry_s
        if expiry_s is not None and expiry_s > EXPIRY_STEP_S:
            expiry_s = expiry_s // EXPIRY_STEP_S * EXPIRY_STEP_S
        key = (packet.content_type, expiry_s)
        if packet.correlation:
            return self._build(*key, packet.correlation)  # Every answer has its own.
        if key not in self._cached:
            if len(self._cached) >= _CACHED_MAX:
                self._cached.clear()
            self._cached[key] = self._build(*key)
        return self._cached[key]

    @staticmethod
    def bytes_max(content_type: str, correlation_bytes: int) -> int:
        """Return what they take at most: their length, two texts with theirs, two numbers (MQTT 5, 3.3.2.3)."""
        return 2 + 3 + len(content_type.encode()) + 3 + correlation_bytes + 2 + 5

    @staticmethod
    def _build(content_type: str, expiry_s: int | None, correlation: bytes = b"") -> Properties:
        properties = Properties(PacketTypes.PUBLISH)
        properties.ContentType = content_type
        if content_type == "application/json":
            properties.PayloadFormatIndicator = 1  # UTF-8.
        if expiry_s is not None:
            properties.MessageExpiryInterval = expiry_s
        if correlation:
            properties.CorrelationData = correlation
        return _Packed(properties)


def connect_properties() -> Properties:
    """Return how the agent connects."""
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = SESSION_EXPIRY_S
    properties.MaximumPacketSize = PACKET_BYTES_IN_MAX
    return properties


def will_properties() -> Properties:
    """Return how the broker treats our will."""
    properties = Properties(PacketTypes.WILLMESSAGE)
    properties.WillDelayInterval = WILL_DELAY_S
    return properties
