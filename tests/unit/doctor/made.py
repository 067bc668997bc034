"""A made device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.doctor.finding import Device, Finding
from agent.settings import Settings

NOW_NS = 1_790_000_000 * 10**9


def device(root: Path, files: dict[str, str] | None = None, *, machine: str = "x86_64", **values: Any) -> Device:
    """Return a device with these files and settings; `values` are sections of them."""
    for name, text in (files or {}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    sections = {
        "models": [{"name": "seen", "path": "models/seen"}],
        "streams": [{"name": "door", "source": "/dev/video0", "model": "seen"}],
        **values,
    }
    return Device(root, machine, Settings(**sections), NOW_NS)


def told(findings: list[Finding]) -> list[tuple[str, str]]:
    """Return topic and level of each finding; every one that needs something says what."""
    for finding in findings:
        assert bool(finding.advice) == (finding.level in ("advice", "problem")), finding
    return [(finding.topic, str(finding.level)) for finding in findings]
