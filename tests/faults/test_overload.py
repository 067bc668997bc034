"""More than the device can do: lighter variants, floods of frames, many cameras."""

from __future__ import annotations

from pathlib import Path

from agent.clock import NS_PER_MS, SystemClock
from agent.core.trace import parse
from agent.loading import load_model
from agent.settings import ModelSettings
from tests.agent_process import AgentProcess, checked_summary, settings_text
from tests.broker import Broker, Subscriber, needs_mosquitto
from tests.paths import CLIP, MODELS


@needs_mosquitto
def test_misses_bring_the_lighter_variant(tmp_path: Path) -> None:
    """The full model cannot make its deadline here, the small one can: said with figures, and published."""
    full, small = load_model(ModelSettings(name="seen", path=MODELS / "ladder"), 1, SystemClock()).variants
    # Well below the one, well above the other, on a machine whose speed varies.
    deadline_ms = 0.6 * full.fastest_ns / NS_PER_MS
    assert small.fastest_ns < 0.45 * full.fastest_ns
    stream = f"repeat = true\nfps = 20\ndeadline_ms = {deadline_ms}"
    more = "[limits]\nthreads = 1\n[degradation]\nworse_after_s = 1\nbetter_after_s = 600"
    with Broker(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        text = settings_text(url=broker.url, model=MODELS / "ladder", stream=stream, more=more)
        with AgentProcess(tmp_path, text) as agent:
            assert subscriber.wait_for("events/deadline_too_short").body["stream"] == "door"
            event = subscriber.wait_for("events/degraded", step="seen: small").body
            # A busy machine may have given more up before.
            assert (event["cause"], event["model"]) == ("misses", "seen")
            assert event["value"] > event["limit"]
            subscriber.wait_for("results/door", variant="small")
            health = subscriber.wait_for("porch/health").body
            agent.terminate()
    assert health["models"]["seen"]["variant"] == "small"
    assert health["models"]["seen"]["variants"] == ["full", "small"]
    assert health["degradation"]["steps"][0]["step"] == "seen: small"


def test_a_source_of_a_thousand_frames_a_second(tmp_path: Path) -> None:
    """Most are replaced before their turn; each is counted, none is published late."""
    text = settings_text(model=MODELS / "slow25", stream="repeat = true\nfps = 1000")
    with AgentProcess(tmp_path, text, "--output", "stdout", "--duration", "3") as agent:
        code, lines = agent.wait()
    stream = checked_summary(lines)["streams"]["door"]
    assert code == 0
    # On a machine that is busy with other things the ladder leaves frames out before a newer one replaces them.
    assert stream["ledger"]["superseded"] + stream["ledger"]["skipped"] > stream["ledger"]["published"] > 0
    assert stream["age_ms"]["max"] <= 250


def test_a_source_of_no_frames_a_second_is_refused(tmp_path: Path) -> None:
    """A rate of 0 is a mistake, not a stream."""
    with AgentProcess(tmp_path, settings_text(stream="fps = 0"), "--output", "stdout") as agent:
        code, _ = agent.wait()
    assert code == 78
    assert "streams.0.fps: 0: input should be greater than 0" in agent.log


def test_four_cameras_share_a_model(tmp_path: Path) -> None:
    """Three times more frames than it can take: each camera gets its share, and every book adds up."""
    others = "".join(
        f'[[streams]]\nname = "camera{index}"\nsource = "{CLIP}"\nmodel = "seen"\nrepeat = true\nfps = 60\n'
        for index in range(3)
    )
    text = settings_text(
        model=MODELS / "slow25", stream="repeat = true\nfps = 60", more=f"{others}[limits]\nthreads = 1"
    )
    with AgentProcess(tmp_path, text, "--output", "stdout", "--duration", "5") as agent:
        code, lines = agent.wait()
    streams = checked_summary(lines)["streams"]
    assert code == 0
    published = [stream["ledger"]["published"] for stream in streams.values()]
    assert len(published) == 4
    assert max(published) - min(published) <= 8
    assert min(published) > 0


def test_a_trace_of_a_run_is_simulated(tmp_path: Path) -> None:
    """What the agent recorded is what `edgebeat simulate` reads."""
    trace = tmp_path / "trace.ndjson"
    arguments = ["--output", "stdout", "--duration", "2", "--record-trace", str(trace)]
    with AgentProcess(tmp_path, settings_text(stream="repeat = true"), *arguments) as agent:
        code, lines = agent.wait()
    ledger = checked_summary(lines)["streams"]["door"]["ledger"]
    recording = parse(trace.read_text().splitlines())
    assert code == 0
    assert len(recording.arrivals) == ledger["captured"]
    assert recording.runs >= ledger["published"]
