"""A change for many devices in shares."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.cli.payloads import UnreadableError
from agent.cli.reports import Report, merged, parse_report, problems
from agent.cli.rollout import Device, Rollout, Step, progress, sizes_of
from agent.clock import NS_PER_S

CHANGES = {"streams": {"door": {"max_fps": 5}}}


def report(version: int = 0, seen: int | None = None, state: str = "applied", **more: Any) -> Report:
    """Return a device's report."""
    body = {
        "version": version,
        "seen_version": version if seen is None else seen,
        "state": state,
        "proven": True,
        **more,
    }
    return parse_report(json.dumps(body).encode())


def rollout(count: int, shares: str, **more: Any) -> Rollout:
    """Return a roll-out over devices `d0`, `d1`, ..., each with a document of its own in force."""
    devices = {f"d{n}": Device(report(n, accepted={"health": {"period_s": n + 1}})) for n in range(count)}
    return Rollout(devices, CHANGES, sizes_of(shares, count), timeout_ns=10 * NS_PER_S, **more)


def proving(name: str, running: Rollout) -> Report:
    """Return the report of a device that has applied what it was asked for."""
    return report(running.devices[name].version, proven=False, probation_s=60.0)


@pytest.mark.parametrize(
    ("shares", "count", "sizes"),
    [
        ("1,10%,100%", 50, [1, 5, 50]),
        ("5,20", 50, [5, 20, 50]),
        ("100%", 1, [1]),
        ("1,10%,50%,100%", 3, [1, 1, 2, 3]),
    ],
)
def test_shares(shares: str, count: int, sizes: list[int]) -> None:
    """Numbers and percents, rising, with the rest at the end."""
    assert sizes_of(shares, count) == sizes


@pytest.mark.parametrize("shares", ["", "0", "x", "-1", "101%", "5,", "1.5"])
def test_no_shares(shares: str) -> None:
    """Each says what would be right."""
    with pytest.raises(ValueError, match="such as 1,10%,100%"):
        sizes_of(shares, 10)


def test_the_next_share_waits_for_the_proof_of_all_of_the_one_before() -> None:
    """And each device gets what it had with the change over it, under a version of its own."""
    running = rollout(5, "2,100%")
    asks = {ask.device: json.loads(ask.payload) for ask in running.advance(0)}
    assert asks["d1"] == {"schema": 1, "version": 2, "values": {"health": {"period_s": 2}, **CHANGES}}
    assert asks.keys() == {"d0", "d1"}
    for name in asks:
        running.heard(name, proving(name, running))
    assert running.advance(NS_PER_S) == []
    assert progress(running) == "share 1 of 2: 3 waiting, 2 proving, probation 60 s"
    running.heard("d0", report(1))
    assert running.advance(30 * NS_PER_S) == []
    running.heard("d1", report(2))
    assert {ask.device for ask in running.advance(31 * NS_PER_S)} == {"d2", "d3", "d4"}
    for name in ("d2", "d3", "d4"):
        running.heard(name, report(running.devices[name].version))
    assert running.is_over
    assert not running.failed


def test_it_stops_at_the_share_in_which_one_fails_and_brings_back_what_is_asked() -> None:
    """The others of the share may end their probation first; those after it are never asked."""
    running = rollout(6, "2,4,100%")
    running.advance(0)
    for name in ("d0", "d1"):
        running.heard(name, report(running.devices[name].version))
    running.advance(1)
    taken_back = {"version": 3, "check": "on_time", "figures": {"on_time": 0.0}}
    running.heard("d2", report(2, 3, "rolled_back", rolled_back=taken_back))
    assert not running.is_over
    running.heard("d3", report(4))
    assert running.is_over
    assert running.advance(2) == []
    assert running.devices["d2"].reasons == ["v3 failed the check on_time: on_time 0.0"]
    (ask,) = running.take_back(running.shares[1], 3)
    assert json.loads(ask.payload) == {"schema": 1, "version": 5, "values": {"health": {"period_s": 4}}}
    assert not running.is_back("d3")
    running.heard("d3", report(5))
    assert running.is_back("d3")
    assert [device.step for device in running.devices.values()].count(Step.WAITING) == 2


@pytest.mark.parametrize(
    ("heard", "reason"),
    [
        (
            report(0, 1, "rejected", errors={"values.x": {"code": "unknown_key", "message": "is no setting"}}),
            "values.x",
        ),
        (report(0, 9), "somebody else asked for v9"),
        (None, "no answer within 11 s"),
        (report(1, proven=False, probation_s=4.0), "neither proven nor taken back within 15 s"),
    ],
)
def test_how_a_device_may_fail(heard: Report | None, reason: str) -> None:
    """Refused, overtaken, silent, or never done."""
    running = rollout(1, "1")
    running.advance(0)
    if heard is not None:
        running.heard("d0", heard)
    running.advance(11 * NS_PER_S)
    running.advance(15 * NS_PER_S)
    assert running.failed == ["d0"]
    assert running.devices["d0"].reasons[0].startswith(reason)


def test_a_password_that_reports_leave_out_is_not_sent_back_as_stars() -> None:
    """It would replace the real one; a whole document may be given instead."""
    hidden = {"streams": {"door": {"source": "rtsp://***@camera"}}}
    for is_whole in (False, True):
        device = Device(report(3, accepted=hidden))
        running = Rollout({"d": device}, CHANGES, [1], timeout_ns=1, is_whole=is_whole)
        asks = running.advance(0)
        assert bool(asks) is is_whole
        assert bool(running.failed) is not is_whole


def test_reports_are_not_believed() -> None:
    """Anybody may have sent them."""
    for payload in (b"", b"[]", b"{}", b'{"state":"applied","version":-1,"seen_version":0}', b'{"state":1}', b"\xff"):
        with pytest.raises(UnreadableError):
            parse_report(payload)
    odd = report(0, 0, "rejected", errors={"a": 5, "b": {"message": "\x1b[2J" + "x" * 999}})
    (line,) = problems(odd)
    assert "\x1b" not in line
    assert len(line) <= 400
    assert merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": 4}) == {"a": {"b": 3, "c": 2}, "d": 4}
