"""What one thread waits on: the flag from any thread, sockets of its own, and no limit at descriptor 1,023."""

from __future__ import annotations

import ctypes
import functools
import gc
import operator
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from agent.wake import READABLE, SIGNALS_MAX, WRITABLE, Wake

_call: Callable[[Callable[[], Any]], Any] = operator.call


class _PollAfterSignal:
    """Of poll(2), with SIGUSR1 just before: `map` goes from one C function to the next, and calls no handler between.

    `os.kill` would call it by itself.
    """

    def __init__(self, wake: Wake) -> None:
        self._kill = functools.partial(ctypes.PyDLL(None).kill, os.getpid(), signal.SIGUSR1)
        self._poll = wake._poll
        self.found: list[int] = []
        """Descriptors."""

    def poll(self, wait_ms: float) -> list[tuple[int, int]]:
        steps: list[Callable[[], Any]] = [self._kill, functools.partial(self._poll.poll, wait_ms)]
        _, found = map(_call, steps)
        self.found = [descriptor for descriptor, _ in found]
        return cast("list[tuple[int, int]]", found)


def test_a_flag_from_another_thread_ends_the_wait() -> None:
    """And stays up until it is taken down."""
    wake = Wake()
    threading.Thread(target=wake.set).start()
    assert wake.wait(30)
    assert wake.wait(0)
    wake.clear()
    assert not wake.wait(0)


def test_what_was_set_before_the_wait_is_not_missed() -> None:
    """The order of the loops: clear, look, wait."""
    wake = Wake()
    for _ in range(3):
        wake.set()
    assert wake.is_set()
    assert wake.wait(30)


def test_a_bell_that_rings_after_clear_costs_one_round() -> None:
    """A thread may be stopped between its two steps in `set`: the wait ends once for nothing, and not for ever."""
    wake = Wake()
    os.eventfd_write(wake._doorbell, 1)
    assert not wake.wait(30)  # Returns at once, with the flag down.
    assert not wake.wait(0)
    wake.set()
    assert wake.wait(30)


def test_a_socket_ends_the_wait_and_is_told_once() -> None:
    """Readable, writable, hung up; and forgotten it does no more."""
    near, far = socket.socketpair()
    wake = Wake()
    wake.watch(near.fileno(), READABLE)
    far.send(b"x")
    assert not wake.wait(30)
    assert wake.ready(near.fileno()) == READABLE
    assert wake.ready(near.fileno()) == 0
    near.recv(1)
    wake.watch(near.fileno(), READABLE | WRITABLE)
    wake.wait(30)
    assert wake.ready(near.fileno()) == WRITABLE
    far.close()
    wake.wait(30)
    assert wake.ready(near.fileno()) & READABLE
    descriptor = near.fileno()
    near.close()
    wake.forget(descriptor)
    wake.forget(descriptor)
    assert not wake.wait(0)
    assert wake.ready(descriptor) == 0


def test_many_sets_from_many_threads_are_all_seen() -> None:
    """Whatever was appended before `set` is seen by a look after the wait."""
    wake, seen = Wake(), 0
    left: list[int] = []

    def produce() -> None:
        for number in range(500):
            left.append(number)
            wake.set()

    threads = [threading.Thread(target=produce) for _ in range(4)]
    for thread in threads:
        thread.start()
    while seen < 2000:
        assert wake.wait(30)
        wake.clear()
        while left:
            left.pop()
            seen += 1
    for thread in threads:
        thread.join()


def test_it_closes_what_it_opened() -> None:
    """An agent has one; a test suite has thousands."""
    wake = Wake()
    doorbell = wake._doorbell
    os.fstat(doorbell)
    del wake
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(doorbell)


def test_during_a_rest_a_socket_waits_and_the_flag_does_not() -> None:
    """What comes meanwhile is found together; whoever sets the flag is served at once; a rest is for one wait."""
    near, far = socket.socketpair()
    wake = Wake()
    wake.watch(near.fileno(), READABLE)
    far.send(b"x")
    wake.rest(30)
    assert not wake.wait(0.001)  # The wait's own time is the shorter one.
    assert wake.ready(near.fileno()) == READABLE
    wake.rest(30)
    threading.Timer(0.01, wake.set).start()
    assert wake.wait(30)
    assert wake.ready(near.fileno()) == 0
    wake.clear()
    assert not wake.wait(30)
    assert wake.ready(near.fileno()) == READABLE
    near.close()
    far.close()


def test_a_signal_that_comes_just_before_the_wait_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handler sets the flag when the wait has ended, which for an agent that SIGTERM met there was days away."""
    wake, seen = Wake(), 0

    def handle(*_: object) -> None:
        nonlocal seen
        seen += 1
        wake.set()

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with wake.ended_by_signals():
            poll = _PollAfterSignal(wake)
            with monkeypatch.context() as patch:
                patch.setattr(wake, "_poll", poll)
                assert wake.wait(3)
            assert poll.found == [wake._signals]
            assert seen == 1
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_signals_that_nobody_reads_fill_no_pipe_for_good() -> None:
    """More than the pipe holds: nothing is written to standard error, and the waits that follow empty it."""
    wake = Wake()
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with wake.ended_by_signals():
            near = wake._signals
            for _ in range(70_000):
                os.kill(os.getpid(), signal.SIGUSR1)
            for _ in range(65_536 // SIGNALS_MAX):
                assert not wake.wait(30)
            with pytest.raises(BlockingIOError):
                os.read(near, 1)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(near)
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGUSR1, before)
