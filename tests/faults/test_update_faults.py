"""Releases that would harm the device, at a real agent: each is refused or taken back, and the stream goes on."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from onnx import ModelProto

from benchmarks.update_kills import kill_often
from tests import hostile
from tests.agent_process import AgentProcess
from tests.broker import Broker, needs_mosquitto
from tests.operator_site import NAME, CuttingServer, Site, ended, served_version, site
from tests.paths import MODELS

pytestmark = needs_mosquitto


@dataclass(frozen=True)
class Case:
    """One release.

    Attributes:
        make: puts it at the server, given its `seq`; the manifest is signed before `spoil`.
        code: what `model/state` must say.
        said: words of the reason.
        spoil: what happens to its folder after it was signed.
    """

    make: Callable[[Site, int], Path]
    code: str
    said: str
    spoil: Callable[[Path], None] = lambda _: None


def _hostile(make: Callable[[], ModelProto]) -> Callable[[Site, int], Path]:
    return lambda operator, seq: hostile.folder_of(make, operator.root / str(seq))


def _flip(folder: Path) -> None:
    """Change one bit of the one file that no other release shares."""
    file = folder / "model.toml"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


CASES = {
    "wrong on its golden frame": Case(
        lambda operator, seq: hostile.wrong_golden(operator.root / str(seq)), "not_verified", "golden"
    ),
    "slower than allowed": Case(
        # 8.5 GFLOP, so that no core does it in time.
        lambda o, seq: o.model(seq, MODELS / "slow100"),
        "too_slow",
        "of a deadline of 50",
    ),
    "asks for gigabytes": Case(_hostile(hostile.gigabytes), "too_big", "asks for more than"),
    "takes more than the agent may": Case(
        _hostile(hostile.hundreds_of_megabytes), "too_big", "may take 300 MiB (limits.memory_mb)"
    ),
    "crashes the child": Case(_hostile(hostile.fatal), "crashes", "the process that tried it crashed (SIGSEGV)"),
    "one bit corrupted": Case(lambda o, seq: o.model(seq), "corrupt", "SHA-256", _flip),
}


@pytest.mark.timeout(300)
def test_each_harmful_release_is_refused_with_its_reason_and_the_stream_goes_on(tmp_path: Path) -> None:
    """One agent, one release after the other; results of the model in service come before and after each."""
    with site(tmp_path) as (broker, subscriber, operator):
        text = operator.settings(
            broker,
            tmp_path / "state",
            more="[limits]\nmemory_mb = 300\nthreads = 1\n",
            stream="deadline_ms = 50\n",
        )
        with AgentProcess(tmp_path, text) as agent:
            frame = served_version(subscriber, "1.0.0")
            for seq, (name, case) in enumerate(CASES.items(), 1):
                folder = case.make(operator, seq)
                manifest = operator.manifest(seq, folder)
                case.spoil(folder)
                operator.push(seq, folder, model=manifest)
                state = ended(subscriber, seq)
                assert (state["phase"], state["code"]) == ("rejected", case.code), (name, state["reason"])
                assert case.said in state["reason"], (name, state)
                subscriber.drain()
                later = served_version(subscriber, "1.0.0")
                assert later > frame, name
                frame = later
            summary = agent.terminate()
    assert summary["updates"][NAME]["serving"] == "settings"
    assert summary["streams"]["door"]["ledger"]["failed"] == 0
    assert summary["restarts"] == 0
    assert not list((tmp_path / "state/updates/releases").iterdir())


def test_a_release_that_hangs_the_child_is_refused(tmp_path: Path) -> None:
    """The child is ended when its time is over, whatever the network still does."""
    with site(tmp_path) as (broker, subscriber, operator):
        text = operator.settings(broker, tmp_path / "state", updates="qualification_s = 8\n")
        with AgentProcess(tmp_path, text) as agent:
            served_version(subscriber, "1.0.0")
            operator.push(1, hostile.folder_of(hostile.endless, operator.root / "1"))
            state = ended(subscriber, 1)
            assert (state["phase"], state["code"]) == ("rejected", "hangs")
            assert state["reason"] == "loading and running it did not end within 8 s"
            subscriber.drain()
            served_version(subscriber, "1.0.0")
            summary = agent.terminate()
    assert summary["streams"]["door"]["ledger"]["failed"] == 0


def test_a_download_that_is_cut_at_half_goes_on_from_there(tmp_path: Path) -> None:
    """The second request asks for the second half alone."""
    (tmp_path / "served").mkdir()
    server = CuttingServer(tmp_path / "served", "LICENSE")
    with site(tmp_path, server) as (broker, subscriber, operator):
        text = operator.settings(broker, tmp_path / "state")
        with AgentProcess(tmp_path, text) as agent:
            served_version(subscriber, "1.0.0")
            folder = operator.model(3)
            (folder / "LICENSE").write_bytes(bytes(range(256)) * 4096)
            operator.push(3, folder)
            subscriber.wait_for_body(
                "porch/model/state", lambda body: "ended after 524288 of 1048576" in body.get("reason", "")
            )
            assert ended(subscriber, 3)["phase"] == "committed"
            served_version(subscriber, "release 3")
            summary = agent.terminate()
    assert server.ranges == ["", "bytes=524288-"]
    assert summary["streams"]["door"]["ledger"]["failed"] == 0


@pytest.mark.timeout(300)
def test_a_killed_agent_starts_on_a_release_that_was_verified(tmp_path: Path) -> None:
    """Killed at random moments while good and bad releases come; docs/benchmarks.md has the long form of it."""
    with Broker(tmp_path) as broker:
        counts = kill_often(tmp_path, broker.port, 3, random.Random(7))
    assert counts["starts"] == 4
    assert counts["wrong"] == 0
    assert counts["at rest"] == 1
