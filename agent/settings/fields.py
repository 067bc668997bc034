"""What all sections of the settings share: the base of a section and the types of its fields."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError


def _topic_level(value: str) -> str:
    if not re.fullmatch(r"[^\x00-\x20\x7f/+#$][^\x00-\x20\x7f/+#]*", value) or len(value.encode()) > 64:
        raise PydanticCustomError(
            "topic_level",
            "must be 1 to 64 bytes without spaces, control characters, '/', '+', '#' or a leading '$'",
        )
    return value


def _topic_prefix(value: str) -> str:
    levels = value.split("/")
    try:
        for level in levels:
            _topic_level(level)
    except PydanticCustomError:
        levels = []
    if not levels or len(value) > 128:
        raise PydanticCustomError(
            "topic_prefix",
            "must be topic levels joined by '/', such as 'edgebeat/v1', without wildcards or spaces, "
            "128 characters at most",
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
    if not re.fullmatch(r"[A-Za-z0-9.\-_:]{1,253}", parts.hostname or ""):
        raise PydanticCustomError("broker_url", "names no valid host: {example}", {"example": example})
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
