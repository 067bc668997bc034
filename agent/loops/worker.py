"""A thread whose death is noticed."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)


class Worker:
    """Runs a loop's body in a thread of its own.

    Args:
        name: the thread's name, also in `ps -T`.
        body: returns when the loop is done.
        on_end: called in the thread when the body has returned or raised.
    """

    def __init__(self, name: str, body: Callable[[], None], on_end: Callable[[], None]) -> None:
        self._body = body
        self._on_end = on_end
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.name = name
        self.has_crashed = False
        self._has_ended = False

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; return whether it came. One that could not be started has none to wait for."""
        if self._thread.ident is None:
            return True
        self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    def join_or_leave(self, timeout_s: float) -> None:
        """Wait for the end; a thread that hangs in native code is left behind, and said so."""
        if not self.join(timeout_s):
            log.warning("%s: did not end in time and is left behind", self.name)

    @property
    def native_id(self) -> int | None:
        """The kernel's id of the thread, once it runs."""
        return self._thread.native_id

    @property
    def is_alive(self) -> bool:
        """Whether the body is still running; False before `on_end` is called."""
        return self._thread.is_alive() and not self._has_ended

    def _run(self) -> None:
        # Python does it by itself from 3.14 on; the kernel keeps 15 characters.
        with contextlib.suppress(OSError):
            Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(self.name[:15], encoding="utf-8")
        try:
            self._body()
        except Exception:
            # The last line of defence: an unexpected error ends the agent in order, with its trace.
            log.exception("%s: ended by an unexpected error", self.name)
            self.has_crashed = True
        finally:
            self._has_ended = True
            self._on_end()
