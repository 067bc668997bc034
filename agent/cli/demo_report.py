"""What the demo saw over MQTT, what the agent says of itself, and whether the two make a success."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.cli.fleet import Change
from agent.clock import NS_PER_MS
from agent.metrics import Histogram

LABELS_MAX = 1000
"""Different labels that are counted; the demo's model knows 80."""
LOG_LINES_SHOWN = 15


class Tally:
    """Counts the results that arrived at an MQTT client of its own, apart from the agent's books."""

    def __init__(self) -> None:
        self.results = 0
        self.replays = 0
        self.labels: Counter[str] = Counter()
        self._ages = Histogram()

    def add(self, change: Change | None) -> None:
        """Take in one change of the view."""
        if change is None or change.result is None:
            return
        result = change.result
        self.results += 1
        self.replays += result.is_replay
        for label in result.labels:
            if label in self.labels or len(self.labels) < LABELS_MAX:
                self.labels[label] += 1
        if result.age_ms is not None and not result.is_replay:
            self._ages.record(int(result.age_ms * NS_PER_MS))

    def ages_ms(self) -> dict[str, float | None]:
        """Return p50, p95, p99 and max of the live results."""
        return self._ages.summary_ms()


def read_summary(file: Path) -> dict[str, Any] | None:
    """Return the JSON object on the last line of what the agent printed; None if there is none."""
    try:
        summary = json.loads(file.read_text(encoding="utf-8").strip().rpartition("\n")[2])
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) and isinstance(summary.get("streams"), dict) else None


def failures(tally: Tally, summary: Mapping[str, Any] | None, picture: Path | None) -> Iterator[str]:
    """Yield one sentence for each thing that a working demo would have."""
    if not tally.results:
        yield "No result arrived over MQTT."
    if summary is None:
        yield "The agent did not print its summary."
    for name, stream in ({} if summary is None else summary["streams"]).items():
        if not adds_up(stream["ledger"]):
            yield f"The ledger of stream {name} does not add up: {ledger_line(stream['ledger'])}."
    if picture is None:
        return
    if picture.is_file() and picture.stat().st_size:
        return
    yield f"The annotated picture {shown(picture)} was not written."
    if tally.results and not tally.labels:
        yield "Nothing was found on the frames so far: the clip's first object appears after a second."


def adds_up(ledger: Mapping[str, int]) -> bool:
    """Return whether `captured` is the sum of all the other figures."""
    return ledger["captured"] == sum(count for name, count in ledger.items() if name != "captured")


def ledger_line(ledger: Mapping[str, int]) -> str:
    """Return `captured 100 = published 98 + superseded 2`: what is not zero, and always what was published."""
    parts = [
        f"{name} {count}" for name, count in ledger.items() if name != "captured" and (count or name == "published")
    ]
    return f"captured {ledger['captured']} {'=' if adds_up(ledger) else '!='} {' + '.join(parts)}"


def report_lines(tally: Tally, summary: Mapping[str, Any] | None, picture: Path | None, log: Path) -> Iterator[str]:
    """Yield the report, one line of at most 80 columns each where the paths allow it."""
    replays = f", {tally.replays} of them replays" if tally.replays else ""
    yield f"results   {tally.results} arrived over MQTT{replays}"
    yield f"labels    {', '.join(f'{label} {count}' for label, count in tally.labels.most_common(5)) or 'none'}"
    ages = tally.ages_ms()
    if ages["max"] is not None:
        yield f"age       p50 {ages['p50']:.1f} ms, p95 {ages['p95']:.1f} ms, max {ages['max']:.1f} ms, as sent"
    for stream in ({} if summary is None else summary["streams"]).values():
        yield f"ledger    {ledger_line(stream['ledger'])}"
    if picture is not None and picture.is_file():
        yield f"picture   {shown(picture)}"
    yield f"log       {shown(log)}"


def last_lines(log: Path) -> str:
    """Return the end of a log, for somebody who should not have to look for it."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return f"  (cannot be read: {error.strerror})"
    return "\n".join(f"  {line}" for line in lines[-LOG_LINES_SHOWN:])


def shown(path: Path) -> str:
    """Return a path as short as it can be from the current folder."""
    absolute = path.resolve()
    return str(absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute)
