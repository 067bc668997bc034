"""One paho client for one connection: built with the secrets of the moment, opened in bounded time, broken off.

The agent's sink and the viewers share it. paho's own reconnect is never used: it has no jitter, resends what is
old without a mark, and keeps the certificates and the password of its first try.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties

from agent.errors import TransientError
from agent.settings import MqttSettings
from agent.sinks.credentials import read_password, tls_context

CONNECT_TIMEOUT_S = 3.0
"""For the TCP and TLS handshake. The calling thread waits for it, so it stays below the 5 s of a clean stop."""
TCP_USER_TIMEOUT_MS = 5_000
"""Unacknowledged TCP data breaks the connection: a half-open one is noticed in 5.5 s instead of twice the
keep-alive (tcp(7))."""
SELECT_MAX = 1024
"""paho waits with select(), which takes no descriptor from here on: such a connection would never come up, in
silence."""
PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}

_log = logging.getLogger(__name__)
# paho says this at the end of each connection that we broke off ourselves. What it says of exceptions in callbacks
# is the only trace of them, so the logger as a whole stays.
_log.addFilter(lambda record: not record.getMessage().startswith("Client is not connected"))


def new_client(settings: MqttSettings, client_id: str, *, keeps_session: bool = False) -> mqtt.Client:
    """Return a client that is ready for its callbacks, its will and `open_connection`.

    Args:
        settings: of the broker.
        client_id: at the broker.
        keeps_session: MQTT 3.1.1: what comes for it while it is away waits at the broker (v5: see `open_connection`).

    Raises:
        TransientError: a file that it needs cannot be read, or holds no valid certificate.
    """
    url = urlsplit(settings.url)
    is_v5 = settings.protocol == "5"
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        clean_session=None if is_v5 else not keeps_session,
        protocol=mqtt.MQTTv5 if is_v5 else mqtt.MQTTv311,
        transport="websockets" if url.scheme in ("ws", "wss") else "tcp",
        reconnect_on_failure=False,
    )
    client.connect_timeout = CONNECT_TIMEOUT_S
    # An exception in a callback would kill paho's thread while the client still says that it is connected.
    client.suppress_exceptions = True
    client.enable_logger(_log)
    client.on_socket_open = lambda _c, _u, opened: _set_user_timeout(opened)
    try:
        if url.scheme in ("ws", "wss"):
            client.ws_set_options(path=url.path or "/mqtt")
        if url.scheme in ("mqtts", "wss"):
            client.tls_set_context(tls_context(settings))
        if settings.username is not None or settings.password_file is not None:
            client.username_pw_set(settings.username or "", read_password(settings.password_file))
    except (OSError, ValueError) as error:
        raise TransientError(f"{settings.url}: cannot prepare the connection: {error}") from error
    return client


def open_connection(
    client: mqtt.Client, settings: MqttSettings, *, properties: Properties | None, clean_start: bool = True
) -> None:
    """Connect, send CONNECT and start paho's thread; blocks for the name look-up and `CONNECT_TIMEOUT_S`.

    Raises:
        TransientError: nothing answers there, TLS was refused, or too many files are open.
    """
    url = urlsplit(settings.url)
    try:
        client.connect(
            url.hostname or "",
            url.port or PORTS[url.scheme],
            settings.keepalive_s,
            clean_start=clean_start if settings.protocol == "5" else mqtt.MQTT_CLEAN_START_FIRST_ONLY,
            properties=properties if settings.protocol == "5" else None,
        )
    except (OSError, ValueError, mqtt.WebsocketConnectionError) as error:
        # UnicodeError, a ValueError, comes from the look-up of a malformed host name. The errno says nothing to
        # people; the look-up's and TLS' texts stand alone.
        raise TransientError(
            f"{settings.url}: cannot connect: {getattr(error, 'strerror', None) or error}"
        ) from error
    opened: Any = client.socket()
    if opened is not None and opened.fileno() >= SELECT_MAX:
        break_off(client)
        raise TransientError(
            f"{settings.url}: cannot connect: {opened.fileno()} files are open and select() ends at {SELECT_MAX}: "
            f"set LimitNOFILE={SELECT_MAX} so that what leaks files fails first"
        )
    client.loop_start()


def break_off(client: mqtt.Client) -> None:
    """End the connection and paho's thread whatever the peer does."""
    # Shutting the socket first: loop_stop alone waits over 15 s on a stalled one that is full.
    opened: Any = client.socket()
    if hasattr(opened, "shutdown"):
        with contextlib.suppress(OSError):
            opened.shutdown(socket.SHUT_RDWR)
    client.loop_stop()
    # paho leaves it open where its thread ended first, or never began, until the client is collected.
    if opened is not None:
        with contextlib.suppress(OSError):
            opened.close()


def _set_user_timeout(opened: Any) -> None:
    # A websocket wrapper has no setsockopt; its keep-alive is the guard there.
    if hasattr(opened, "setsockopt"):
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
