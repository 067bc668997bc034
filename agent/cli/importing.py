"""Imports that do not make a start wait."""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
import threading
from collections.abc import Callable
from types import ModuleType

SWITCH_S = 0.0005
"""While something is imported in a thread: with Python's 5 ms each read of the other one would wait for so long until
the one that imports gives way."""


def import_quickly(name: str) -> ModuleType:
    """Import a module with the collector off: nothing that an import makes is garbage, and looking costs 50 ms."""
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def import_meanwhile(name: str) -> Callable[[], ModuleType]:
    """Begin to import a module in a thread, and return what waits for it. The main thread.

    Imports are Python and keep one CPU busy: what the caller does meanwhile should be native code, reads and waits.
    """
    switch_s = sys.getswitchinterval()

    def body() -> None:
        with contextlib.suppress(Exception):  # Who waits imports it again, and sees why it fails.
            import_quickly(name)
        sys.setswitchinterval(switch_s)

    thread = threading.Thread(target=body, name="import", daemon=True)
    sys.setswitchinterval(SWITCH_S)
    thread.start()

    def imported() -> ModuleType:
        thread.join()
        return importlib.import_module(name)

    return imported
