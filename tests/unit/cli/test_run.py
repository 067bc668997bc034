"""`edgebeat run`: what the process around the agent does."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from agent.cli.run import _signals_to
from agent.wake import Wake


class _Daemon:
    """Keeps what it is asked for."""

    def __init__(self) -> None:
        self.wake = Wake()
        self.reasons: list[str] = []
        self.reloads = 0

    def request_stop(self, reason: str) -> None:
        self.reasons.append(reason)

    def request_reload(self) -> None:
        self.reloads += 1


@pytest.mark.parametrize("reloads", [False, True])
def test_a_signal_ends_the_wait_or_reloads(*, reloads: bool) -> None:
    """Each also ends the main thread's next wait, since it may come just before it; afterwards all is as before."""
    daemon: Any = _Daemon()
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with _signals_to(daemon, reloads=reloads):
        for number in numbers:
            os.kill(os.getpid(), number)
            assert not daemon.wake.wait(30)  # Ends at once; nobody set the flag.
    assert daemon.reasons == ["SIGTERM", "SIGINT", *([] if reloads else ["SIGHUP"])]
    assert daemon.reloads == reloads
    assert [signal.getsignal(number) for number in numbers] == before
