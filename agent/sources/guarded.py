"""A source whose native code may hang: it is read in a thread of its own, which is left behind when it does."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from agent.errors import PermanentError, TransientError
from agent.frame import Capture
from agent.interfaces import Source

log = logging.getLogger(__name__)

HANG_S = 20
"""A call that takes longer hangs: FFmpeg's own limits are 5 s for opening and 5 s for reading, V4L2's is 10 s.
Counted in waits of a second, so that a suspended or stopped agent suspects nobody."""

HUNG_MAX = 3
"""Threads that are left behind, each with what its library held (a decoder: 20 to 50 MB); then the stream fails."""

END_S = 0.2
"""For a call that was interrupted: a camera's next frame ends it. Twice this is below the 0.5 s of a clean stop."""

_Call = Callable[[], Any]
_Answer = tuple[Any, BaseException | None]


class _Reader:
    """One source and the thread that calls it."""

    def __init__(self, source: Source, name: str) -> None:
        self.source = source
        self.answers: queue.SimpleQueue[_Answer | None] = queue.SimpleQueue()
        """One for each call; None is an interruption."""
        self.is_busy = False
        """A call has not been answered yet."""
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=f"read-{name}"[:15], daemon=True).start()

    def ask(self, call: _Call) -> None:
        """Let the thread call something; its answer follows."""
        self.is_busy = True
        self._calls.put(call)

    def leave(self) -> None:
        """Let the thread close its source and end, whenever it comes back."""
        self._calls.put(self.source.close)
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                self.answers.put((call(), None))
            except BaseException as error:  # noqa: BLE001  A thread's entry: the capture thread raises it again.
                self.answers.put((None, error))


def _comes_back(reader: _Reader, wait_s: float) -> bool:
    """Wait for the answer of a call, past interruptions; return whether it came."""
    try:
        while reader.answers.get(timeout=wait_s) is None:
            pass
    except queue.Empty:
        return False
    reader.is_busy = False
    return True


class GuardedSource:
    """See `interfaces.Source`. It costs two thread switches a frame (some 30 us) and holds no frame back.

    Args:
        make: returns a new source; called for the first opening, and for the next one after a hang.
        name: of the stream, for the threads' names and errors.
        hang_s: after so many seconds a call hangs.
    """

    def __init__(self, make: Callable[[], Source], name: str, hang_s: int = HANG_S) -> None:
        self._make = make
        self._name = name
        self._hang_s = hang_s
        self._source: Source | None = None
        self._reader: _Reader | None = None
        self._hung = 0
        self._interrupted = threading.Event()

    def open(self) -> None:
        """See `Source.open`."""
        if self._hung > HUNG_MAX:
            raise PermanentError(f"{self._name}: hung {self._hung} times in its driver or library: it is given up")
        self.close()
        self._source = self._source or self._make()
        self._reader = _Reader(self._source, self._name)
        self._call(self._reader, self._reader.source.open)

    def read(self) -> Capture | None:
        """See `Source.read`."""
        assert self._reader is not None
        capture: Capture | None = self._call(self._reader, self._reader.source.read)
        return capture

    def close(self) -> None:
        """See `Source.close`; what does not answer is left to close itself."""
        reader, self._reader = self._reader, None
        if reader is None:
            return
        wait_s = END_S if self._interrupted.is_set() else float(self._hang_s)
        if not reader.is_busy or _comes_back(reader, wait_s):
            reader.ask(reader.source.close)
            if _comes_back(reader, wait_s):
                reader.leave()
                return
        self._source = None
        log.warning("%s: does not end in its driver or library: its thread is left behind", self._name)
        reader.leave()

    def interrupt(self) -> None:
        """See `Source.interrupt`: ends a wait at once, whatever the native code does."""
        self._interrupted.set()
        reader = self._reader
        if reader is not None:
            reader.source.interrupt()
            reader.answers.put(None)

    def _call(self, reader: _Reader, call: _Call) -> Any:
        reader.ask(call)
        for _ in range(self._hang_s):
            try:
                answer = reader.answers.get(timeout=1)
            except queue.Empty:
                if self._interrupted.is_set():
                    return None
                continue
            if answer is None:
                return None
            reader.is_busy = False
            result, error = answer
            if error is not None:
                raise error
            return result
        self._hung += 1
        self._reader = self._source = None
        reader.leave()
        raise TransientError(
            f"{self._name}: hung for {self._hang_s} s in its driver or library: its thread is left behind and "
            f"another takes over ({self._hung} of {HUNG_MAX})"
        )
