"""Models of signals: how a window becomes an input, how a state comes back, and silero-vad's figures."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from agent.clock import NEVER_NS, SystemClock
from agent.core.wav import parse_header
from agent.core.windows import Windower, window_policy
from agent.errors import ConfigError, PermanentError
from agent.frame import Block, Frame, Samples
from agent.interfaces import LoadedModel, TensorSpec
from agent.loading import load_model
from agent.models.manifest import Manifest, load_manifest
from agent.models.signal import SignalSpec, build_signal_preprocess
from agent.models.state import StateSpec, StateStore
from agent.settings import ModelSettings
from tests.paths import COCO_SSD, SILERO_VAD, SPEECH

FLOAT = np.dtype(np.float32)


def signal(**changes: Any) -> SignalSpec:
    """Describe a signal of two channels, three samples a window."""
    base = {"name": "x", "layout": "NTC", "rate_hz": 50, "length": 3, "channels": ["a", "b"]}
    return SignalSpec.model_validate(base | changes)


WINDOW: Samples = np.array([[1, 10], [2, 20], [3, 60]], np.float32)


def test_a_window_is_normalised_and_laid_out() -> None:
    """By the model's mean and deviation, in its order of axes."""
    inputs, _ = build_signal_preprocess(signal(mean=[1, 10], std=[2, 10]))(WINDOW)
    np.testing.assert_array_equal(inputs["x"], [[[0, 0], [0.5, 1], [1, 5]]])
    inputs, _ = build_signal_preprocess(signal(layout="NCT"))(WINDOW)
    np.testing.assert_array_equal(inputs["x"], [[[1, 2, 3], [10, 20, 60]]])
    inputs, _ = build_signal_preprocess(signal(layout="NT", channels=["a"]))(WINDOW[:, :1])
    np.testing.assert_array_equal(inputs["x"], [[1, 2, 3]])


def test_each_window_may_be_normalised_by_itself() -> None:
    """Mean 0 and deviation 1; a channel that stands still becomes zeros, not NaN."""
    inputs, _ = build_signal_preprocess(signal(normalize="window"))(WINDOW * np.array([1, 0], np.float32) + 7)
    assert inputs["x"].dtype == np.float32
    np.testing.assert_allclose(inputs["x"][0, :, 0], [-1.224745, 0, 1.224745], rtol=1e-5)
    np.testing.assert_array_equal(inputs["x"][0, :, 1], [0, 0, 0])


def test_another_window_than_the_models_is_refused() -> None:
    """Such as a picture, where a stream was given the wrong model."""
    with pytest.raises(PermanentError, match=r"window is uint8\[8, 8, 3\], wanted float32\[3, 2\]"):
        build_signal_preprocess(signal())(np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hop": 4}, "hop 4 would leave samples out"),
        ({"layout": "NT"}, "layout NT has no place for 2 channels"),
        ({"channels": ["a", "a"]}, "two channels have the same name"),
        ({"mean": [1, 2, 3]}, "mean must have 1 or 2 values"),
        ({"std": [1, 0]}, "std must not be 0"),
        ({"units": ["g", "g", "g"]}, "units must have 1 or 2 values"),
    ],
)
def test_a_signal_that_makes_no_sense_is_refused(changes: dict[str, Any], reason: str) -> None:
    """In the manifest, with its line."""
    with pytest.raises(ValidationError, match=reason):
        signal(**changes)


def test_a_manifest_takes_pictures_or_a_signal() -> None:
    """One of them, and a golden sample of its kind."""
    _, manifest = load_manifest(SILERO_VAD)
    values = manifest.model_dump(by_alias=True, exclude_none=True)
    _, pictures = load_manifest(COCO_SSD)
    assert pictures.input is not None
    both = values | {"input": pictures.input.model_dump()}
    with pytest.raises(ValidationError, match="one of them"):
        Manifest.model_validate(both)
    picture = values | {"golden": {"image": "a.png", "expected": "a.json"}}
    with pytest.raises(ValidationError, match="needs an image with"):
        Manifest.model_validate(picture)


def store(on_gap: str = "reset") -> StateStore:
    """Make a memory of one number."""
    spec = StateSpec.model_validate({"tensors": {"h": "h_out"}, "on_gap": on_gap})
    inputs = [TensorSpec("x", FLOAT, (1, 3)), TensorSpec("h", FLOAT, (1, None))]
    return StateStore(spec, inputs, [TensorSpec("y", FLOAT, (1,)), TensorSpec("h_out", FLOAT, (1, 1))], "m")


def frame(sequence: int, *, stream: str = "s", follows: bool = True) -> Frame:
    """Make one frame of a stream."""
    return Frame(stream, sequence, 0, NEVER_NS, WINDOW, follows)


def run(memory: StateStore, one: Frame) -> float:
    """Let a model add 1 to its state, and return what it had before."""
    before = memory.recall(one)["h"]
    memory.remember(one, [np.zeros(1, np.float32), before + 1])
    return float(before[0, 0])


def test_the_state_comes_back_for_each_stream_apart() -> None:
    """It starts as zeros, and two streams do not share it."""
    memory = store()
    assert [run(memory, frame(number)) for number in (1, 2, 3)] == [0, 1, 2]
    assert [run(memory, frame(number, stream="t")) for number in (7, 8)] == [0, 1]
    assert run(memory, frame(4)) == 3
    assert memory.resets == 0


@pytest.mark.parametrize(("on_gap", "after"), [("reset", 0), ("keep", 2)])
def test_a_lost_frame_and_a_lost_sample_reset_the_state(on_gap: str, after: int) -> None:
    """A frame that ended in any other way leaves a hole in the numbers; a source says itself what it lost."""
    for gap in (frame(4), frame(3, follows=False)):
        memory = store(on_gap)
        run(memory, frame(1))
        run(memory, frame(2))
        assert run(memory, gap) == after
        assert memory.resets == (on_gap == "reset")
        assert run(memory, frame(gap.sequence + 1)) == after + 1


@pytest.mark.parametrize("on_gap", ["reset", "keep"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_state_that_is_no_number_is_forgotten(on_gap: str, value: float) -> None:
    """It would stay for ever, since a model makes NaN of NaN; the other streams keep theirs."""
    memory = store(on_gap)
    run(memory, frame(1))
    run(memory, frame(1, stream="t"))
    memory.remember(frame(2), [np.zeros(1, np.float32), np.full((1, 1), value, np.float32)])
    assert [run(memory, frame(number)) for number in (3, 4)] == [0, 1]
    assert run(memory, frame(2, stream="t")) == 1
    assert (memory.broken, memory.resets) == (1, 1)


def test_a_state_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that grows with each frame fails a frame and starts anew; one that is too large at once fails the load."""
    memory = store()
    run(memory, frame(1))
    monkeypatch.setattr("agent.models.state.STATE_BYTES_MAX", 4)
    with pytest.raises(PermanentError, match="state has 8 bytes, more than 4"):
        memory.remember(frame(2), [np.zeros(1, np.float32), np.zeros((1, 2), np.float32)])
    assert run(memory, frame(3)) == 0
    assert memory.resets == 1
    monkeypatch.setattr("agent.models.state.STATE_BYTES_MAX", 3)
    with pytest.raises(ConfigError, match=r"m: \[state\] has 4 bytes, more than 3"):
        store()


def test_a_state_that_does_not_fit_the_network_is_refused() -> None:
    """Names, shapes and types."""
    inputs, outputs = [TensorSpec("h", FLOAT, (1, 4))], [TensorSpec("o", FLOAT, (1, 5)), TensorSpec("i", FLOAT, (4,))]
    for tensors, reason in (
        ({"h": "o"}, r"output o float32\[1,5\] cannot be the next input h float32\[1,4\]"),
        ({"h": "i"}, "cannot be the next input"),
        ({"h": "x"}, r"the model takes h float32\[1,4\] and gives o float32\[1,5\]"),
        ({"x": "o"}, "the model takes h"),
    ):
        with pytest.raises(ConfigError, match=reason):
            StateStore(StateSpec(tensors=tensors), inputs, outputs, "m")


def load(folder: Path) -> LoadedModel:
    return load_model(ModelSettings(name="vad", path=folder), 1, SystemClock())


def speech_between_silence() -> tuple[Samples, slice]:
    """Return 7.1 s of speech with 2 s of faint noise on each side, and which windows are speech."""
    data = SPEECH.read_bytes()
    form = parse_header(data)
    noise = (np.random.default_rng(0).standard_normal((32_000, 1)) * 0.001).astype(np.float32)
    return np.concatenate([noise, form.decode(data[form.data_at :]), noise]), slice(62, -62)


def probabilities(model: LoadedModel, samples: Samples) -> Iterator[float]:
    """Yield the probability of speech in each window, through the agent's own path."""
    variant = model.variants[0]
    assert model.signal is not None
    assert variant.memory is not None
    windower = Windower(window_policy(model.signal, gap_ns=1, fill_samples=0))
    for number, window in enumerate(windower.push(Block(0, samples)), start=1):
        one = Frame("s", number, 0, NEVER_NS, window.samples, window.follows)
        inputs, placement = variant.preprocess(one.pixels)
        outputs = variant.engine.run({**inputs, **variant.memory.recall(one)}, variant.engine.new_abort())
        variant.memory.remember(one, outputs)
        yield variant.decoder.decode(outputs, placement)["classes"][0]["score"]


def test_silero_vad_hears_speech_and_silence() -> None:
    """0.936 in speech, 0.006 before it: the figures of its authors' own loop."""
    samples, speech = speech_between_silence()
    scores = np.array(list(probabilities(load(SILERO_VAD), samples)))
    assert scores[speech].mean() == pytest.approx(0.936, abs=0.003)
    assert scores[: speech.start].mean() < 0.01


def mutant(folder: Path, *changes: tuple[str, str]) -> Path:
    """Copy the model with other text in its manifest."""
    shutil.copytree(SILERO_VAD, folder)
    manifest = folder / "model.toml"
    text = manifest.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    manifest.write_text(text)
    return folder


NO_CONTEXT = (("context = 64", "context = 0"),)
NO_STATE = (
    ('[state]\ntensors = { state = "stateN" }\n', ""),
    ("[constants]\n", f"[constants]\nstate = {[0.0] * 256}\n"),
)
GOLDEN = """[golden]
recording = "golden.wav"
expected = "golden.json"

[golden.tolerance]
score = 0.01
"""
NO_GOLDEN = ((GOLDEN, ""),)


@pytest.mark.parametrize("changes", [NO_CONTEXT, NO_STATE])
def test_the_golden_recording_refuses_a_model_that_lost_its_past(
    tmp_path: Path, changes: tuple[tuple[str, str], ...]
) -> None:
    """Without context or state it loads and runs; only what it makes of the recording tells."""
    with pytest.raises(ConfigError, match=r"does not reproduce its golden sample golden\.wav"):
        load(mutant(tmp_path / "m", *changes))


def test_without_its_context_it_hears_nothing(tmp_path: Path) -> None:
    """0.001: what makes the windows' context a matter of right and wrong."""
    samples, speech = speech_between_silence()
    scores = np.array(list(probabilities(load(mutant(tmp_path / "m", *NO_CONTEXT, *NO_GOLDEN)), samples)))
    assert scores[speech].mean() < 0.01


def test_without_its_state_it_hears_little() -> None:
    """0.264, when every frame declares a gap before it."""
    samples, speech = speech_between_silence()
    model = load(SILERO_VAD)
    memory = model.variants[0].memory
    assert isinstance(memory, StateStore)
    remember = memory.remember
    # No frame follows the one that ran last.
    memory.remember = lambda frame, outputs: remember(replace(frame, sequence=-1), outputs)  # type: ignore[method-assign]
    scores = np.array(list(probabilities(model, samples)))
    assert scores[speech].mean() == pytest.approx(0.264, abs=0.003)
    assert memory.resets == len(scores) - 1
