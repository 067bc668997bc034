"""The fleet as a table on a terminal. Needs rich, which only the commands with a live view import."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agent.cli.fleet import DeviceView, FleetView, StreamView, describe_status
from agent.cli.payloads import clean

LINES_AROUND = 5
"""Lines of the screen that are no rows: headline, titles, their rule, what is left out, and the cursor's line."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; empty text where there is nothing to say."""

    name: str
    fps: str
    age: str
    p95: str
    text: str
    style: str = ""


def rows(fleet: FleetView, now_ns: int) -> Iterator[Row]:
    """Yield one row a device, each followed by one a stream, in the order of their names."""
    for name, device in sorted(fleet.devices.items()):
        is_offline = device.is_online() is False
        fps = sum(stream.rate_hz(now_ns) for stream in device.streams.values())
        ages = [stream.age_ms for stream in device.streams.values() if stream.age_ms is not None]
        p95s = [p95 for stream in device.streams.values() if (p95 := stream.age_p95_ms()) is not None]
        yield Row(
            name=clean(name, 24),
            fps=f"{fps:.1f}" if device.streams else "",
            age=_ms(max(ages, default=None)),
            p95=_ms(max(p95s, default=None)),
            text=_device_text(device, now_ns),
            style="bold red" if is_offline or device.silent_s(now_ns) is not None else "bold",
        )
        for stream_name, stream in sorted(device.streams.items()):
            yield _stream_row(stream_name, stream, now_ns, style="dim" if is_offline else "")


def render(fleet: FleetView, now_ns: int, *, headline: str, rows_max: int) -> RenderableType:
    """Return the whole view.

    Args:
        fleet: what is known.
        now_ns: for rates and silences.
        headline: the connection and what the user may press.
        rows_max: rows that fit on the screen; the others are counted in the last line.
    """
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, show_edge=False)
    table.add_column("device / stream", no_wrap=True, max_width=24)
    for title in ("fps", "age ms", "p95"):
        # A width that holds what usually comes: columns must not jump from one painting to the next.
        table.add_column(title, justify="right", no_wrap=True, min_width=6)
    # The only column that gives way: names and figures stay whole at 80 columns.
    table.add_column("state / last prediction", no_wrap=True, overflow="ellipsis", ratio=1)
    wanted = rows(fleet, now_ns)
    for row in islice(wanted, max(1, rows_max)):
        # Text, not markup: a label such as "[red]" is a label.
        table.add_row(*(Text(cell) for cell in (row.name, row.fps, row.age, row.p95, row.text)), style=row.style)
    notes = []
    if hidden := sum(1 for _ in wanted):
        notes.append(f"{hidden} more rows")
    if fleet.unreadable:
        notes.append(f"{fleet.unreadable} unreadable messages")
    if fleet.beyond_limits:
        notes.append(f"{fleet.beyond_limits} messages beyond this view's limits")
    return Group(Text(headline, style="cyan", no_wrap=True, overflow="ellipsis"), table, Text(", ".join(notes)))


def _stream_row(name: str, stream: StreamView, now_ns: int, *, style: str) -> Row:
    replays = f"  ({stream.replays} replayed)" if stream.replays else ""
    return Row(
        name=f"  {clean(name, 22)}",
        fps=f"{stream.rate_hz(now_ns):.1f}",
        age=_ms(stream.age_ms),
        p95=_ms(stream.age_p95_ms()),
        text=stream.text + replays,
        style=style,
    )


def _device_text(device: DeviceView, now_ns: int) -> str:
    parts = ["state unknown" if device.status is None else describe_status(device.status)]
    if device.is_online() is False:
        return ", ".join(parts)  # What it took when it was alive would read as the present.
    silent_s = device.silent_s(now_ns)
    if silent_s is not None:
        parts.append(f"silent for {silent_s:.0f} s")
    if device.health is not None and device.health.rss_mb is not None:
        parts.append(f"{device.health.rss_mb:.0f} MiB")
    if device.health is not None and device.health.dropped:
        parts.append(f"{device.health.dropped} messages dropped")
    if device.health is not None and device.health.steps:
        parts.append(f"doing less: {'; '.join(device.health.steps)}")
    if device.health is not None and device.health.marked:
        parts.append(f"not loaded: {', '.join(device.health.marked)}")
    return ", ".join(parts)


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"
