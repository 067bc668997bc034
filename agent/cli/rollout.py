"""A change for many devices in shares: a few first, the next when all of them have proven it, a stop when one fails.

Pure: the command feeds it with reports and the time, and sends what it returns. One device is one share of one.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from agent.cli.reports import Report, has_hidden, merged, problems

DEVICES_MAX = 5000
"""Reports that are kept, at 10 kB: 50 MB."""


class Step(StrEnum):
    """Where one device stands."""

    WAITING = "waiting"
    ASKED = "asked"
    PROVING = "proving"
    DONE = "done"
    FAILED = "failed"
    TAKEN_BACK = "taken back"


@dataclass(slots=True)
class Device:
    """One device.

    Attributes:
        report: the last.
        desired_version: of the document that lies at the broker for it.
        version: that it was asked for.
        before: values of the document that was in force before.
        reasons: why it failed.
    """

    report: Report
    desired_version: int = 0
    step: Step = Step.WAITING
    version: int = 0
    before: dict[str, Any] = field(default_factory=dict)
    asked_ns: int = 0
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Ask:
    """A document to be published for a device."""

    device: str
    payload: bytes


class Rollout:
    """Brings a change to devices, share by share. Not thread-safe.

    Args:
        devices: with their reports; in the order of the roll-out.
        changes: laid over what each device has accepted; the whole document where `is_whole`.
        sizes: devices that have been asked at the end of each share, rising.
        timeout_ns: from the question to the answer; the time of probation comes on top as the device tells it.
        waits_for_proof: whether a device is done only when the change has proven itself.
        is_whole: `changes` replaces what a device has.
    """

    def __init__(
        self,
        devices: Mapping[str, Device],
        changes: Mapping[str, Any],
        sizes: Sequence[int],
        *,
        timeout_ns: int,
        waits_for_proof: bool = True,
        is_whole: bool = False,
    ) -> None:
        self.devices = dict(devices)
        self._changes = changes
        self._timeout_ns = timeout_ns
        self._waits_for_proof = waits_for_proof
        self._is_whole = is_whole
        names = list(self.devices)
        bounds = [0, *sizes]
        self.shares = [names[low:high] for low, high in itertools.pairwise(bounds) if low < high]
        self.share = -1
        """Number of the share that is under way, from 0."""
        self.asked = 0
        """Documents that were sent."""

    @property
    def failed(self) -> list[str]:
        """The devices that failed."""
        return [name for name, device in self.devices.items() if device.step is Step.FAILED]

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be asked."""
        share = self._current()
        return not self._is_busy(share) and (bool(self.failed) or self.share + 1 >= len(self.shares))

    def advance(self, now_ns: int) -> list[Ask]:
        """Judge the time and return what is to be sent now."""
        share = self._current()
        for name in share:
            device = self.devices[name]
            if device.step in (Step.ASKED, Step.PROVING) and now_ns > self._due_ns(device):
                what = "no answer" if device.step is Step.ASKED else "neither proven nor taken back"
                self._fail(device, [f"{what} within {(now_ns - device.asked_ns) / 1e9:.0f} s"])
        if self._is_busy(share) or self.failed or self.share + 1 >= len(self.shares):
            return []
        self.share += 1
        return [ask for name in self._current() if (ask := self._ask(name, now_ns)) is not None]

    def heard(self, name: str, report: Report) -> None:
        """Take in a report."""
        device = self.devices.get(name)
        if device is None:
            return
        device.report = report
        if device.step not in (Step.ASKED, Step.PROVING) or report.seen_version < device.version:
            return
        if report.seen_version > device.version:
            self._fail(device, [f"somebody else asked for v{report.seen_version} meanwhile"])
        elif report.state in ("rejected", "stale", "rolled_back"):
            self._fail(device, problems(report) or [report.state])
        elif report.version == device.version:
            is_done = report.proven or not self._waits_for_proof or report.state == "restart_required"
            device.step = Step.DONE if is_done else Step.PROVING

    def take_back(self, names: Sequence[str], now_ns: int) -> list[Ask]:
        """Return the documents that bring devices back to what they had; one that failed has done so itself."""
        asks = []
        for name in names:
            device = self.devices[name]
            if device.step not in (Step.DONE, Step.PROVING, Step.ASKED):
                continue
            device.version = max(device.version, device.report.seen_version) + 1
            device.step, device.asked_ns = Step.TAKEN_BACK, now_ns
            asks.append(Ask(name, _document(device.version, device.before)))
        self.asked += len(asks)
        return asks

    def is_back(self, name: str) -> bool:
        """Return whether a device that was taken back has said so."""
        device = self.devices[name]
        return device.report.version >= device.version and device.report.seen_version >= device.version

    def _ask(self, name: str, now_ns: int) -> Ask | None:
        device = self.devices[name]
        device.before = {} if self._is_whole else device.report.accepted
        if has_hidden(device.report.accepted):
            if not self._is_whole:
                self._fail(device, ["its document holds a password that reports leave out: use --file"])
                return None
        else:
            device.before = device.report.accepted
        values = dict(self._changes) if self._is_whole else merged(device.before, self._changes)
        device.version = max(device.report.version, device.report.seen_version, device.desired_version) + 1
        device.step, device.asked_ns = Step.ASKED, now_ns
        self.asked += 1
        return Ask(name, _document(device.version, values))

    def _current(self) -> list[str]:
        return self.shares[self.share] if 0 <= self.share < len(self.shares) else []

    def _is_busy(self, share: Sequence[str]) -> bool:
        return any(self.devices[name].step in (Step.ASKED, Step.PROVING) for name in share)

    def _due_ns(self, device: Device) -> int:
        proving_s = device.report.probation_s if device.step is Step.PROVING else 0.0
        return device.asked_ns + self._timeout_ns + int(proving_s * 1e9)

    @staticmethod
    def _fail(device: Device, reasons: list[str]) -> None:
        device.step, device.reasons = Step.FAILED, reasons


def sizes_of(shares: str, count: int) -> list[int]:
    """Return how many devices have been asked at the end of each share: `1,10%,100%` of 50 is 1, 5, 50.

    Raises:
        ValueError: with what would be right.
    """
    sizes: list[int] = []
    for text in shares.split(","):
        number = text.strip().removesuffix("%")
        is_percent = text.strip().endswith("%")
        if not number.isdigit() or int(number) < 1 or (is_percent and int(number) > 100):
            raise ValueError(
                f"{text.strip()!r} is no share: write numbers of devices or percents, such as 1,10%,100%"
            )
        size = math.ceil(int(number) * count / 100) if is_percent else int(number)
        sizes.append(min(count, max(size, sizes[-1] if sizes else 1)))
    return sizes if sizes[-1] == count else [*sizes, count]


def progress(rollout: Rollout) -> str:
    """Return one line: share and devices by step."""
    steps = [rollout.devices[name].step for name in rollout.devices]
    counts = ", ".join(f"{steps.count(step)} {step}" for step in Step if step in steps)
    left = max((d.report.probation_s for d in rollout.devices.values() if d.step is Step.PROVING), default=0.0)
    proving = f", probation {left:.0f} s" if left else ""
    return f"share {rollout.share + 1} of {len(rollout.shares)}: {counts}{proving}"


def _document(version: int, values: Mapping[str, Any]) -> bytes:
    return json.dumps({"schema": 1, "version": version, "values": values}, separators=(",", ":")).encode()
