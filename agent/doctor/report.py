"""Findings for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from agent.doctor.finding import Check, Device, Finding, Level

MARKS = {Level.OK: "ok", Level.UNKNOWN: "?", Level.ADVICE: "advice", Level.PROBLEM: "PROBLEM"}


def examine(device: Device, checks: Iterable[Check]) -> list[Finding]:
    """Run every check."""
    return [finding for check in checks for finding in check(device)]


def has_problem(findings: Iterable[Finding]) -> bool:
    """Return whether something does not work."""
    return any(finding.level is Level.PROBLEM for finding in findings)


def lines(findings: Sequence[Finding]) -> list[str]:
    """Return the page: a line for each finding, its advice below it, and what they sum up to."""
    page = []
    for finding in findings:
        page.append(f"{MARKS[finding.level]:<8}{finding.topic:<14}{finding.text}")
        if finding.advice:
            page.append(f"{'':<22}-> {finding.advice}")
    problems, hints = (sum(f.level is level for f in findings) for level in (Level.PROBLEM, Level.ADVICE))
    page.append(f"{problems} problems, {hints} pieces of advice")
    return page


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the same for programs."""
    listed = [{"topic": f.topic, "level": str(f.level), "text": f.text, "advice": f.advice} for f in findings]
    return {"ok": not has_problem(findings), "findings": listed}
