"""One paho client for one connection: built with the secrets of the moment, opened, served, broken off.

The agent's sink and the viewers share it. Two things of paho are never used. Its reconnect: it has no jitter, resends
what is old without a mark, and keeps the certificates and the password of its first try. Its thread: it waits with
select(), which takes no descriptor from 1,024 on, hangs in `loop_stop` on a stalled socket that is full, and costs a
message two more hand-overs between threads.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from typing import Any, Literal
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from agent.errors import TransientError
from agent.settings import MqttSettings
from agent.sinks.credentials import read_password, tls_context
from agent.sinks.properties import PACKET_BYTES_IN_MAX
from agent.wake import READABLE, WRITABLE, Wake

CERTIFICATE_NOT_YET_VALID = 9
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID, which Python has no name for: a board without a battery, at 1970."""
CONNECT_TIMEOUT_S = 3.0
"""For each address of the broker's name, for TLS, and for each byte of a websocket's greeting."""
TCP_USER_TIMEOUT_MS = 5_000
"""Unacknowledged TCP data breaks the connection: a half-open one is noticed in 5.5 s instead of twice the
keep-alive (tcp(7))."""
TOGETHER_MAX = 8
"""Messages of one turn that may leave in one piece: the first of them waits for the encoding of seven, 1.5 ms."""
READ_AHEAD_BYTES = 4096
"""Of what has come in: 700 PUBACKs, which paho would fetch with three calls of the kernel each."""
MISC_EVERY_S = 1.0
"""Between two looks at the keep-alive, whose unit is a second."""
PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}

_ACCEPTED, _NO_PROPERTIES = ReasonCode(PacketTypes.PUBACK), Properties(PacketTypes.PUBACK)
_sock_recv = mqtt.Client._sock_recv  # Three times a message: `super()` takes as long as the call.
_LOGGED = LogLevel.MQTT_LOG_WARNING | LogLevel.MQTT_LOG_ERR
_log = logging.getLogger(__name__)


class BoundedClient(mqtt.Client):
    """Refuses what is too large before it has read any of it.

    MQTT 5 lets a client tell its MaximumPacketSize; MQTT 3.1.1 has no such thing, and 50 MB that somebody publishes
    under a topic that we read would cost 144 MiB. Overrides paho's own reader: no public way comes before the memory.

    Attributes:
        packet_bytes_in_max: of a packet's rest after its length.
        refused: why the connection was ended by this, empty for not.
        reads_ahead: whether whoever serves the socket asks `is_ahead`, as `Link` does. paho's thread waits with
            select(), which knows nothing of what was read already.
    """

    packet_bytes_in_max = PACKET_BYTES_IN_MAX
    refused = ""
    reads_ahead = False
    _ahead = b""
    _at = 0

    @property
    def is_ahead(self) -> bool:
        """Whether something was read from the socket that `loop_read` has not looked at."""
        return self._at < len(self._ahead)

    def _create_socket_connection(self) -> socket.socket:
        # Not in `on_socket_open`: that is given what wraps the socket of a websocket.
        opened = super()._create_socket_connection()
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
        return opened

    def _easy_log(self, level: Any, fmt: str, *args: Any) -> None:
        # Each packet is a line to paho, which costs a message 4 us where nobody reads it.
        if level & _LOGGED:
            super()._easy_log(level, fmt, *args)

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        packet = self._in_packet["packet"]
        if cmd != "PUBACK" or len(packet) != 2:
            return super()._handle_pubackcomp(cmd)
        # Success without properties (MQTT 5, 3.4.2.1), for which paho builds both anew: a tenth of a message's way.
        mid = int.from_bytes(packet, "big")
        with self._out_message_mutex:
            if mid in self._out_messages:
                return self._do_on_publish(mid, _ACCEPTED, _NO_PROPERTIES)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _sock_recv(self, bufsize: int) -> bytes:
        if bufsize > self.packet_bytes_in_max:
            self.refused = f"a message of {bufsize} bytes came in, more than {self.packet_bytes_in_max}"
            raise ConnectionAbortedError(self.refused)
        if self._at == len(self._ahead):
            if not self.reads_ahead or bufsize >= READ_AHEAD_BYTES:
                return _sock_recv(self, bufsize)
            self._ahead, self._at = _sock_recv(self, READ_AHEAD_BYTES), 0
        begin, self._at = self._at, min(len(self._ahead), self._at + bufsize)
        return self._ahead[begin : self._at]


def new_client(settings: MqttSettings, client_id: str, *, keeps_session: bool = False) -> BoundedClient:
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
    client = BoundedClient(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        clean_session=None if is_v5 else not keeps_session,
        protocol=mqtt.MQTTv5 if is_v5 else mqtt.MQTTv311,
        transport="websockets" if url.scheme in ("ws", "wss") else "tcp",
        reconnect_on_failure=False,
    )
    client.connect_timeout = CONNECT_TIMEOUT_S
    # An exception in a callback would break the connection in the middle of a packet.
    client.suppress_exceptions = True
    client.enable_logger(_log)
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
    """Connect and send CONNECT; blocks for the name look-up, the handshakes and `CONNECT_TIMEOUT_S` for each.

    Raises:
        TransientError: nothing answers there, or TLS was refused.
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
        why = getattr(error, "strerror", None) or error
        is_early = getattr(error, "verify_code", 0) == CERTIFICATE_NOT_YET_VALID
        hint = "; is the clock of this device right?" if is_early else ""
        raise TransientError(f"{settings.url}: cannot connect: {why}{hint}") from error


class Link:
    """Serves an open client in the thread that waits on `wake`: the client's callbacks run in it, inside of `serve`.

    Args:
        client: opened by `open_connection`; everything is called by that thread from now on.
        wake: watches the socket.

    Attributes:
        keeps_together: whether its user calls `flush` once it has published, so that messages may be held until then.
    """

    keeps_together = False

    def __init__(self, client: BoundedClient, wake: Wake) -> None:
        self.client = client
        client.reads_ahead = True
        self._wake = wake
        self._descriptor = -1
        self._watched = 0
        self._misc_at_s = 0.0
        self._together = 0
        self._watch()

    def serve(self, now_s: float) -> None:
        """Read and write what the socket is ready for, and keep it alive. Never blocks.

        Args:
            now_s: of any clock that does not step.

        Raises:
            TransientError: the peer said something that is no MQTT. An end of the connection is a callback's to tell.
        """
        ready = self._wake.ready(self._descriptor)
        try:
            if ready & ~WRITABLE or self.client.is_ahead:  # What is broken is readable too.
                self.client.loop_read()
            if ready & WRITABLE and self.client.want_write():
                self.client.loop_write()
            if now_s >= self._misc_at_s:
                self._misc_at_s = now_s + MISC_EVERY_S
                self.client.loop_misc()
        except Exception as error:
            # paho 2.1 let out what its parser met in nonsense, struct.error and others; in 2.2 no input was found
            # that does. Whatever is left must cost the connection and not the agent.
            raise TransientError(f"the peer does not speak MQTT: {type(error).__name__}: {error}") from error
        self._watch()

    def publish(
        self,
        topic: str,
        payload: bytes | str,
        qos: Literal[0, 1],
        *,
        retain: bool,
        properties: Properties | None = None,
    ) -> tuple[int, bool]:
        """Send a message; return its identifier and whether its last byte went to the kernel already.

        Where `keeps_together`, the second one since `flush` and those behind it go in one piece, at the next `flush`.

        Raises:
            TransientError: the connection is gone.
        """
        self._together += 1
        if self._together == 2 and self.keeps_together:  # One alone pays nothing for it.
            self._cork(True)
        sent = self.client.publish(topic, payload, qos, retain, properties)
        if sent.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            # rc 4 is queued inside paho: it is lost with this client, and sent again from our outbox.
            raise TransientError(f"paho could not take a message: {mqtt.error_string(sent.rc)}")
        is_written = not self.client.want_write()
        if not is_written:
            self._watch()
        if self._together == TOGETHER_MAX:
            self.flush()
        return sent.mid, is_written

    def flush(self) -> None:
        """Let what was published leave now."""
        if self._together > 1 and self.keeps_together:
            self._cork(False)
        self._together = 0

    def _cork(self, is_corked: bool) -> None:
        # The way through TCP takes 10 us a piece, whatever is in it.
        set_option = getattr(self.client.socket(), "setsockopt", None)  # A websocket's wrapper has none.
        if set_option is not None:
            with contextlib.suppress(OSError):  # Its end is told elsewhere.
                set_option(socket.IPPROTO_TCP, socket.TCP_CORK, is_corked)

    def break_off(self) -> None:
        """End the connection whatever the peer does."""
        self._forget()
        break_off(self.client)

    def _watch(self) -> None:
        """Let the wait end for what the socket can do for us now."""
        opened = self.client.socket()
        if opened is None:
            self._forget()
            return
        events = READABLE | (WRITABLE if self.client.want_write() else 0)
        if events != self._watched:
            self._descriptor, self._watched = opened.fileno(), events
            self._wake.watch(self._descriptor, events)
        pending = getattr(opened, "pending", None)
        if self.client.is_ahead or (pending is not None and pending()):
            self._wake.set()  # We or TLS have read it from the kernel, where poll() does not see it any more.

    def _forget(self) -> None:
        if self._watched:
            self._wake.forget(self._descriptor)
            self._watched = 0


def break_off(client: mqtt.Client) -> None:
    """Close a client's socket without a word."""
    opened: Any = client.socket()
    if opened is not None:
        # A shutdown tells the peer even where a child process has inherited the descriptor.
        with contextlib.suppress(OSError):
            getattr(opened, "shutdown", lambda _: None)(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            opened.close()
