"""Three ways to show what a prefix carries: a live table, lines, JSON."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from typing import Protocol

from agent.cli.fleet import Change, FleetView
from agent.cli.payloads import UnreadableError, clean, parse_payload
from agent.clock import NS_PER_S, Clock
from agent.errors import ConfigError

REFRESH_NS = NS_PER_S // 5
"""Between two paintings of the table: figures that change more often cannot be read, and cost CPU on a device."""


class View(Protocol):
    """What a command does with what a `Viewer` hands over. One thread."""

    fleet: FleetView

    def message(self, topic: str, payload: bytes) -> Change | None:
        """Take in a message; return what it changed."""

    def connection(self, is_up: bool, text: str) -> None:
        """Say how the connection is."""

    def refresh(self) -> None:
        """Paint anew if it is time. Called whenever nothing else is to be done."""

    def close(self) -> None:
        """Paint for the last time and give the terminal back."""


class LineView:
    """One line for each result, event and change of a status."""

    def __init__(self, prefix: str, clock: Clock) -> None:
        self.fleet = FleetView(prefix)
        self._clock = clock

    def message(self, topic: str, payload: bytes) -> Change | None:
        """See `View.message`."""
        change = self.fleet.apply(topic, payload, self._clock.now_ns())
        if change is not None:
            # Flushed a line at a time: whoever reads the pipe sees each result at its age.
            print(change.line(), flush=True)
        return change

    def connection(self, is_up: bool, text: str) -> None:
        """See `View.connection`."""
        del is_up
        print(f"edgebeat: {text}", file=sys.stderr, flush=True)

    def refresh(self) -> None:
        """See `View.refresh`."""

    def close(self) -> None:
        """See `View.close`; says what was left out."""
        for count, what in (
            (
                self.fleet.unreadable,
                f"unreadable, the last one: {self.fleet.reason}" if self.fleet.reason else "unreadable",
            ),
            (self.fleet.beyond_limits, "of more devices or streams than are followed"),
        ):
            if count:
                print(f"edgebeat: {count} messages were {what}", file=sys.stderr, flush=True)


class JsonView(LineView):
    """Every message as one JSON object a line, CBOR too; `payload` is null for what is neither, with its length."""

    def message(self, topic: str, payload: bytes) -> Change | None:
        """See `View.message`."""
        record: dict[str, object]
        try:
            record = {"topic": topic, "payload": parse_payload(payload)}
            line = json.dumps(record, separators=(",", ":"))
        except (UnreadableError, RecursionError) as error:
            self.fleet.unreadable += bool(payload) and "/image/" not in topic
            reason = clean(str(error)) if payload else "empty"
            record = {"topic": topic, "payload": None, "unreadable": reason, "bytes": len(payload)}
            line = json.dumps(record, separators=(",", ":"))
        print(line, flush=True)
        return None


class LiveView:
    """A table that is painted over in place. Needs rich.

    Raises:
        ConfigError: rich is not installed.
    """

    def __init__(self, prefix: str, clock: Clock) -> None:
        try:
            from rich.console import Console
            from rich.live import Live

            from agent.cli.fleet_table import LINES_AROUND, render
        except ImportError as error:
            raise ConfigError(
                "the live view needs the extra: pip install 'edgebeat[demo]'; without it, --json works, and so does "
                "output into a pipe or a file"
            ) from error
        self.fleet = FleetView(prefix)
        self._clock = clock
        self._headline = "connecting"
        self._console = Console()
        self._lines_around = LINES_AROUND
        self._render = render
        self._live = Live(console=self._console, auto_refresh=False)
        self._painted_at_ns = 0
        self._live.start()

    def message(self, topic: str, payload: bytes) -> Change | None:
        """See `View.message`."""
        return self.fleet.apply(topic, payload, self._clock.now_ns())

    def connection(self, is_up: bool, text: str) -> None:
        """See `View.connection`."""
        del is_up
        self._headline = text
        self._paint(self._clock.now_ns())

    def refresh(self) -> None:
        """See `View.refresh`."""
        now_ns = self._clock.now_ns()
        if now_ns - self._painted_at_ns >= REFRESH_NS:
            self._paint(now_ns)

    def close(self) -> None:
        """See `View.close`; the last table stays on the screen."""
        self._paint(self._clock.now_ns())
        self._live.stop()

    def _paint(self, now_ns: int) -> None:
        self._painted_at_ns = now_ns
        rows_max = self._console.size.height - self._lines_around
        self._live.update(self._render(self.fleet, now_ns, headline=self._headline, rows_max=rows_max), refresh=True)


def view_for_output(prefix: str, clock: Clock, *, as_json: bool = False) -> View:
    """Return the table on a terminal, lines elsewhere. Raises ConfigError when the table needs rich."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A label that the terminal's encoding lacks must not end the view.
        sys.stdout.reconfigure(errors="backslashreplace")
    if as_json:
        return JsonView(prefix, clock)
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return LiveView(prefix, clock)
    return LineView(prefix, clock)


@contextlib.contextmanager
def quiet_when_the_reader_leaves() -> Iterator[None]:
    """End the block in silence when standard output was a pipe whose reader went away (`| head`)."""
    try:
        yield
    except BrokenPipeError:
        # Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
