"""What all sections of the settings share: the base of a section and the types of its fields."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
"""A name of labels of 1 to 63 characters (RFC 1123; local networks use underscores too), or an IPv6 address."""


def _topic_level(value: str) -> str:
    # Brokers end a connection for control characters and for what is no character (MQTT 5, 1.5.4), and nobody sees
    # an invisible one: only letters, marks, numbers, punctuation and symbols.
    is_visible = all(unicodedata.category(character)[0] in "LMNPS" for character in value)
    if not re.fullmatch(r"[^/+#$][^/+#]*", value) or not is_visible or len(value.encode()) > 64:
        raise PydanticCustomError(
            "topic_level",
            "must be 1 to 64 bytes of visible characters without spaces, '/', '+', '#' or a leading '$'",
        )
    return value


def _topic_prefix(value: str) -> str:
    levels = value.split("/")
    try:
        for level in levels:
            _topic_level(level)
    except PydanticCustomError:
        levels = []
    if not levels or len(value.encode()) > 128:
        raise PydanticCustomError(
            "topic_prefix",
            "must be topic levels joined by '/', such as 'edgebeat/v1', without wildcards or spaces, "
            "128 bytes at most",
        )
    return value


def _broker_url(value: str) -> str:
    if value == "embedded":
        return value
    example = "write it as mqtt://host:1883, mqtts://host:8883, ws://host:80/mqtt, wss://..., or 'embedded'"
    try:
        parts = urlsplit(value)
        port_is_right = parts.port is None or 0 < parts.port < 65536
    except ValueError:
        raise PydanticCustomError("broker_url", "is not a URL: {example}", {"example": example}) from None
    if parts.scheme not in ("mqtt", "mqtts", "ws", "wss") or not port_is_right:
        raise PydanticCustomError("broker_url", "is not a broker's URL: {example}", {"example": example})
    if not _HOST.fullmatch(parts.hostname or "") or len(parts.hostname or "") > 253:
        raise PydanticCustomError("broker_url", "names no valid host: {example}", {"example": example})
    if parts.fragment or (parts.scheme in ("mqtt", "mqtts") and (parts.path.strip("/") or parts.query)):
        raise PydanticCustomError(
            "broker_url", "has a path, which only ws:// and wss:// know: {example}", {"example": example}
        )
    if parts.username or parts.password:
        raise PydanticCustomError("broker_url", "must not hold credentials: use mqtt.username and mqtt.password_file")
    return value


TopicLevel = Annotated[str, AfterValidator(_topic_level)]
"""One level of a topic."""

TopicPrefix = Annotated[str, AfterValidator(_topic_prefix)]
"""Levels of a topic, joined by slashes."""

BrokerUrl = Annotated[str, AfterValidator(_broker_url)]
"""Where a broker is, or `embedded`."""


ProtocolVersion = Annotated[
    Literal["5", "3.1.1"], BeforeValidator(lambda value: str(value) if value in (5, "5") else value)
]
"""A version of MQTT; in TOML and in the environment 5 may be a number."""


class Section(BaseModel):
    """Base of every section: unknown keys, infinities and true for 1 are refused; values never change."""

    model_config = ConfigDict(
        defer_build=True, extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_as_number(cls, value: Any, field: ValidationInfo) -> Any:
        """Refuse `threads = true`, which Python would take for 1."""
        annotation = cls.model_fields[field.field_name or ""].annotation
        if isinstance(value, bool) and bool not in (annotation, *get_args(annotation)):
            raise PydanticCustomError("bool_as_number", "is no true or false")
        return value
