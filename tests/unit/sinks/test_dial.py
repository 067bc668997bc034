"""Attempts to connect, in a thread of their own."""

from __future__ import annotations

import threading

import pytest

from agent.errors import TransientError
from agent.sinks.dial import Dialer
from agent.sinks.paho_client import BoundedClient
from agent.wake import Wake


def no_client() -> BoundedClient:
    """Be an attempt that fails."""
    raise TransientError("nobody answers")


def no_thread(_: threading.Thread) -> None:
    """Start as where memory has no room for a stack."""
    raise RuntimeError("can't start new thread")


def test_an_attempt_without_room_for_a_thread_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit of memory the next attempt may find some: no reason for the agent to end."""
    dialer = Dialer(Wake())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        dialer.start(no_client)
    assert not dialer.is_busy
    with pytest.raises(TransientError, match="no thread to connect with: can't start new thread"):
        dialer.take()
    dialer.start(no_client)
    for thread in threading.enumerate():
        if thread.name == "mqtt-dial":
            thread.join(10)
    with pytest.raises(TransientError, match="nobody answers"):
        dialer.take()
