"""A broker of our own on loopback, for trials: iotcore in a child process that ends with this one."""

from __future__ import annotations

import contextlib
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.errors import ConfigError

_TEMPLATE = """\
id = 0
[router]
id = 0
max_connections = 1000
max_outgoing_packet_count = 200
max_segment_size = 1048576
max_segment_count = 4
[v4.1]
name = "v4-1"
listen = "127.0.0.1:{port_v311}"
next_connection_delay_ms = 1
[v4.1.connections]
connection_timeout_ms = 60000
max_payload_size = 1048576
max_inflight_count = 100
dynamic_filters = true
[v5.1]
name = "v5-1"
listen = "127.0.0.1:{port_v5}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 1048576
max_inflight_count = 100
dynamic_filters = true
"""
"""rumqttd's settings. Loopback only: its default binds every interface. Segments of 1 MiB, 4 of them, hold its
memory at 37 MB; its default payload cap of 20 kB would refuse pictures."""

PORT_V311 = 1883
PORT_V5 = 1884
"""The broker speaks each version on a port of its own; other tools default to 3.1.1 on 1883."""


class EmbeddedBroker:
    """Starts in 0.2 s, ends with `stop` or with this process.

    Args:
        port_v311: MQTT 3.1.1 on 127.0.0.1.
        port_v5: MQTT 5 on 127.0.0.1.

    Raises:
        ConfigError: the extra is not installed, or a port is taken.
    """

    def __init__(self, port_v311: int = PORT_V311, port_v5: int = PORT_V5) -> None:
        try:
            from iotcore import Broker
        except ImportError as error:
            raise ConfigError("mqtt.url: 'embedded' needs the extra: pip install 'edgebeat[demo]'") from error
        self._ports = {"3.1.1": port_v311, "5": port_v5}
        with tempfile.NamedTemporaryFile("w", prefix="edgebeat-broker-", suffix=".toml", delete=False) as file:
            file.write(_TEMPLATE.format(port_v311=port_v311, port_v5=port_v5))
        self._config = Path(file.name)
        self._broker: Any = Broker(config_path=file.name)
        try:
            with _sigint_ignored():
                self._broker.start()
        except (OSError, RuntimeError) as error:
            self._config.unlink()
            raise ConfigError(
                f"mqtt.url: the embedded broker cannot start on 127.0.0.1:{port_v311} and :{port_v5}: {error}; "
                "if a broker runs there already, give its URL instead of 'embedded'"
            ) from error

    def url(self, protocol: str) -> str:
        """Return the URL for an MQTT version, "5" or "3.1.1"."""
        return f"mqtt://127.0.0.1:{self._ports[protocol]}"

    def stop(self) -> None:
        """End the broker's process."""
        self._broker.stop()
        self._config.unlink(missing_ok=True)


@contextlib.contextmanager
def _sigint_ignored() -> Iterator[None]:
    """Let the child inherit an ignored SIGINT: Ctrl-C must not end the broker before our goodbye."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def free_ports(count: int) -> list[int]:
    """Return ports on 127.0.0.1 that were free a moment ago, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports
