"""A microphone, through ALSA's own `arecord` (Debian: alsa-utils).

A child process instead of a library: sounddevice needs PortAudio on the device, pyalsaaudio a compiler; a recorder
that hangs in its driver can be killed, and a thread cannot.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess

from agent.errors import PermanentError, TransientError
from agent.sources.byte_stream import Piece

READ_BYTES = 65_536
"""What a pipe holds: two seconds of sound at 16 kHz, which nobody should wait for."""
SILENCE_S = 5.0
"""A sound card delivers always; one that gives nothing for so long is lost."""
END_S = 0.5
"""For the recorder to end by itself."""


class Recorder:
    """See `byte_stream.Transport`: bytes of S16_LE samples.

    Args:
        device: ALSA's name, such as `default` or `hw:1,0`; `plughw:1,0` lets ALSA convert the rate.
        rate_hz: samples a second.
        channels: of each sample.
        block_s: how much to deliver at a time, s.
        program: `arecord`; another one in tests.
    """

    def __init__(
        self, device: str, *, rate_hz: float, channels: int, block_s: float, program: str = "arecord"
    ) -> None:
        self.name = f"alsa:{device}"
        period_us = max(1000, min(500_000, round(block_s * 1e6)))
        self._command = [
            program,
            *("-q", "-t", "raw", "-f", "S16_LE", "-D", device),
            *("-r", str(round(rate_hz)), "-c", str(channels)),
            # The buffer bridges a stall of the capture thread; what it holds is older, and is stamped by its arrival.
            *("-F", str(period_us), "-B", str(4 * period_us)),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._silent_s = 0.0
        self._said = ""
        self._has_lost = False
        self._refusal = ""

    def open(self) -> None:
        """See `Transport.open`."""
        if shutil.which(self._command[0]) is None:
            raise PermanentError(f"{self.name}: {self._command[0]} is not installed: apt-get install alsa-utils")
        if self._refusal:
            raise PermanentError(f"{self.name}: {self._refusal}: set samples.rate_hz to what it can, or use plughw:")
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            # Its messages in the words that we look for.
            env={**os.environ, "LC_ALL": "C"},
        )
        self._silent_s, self._said, self._has_lost = 0.0, "", False

    def read(self, timeout_s: float) -> Piece | None:
        """See `Transport.read`."""
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        output, errors = self._process.stdout.fileno(), self._process.stderr.fileno()
        ready, _, _ = select.select([output, errors], [], [], timeout_s)
        if errors in ready:
            self._hear(os.read(errors, 4096).decode("utf-8", "replace"))
        if output not in ready:
            self._silent_s += 0 if ready else timeout_s
            if self._silent_s >= SILENCE_S:
                raise TransientError(f"{self.name}: gave nothing for {SILENCE_S:g} s")
            return None
        self._silent_s = 0.0
        data = os.read(output, READ_BYTES)
        if not data:
            said = " ".join((self._said + self._rest_of_errors()).split())
            raise TransientError(f"{self.name}: the recorder ended: {said or 'without a word'}")
        follows, self._has_lost = not self._has_lost, False
        return Piece(data, follows)

    def close(self) -> None:
        """See `Transport.close`."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            # A recorder in an uninterruptible driver call stays behind; it is no child of ours to wait for.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        self._process = None

    def _hear(self, said: str) -> None:
        self._said = (self._said + said)[-300:]
        self._has_lost = self._has_lost or "overrun" in said
        if "rate is not accurate" in said:
            # It goes on at another rate, which would be another voice.
            self._refusal = " ".join(said.split())
            raise TransientError(f"{self.name}: {self._refusal}")

    def _rest_of_errors(self) -> str:
        assert self._process is not None
        assert self._process.stderr is not None
        with contextlib.suppress(OSError):
            if select.select([self._process.stderr.fileno()], [], [], END_S)[0]:
                return os.read(self._process.stderr.fileno(), 4096).decode("utf-8", "replace")
        return ""
