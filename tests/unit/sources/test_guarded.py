"""A reader that hangs in native code is left behind, and another one takes over; not for ever."""

from __future__ import annotations

import threading

import pytest

from agent.clock import NS_PER_S, SystemClock
from agent.errors import PermanentError, TransientError
from agent.frame import Capture
from agent.sources.guarded import HUNG_MAX, GuardedSource
from agent.sources.network import NetworkSource
from tests.broker import wait_until
from tests.fakes import PICTURE
from tests.mjpeg import MjpegServer


class Hanging:
    """A source that hangs in one of its calls until it is let go."""

    def __init__(self, *, hangs_in: str) -> None:
        self.let_go = threading.Event()
        self.closed = threading.Event()
        self._hangs_in = hangs_in

    def _come_to(self, call: str) -> None:
        if call == self._hangs_in:
            self.let_go.wait(60)

    def open(self) -> None:
        self._come_to("open")

    def read(self) -> Capture | None:
        self._come_to("read")
        return Capture(1, PICTURE)

    def close(self) -> None:
        self._come_to("close")
        self.closed.set()

    def interrupt(self) -> None:
        pass


def test_a_reader_that_hangs_is_replaced_and_closes_itself_when_it_comes_back() -> None:
    """The loss is transient; the next opening has a source and a thread of its own; nothing stays behind."""
    made = [Hanging(hangs_in="read"), Hanging(hangs_in="")]
    waiting = iter(made)
    source = GuardedSource(lambda: next(waiting), "door", hang_s=1)
    source.open()
    with pytest.raises(TransientError, match=r"door: hung for 1 s .*another takes over \(1 of 3\)"):
        source.read()
    source.close()
    source.open()
    assert source.read() is not None
    assert not made[0].closed.is_set()
    made[0].let_go.set()
    assert made[0].closed.wait(10)
    source.close()
    assert made[1].closed.is_set()
    wait_until(lambda: not any(t.name == "read-door" for t in threading.enumerate()), "the threads' end")


def test_a_source_that_hangs_again_and_again_is_given_up() -> None:
    """Each hang leaves a thread with its memory behind: four are enough."""
    made: list[Hanging] = []

    def make() -> Hanging:
        made.append(Hanging(hangs_in="open"))
        return made[-1]

    source = GuardedSource(make, "door", hang_s=1)
    for _ in range(HUNG_MAX + 1):
        with pytest.raises(TransientError, match="hung"):
            source.open()
    with pytest.raises(PermanentError, match="hung 4 times"):
        source.open()
    assert len(made) == HUNG_MAX + 1
    for hanging in made:
        hanging.let_go.set()
        assert hanging.closed.wait(10)


def test_a_stop_waits_for_no_native_code() -> None:
    """SIGTERM while a camera's driver hangs: the read ends at once."""
    hanging = Hanging(hangs_in="read")
    source = GuardedSource(lambda: hanging, "door", hang_s=60)
    source.open()
    threading.Timer(0.05, source.interrupt).start()
    assert source.read() is None
    source.close()
    hanging.let_go.set()
    assert hanging.closed.wait(10)


def test_errors_and_a_hanging_close_come_through() -> None:
    """What the source raises is raised; a close that hangs is left behind."""
    hanging = Hanging(hangs_in="close")

    def fail() -> Capture | None:
        raise PermanentError("no pixels")

    hanging.read = fail  # type: ignore[method-assign]
    source = GuardedSource(lambda: hanging, "door", hang_s=1)
    source.open()
    with pytest.raises(PermanentError, match="no pixels"):
        source.read()
    source.close()
    hanging.let_go.set()
    assert hanging.closed.wait(10)


def test_frames_of_a_pause_are_as_old_as_they_are() -> None:
    """A reader that stood still for two seconds finds them in its socket: they do not look fresh."""
    clock = SystemClock()
    with MjpegServer() as server:
        source = NetworkSource(server.url, clock)
        source.open()
        for _ in range(40):
            assert source.read() is not None
        clock.wait(threading.Event(), 2 * NS_PER_S)
        first = source.read()
        assert first is not None
        assert clock.now_ns() - first.captured_at_ns > NS_PER_S
        second = source.read()
        assert second is not None
        assert 0 < second.captured_at_ns - first.captured_at_ns < NS_PER_S
        source.close()
