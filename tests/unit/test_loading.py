"""Loading models: what is right serves, what is wrong is refused with its reason."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto
from onnx.helper import make_node

from agent.clock import SystemClock
from agent.engine.prepare import Workshop
from agent.engine.session import SessionSetup
from agent.errors import ConfigError, PermanentError
from agent.fitting import fed_shape, networks_of
from agent.interfaces import Variant
from agent.loading import Runs, load_model, read_model, survey, within
from agent.models.golden import read_picture
from agent.models.manifest import GoldenSpec
from agent.modeltools.trials import try_networks
from agent.settings import ModelSettings
from tests.paths import BROKEN_INT8, COCO_SSD, MODELS
from tests.unit.modeltools.networks import PICTURE, goes_round, network, saved


def load(path: Path) -> Variant:
    """Load on one thread; return the model itself, without its variants."""
    return load_model(ModelSettings(name="m", path=path), 1, SystemClock()).variants[0]


@pytest.fixture
def coco_ssd(tmp_path: Path) -> Path:
    """A copy of the default model's folder."""
    return Path(shutil.copytree(COCO_SSD, tmp_path / "model"))


def edit(folder: Path, old: str, new: str) -> None:
    """Replace text in a manifest; it must be there."""
    manifest = folder / "model.toml"
    text = manifest.read_text()
    assert old in text
    manifest.write_text(text.replace(old, new, 1))


def test_the_default_model_loads_and_finds_the_cup() -> None:
    """The whole path on the golden picture, as published."""
    model = load(COCO_SSD)
    inputs, placement = model.preprocess(read_picture(COCO_SSD / "golden.png"))
    payload = model.decoder.decode(model.engine.run(inputs, model.engine.new_abort()), placement)
    assert [found["label"] for found in payload["detections"]] == ["cup"]


def test_a_file_in_a_model_folder_is_as_good_as_the_folder() -> None:
    """`path` may name the .onnx itself."""
    assert load(COCO_SSD / "model.onnx").sha256 == load(COCO_SSD).sha256


@pytest.mark.skipif(
    any(flag in Path("/proc/cpuinfo").read_text() for flag in ("avx512_vnni", "avx_vnni"))
    or "avx2" not in Path("/proc/cpuinfo").read_text(),
    reason="the broken model only saturates on AVX2 without VNNI",
)
def test_an_int8_model_that_detects_nothing_here_is_refused(coco_ssd: Path) -> None:
    """U8S8 without reduce_range saturates on AVX2: it loads, it runs, and only the golden sample tells.

    There it finds nothing; where kernels do not saturate (ARM64) it finds the cup elsewhere, at 0.70 for 0.92.
    """
    shutil.copy(BROKEN_INT8, coco_ssd / "model.onnx")
    digest = hashlib.sha256((coco_ssd / "model.onnx").read_bytes()).hexdigest()
    manifest = (coco_ssd / "model.toml").read_text()
    start = manifest.index('sha256 = "')
    (coco_ssd / "model.toml").write_text(manifest[:start] + f'sha256 = "{digest}"' + manifest[start + 76 :])
    with pytest.raises(ConfigError, match=r"does not reproduce its golden sample") as caught:
        load(coco_ssd)
    told = ("expected 1 (cup), got 0 (nothing)", "detections[0].score: expected 0.9188 within 0.1")
    assert any(text in str(caught.value) for text in told)


def flip_bit(folder: Path) -> None:
    """Damage one bit in the middle of the weights."""
    network = folder / "model.onnx"
    content = bytearray(network.read_bytes())
    content[len(content) // 2] ^= 1
    network.write_bytes(content)


def truncate(folder: Path) -> None:
    """Keep half of the network, with a digest that matches."""
    network = folder / "model.onnx"
    before = hashlib.sha256(network.read_bytes()).hexdigest()
    network.write_bytes(network.read_bytes()[: network.stat().st_size // 2])
    edit(folder, before, hashlib.sha256(network.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "model.onnx").unlink(), "model.onnx: cannot be read: No such file"),
        (flip_bit, "the file is damaged or was replaced"),
        (truncate, "refuses it"),
        (lambda folder: (folder / "model.toml").unlink(), "has no model.toml"),
        (lambda folder: edit(folder, 'dtype = "uint8"', 'dtype = "float32"'), "the model takes images uint8"),
        (lambda folder: edit(folder, "width = 300", "width = 320"), "the model takes images uint8[1,300,300,3]"),
        (lambda folder: edit(folder, 'name = "images"', 'name = "image"'), "[input] describes 'image'"),
        (lambda folder: edit(folder, 'color = "RGB"', 'color = "BGR"'), "does not reproduce its golden sample"),
        (lambda folder: edit(folder, 'name = "ssd"', 'name = "sdd"'), "[decoder] name 'sdd': known are ssd"),
        (lambda folder: edit(folder, "[labels]", "[labels]\nfirst = 1"), "labels.first: is not a setting"),
        (lambda folder: edit(folder, "schema = 1", "schema = 2"), "schema: 2: input should be 1"),
        (lambda folder: (folder / "labels.txt").write_text("one\ntwo\n"), "2 labels for a model of 90 classes"),
        (lambda folder: (folder / "labels.txt").write_text("one\n\n"), "labels.txt:2: is empty"),
        (lambda folder: (folder / "labels.txt").unlink(), "labels cannot be read"),
        (lambda folder: (folder / "golden.png").write_bytes(b"x"), "golden.png: is not a readable picture"),
        (lambda folder: (folder / "golden.json").write_text("[]"), "must hold one JSON object"),
        (lambda folder: (folder / "golden.json").write_text("[" * 100_000), "golden sample's payload cannot be read"),
    ],
)
def test_a_damaged_model_folder_is_refused(coco_ssd: Path, damage: Callable[[Path], object], said: str) -> None:
    """Each with a text that names the file and what is wrong."""
    damage(coco_ssd)
    with pytest.raises(ConfigError) as caught:
        load(coco_ssd)
    assert said in str(caught.value)


def test_a_model_that_is_absent_is_named_with_the_folder_searched(tmp_path: Path) -> None:
    """Relative paths are the usual mistake, so the working folder is said."""
    with pytest.raises(ConfigError, match="there is no such model folder or file"):
        load(tmp_path / "nothing")


def test_an_input_that_nothing_describes_is_refused() -> None:
    """One input more is seen at load, not at the first frame, and what to write is said."""
    with pytest.raises(
        ConfigError,
        match=r"threshold float32\[1\]: the others stand under \[constants\]",
    ):
        load(MODELS / "two_inputs")


def test_a_second_input_is_a_constant_that_the_manifest_gives(tmp_path: Path) -> None:
    """The threshold is taken from each channel's mean."""
    folder = Path(shutil.copytree(MODELS / "two_inputs", tmp_path / "model"))
    manifest = (folder / "model.toml").read_text()
    (folder / "model.toml").write_text(manifest + "\n[constants]\nthreshold = 0.25\n")
    assert payload_of(load(folder), np.full((8, 8, 3), 255, np.uint8))["values"][0]["values"] == [0.75] * 3


def test_a_float16_input_is_made_from_pixels() -> None:
    """(pixel * scale - mean) / std, in half precision."""
    model = load(MODELS / "float16_in")
    assert model.warm_inputs["images"].dtype == np.float16
    assert payload_of(model, np.full((40, 30, 3), 51, np.uint8))["values"][0]["values"] == pytest.approx(
        [0.2] * 3, abs=1e-3
    )


def raw_model(folder: Path, network: ModelProto, sections: str) -> Path:
    """Write the folder of a model of 32 x 32 pixels that is decoded as it is."""
    digest = hashlib.sha256(saved(network, folder / "model.onnx").read_bytes()).hexdigest()
    text = (MODELS / "two_inputs/model.toml").read_text()
    before = hashlib.sha256((MODELS / "two_inputs/model.onnx").read_bytes()).hexdigest()
    (folder / "model.toml").write_text(f"{text.replace(before, digest)}\n{sections}\n")
    return folder


def resized(*, by: str) -> ModelProto:
    """Return a network that resizes its picture as another input says: by `scales` or to `sizes`."""
    kind = TensorProto.FLOAT if by == "scales" else TensorProto.INT64
    nodes = [
        make_node("Resize", ["images", "", "scales" if by == "scales" else "", *["sizes"] * (by == "sizes")], ["y"])
    ]
    return network(nodes, [("y", TensorProto.FLOAT, None)], inputs=[PICTURE, (by, kind, [4])])


@pytest.mark.parametrize(
    ("by", "constant"), [("scales", "scales = [1.0, 1.0, 1.5, 1.5]"), ("sizes", "sizes = [1, 3, 48, 48]")]
)
def test_a_model_is_tried_with_its_constants_before_it_is_loaded(tmp_path: Path, by: str, constant: str) -> None:
    """At a start and in the tools; with zeros in their place it would be refused, and is a good one."""
    folder = raw_model(tmp_path, resized(by=by), f"[constants]\n{constant}")
    found = survey(ModelSettings(name="m", path=folder), Workshop(SessionSetup(), 256 << 20, None, 0))
    assert found.need.costs["full"].run_bytes > 0
    costs, refused = try_networks(*read_model(folder))
    assert (list(costs), refused) == (["model.onnx"], {})


def test_another_constant_is_another_model_for_what_was_tuned() -> None:
    """A network may take as long as a constant says."""
    _, manifest = read_model(MODELS / "two_inputs")
    told = [manifest.model_copy(update={"constants": {"threshold": value}}) for value in (0.25, 0.5)]
    assert len({networks_of(one) for one in (manifest, *told)}) == 3


def test_sizes_are_those_of_the_golden_picture(tmp_path: Path) -> None:
    """As the warm-up feeds them; of the input where there is no picture or it cannot be read."""
    sizes = "[sizes]\na = 'source_hw'\nb = 'source_wh'\nc = 'input_wh'\n"
    _, manifest = read_model(raw_model(tmp_path, resized(by="sizes"), sizes))
    assert fed_shape(tmp_path, manifest).sizes == {"a": (32, 32), "b": (32, 32), "c": (32, 32)}
    golden = GoldenSpec(image="golden.png", expected="golden.json")
    manifest = manifest.model_copy(update={"golden": golden})
    assert fed_shape(tmp_path, manifest).sizes["a"] == (32, 32)
    shutil.copy(COCO_SSD / "golden.png", tmp_path)
    height, width = read_picture(tmp_path / "golden.png").shape[:2]
    assert fed_shape(tmp_path, manifest).sizes == {"a": (height, width), "b": (width, height), "c": (32, 32)}


def test_a_warm_up_that_never_ends_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread would keep a core busy for as long as the agent lives."""
    monkeypatch.setattr("agent.loading.WARM_UP_LIMIT_S", 1.0)
    before = set(threading.enumerate())
    with pytest.raises(ConfigError, match="the warm-up did not end within 1 s: the network may hold an") as caught:
        load(raw_model(tmp_path, goes_round(), "[constants]\ntrip = 1152921504606846976"))
    assert caught.value.harm == "hangs"
    assert set(threading.enumerate()) <= before


def test_what_ends_late_is_refused_as_what_never_ends(tmp_path: Path) -> None:
    """It is asked to end, and its thread is waited for."""
    asked = threading.Event()
    with pytest.raises(ConfigError, match=r"slow: the warm-up did not end within 0.05 s"):
        within(0.05, "slow: the warm-up", asked.wait, asked.set)
    assert asked.is_set()
    assert not any(thread.name == "load" for thread in threading.enumerate())


@pytest.mark.parametrize("is_first", [True, False])
def test_the_run_of_the_moment_is_ended_and_none_begins_after_it(*, is_first: bool) -> None:
    """Whichever thread comes first."""
    told: list[str] = []

    class Aborting:
        def set(self) -> None:
            told.append("set")

    runs = Runs(Aborting)
    if is_first:
        runs.end()
        assert not told
        runs.new_abort()
    else:
        runs.new_abort()
        assert not told
        runs.end()
    assert told == ["set"]


def test_a_load_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not obey leaves its thread behind."""
    monkeypatch.setattr("agent.loading.END_LIMIT_S", 0.05)
    release = threading.Event()
    with pytest.raises(ConfigError, match=r"slow: the warm-up did not end within 0.05 s") as caught:
        within(0.05, "slow: the warm-up", release.wait, lambda: None)
    assert caught.value.harm == "hangs"
    release.set()


def test_what_fails_while_loading_fails_as_itself() -> None:
    """The thread in between hides nothing."""

    def fail() -> None:
        raise PermanentError("kernel failed")

    with pytest.raises(PermanentError, match="kernel failed"):
        within(10, "loading", fail)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('name = "full"\nwidth = 80', "is the model itself"),
        ('name = "small"', "give another path, width or height"),
        ('name = "small"\npath = "other.onnx"', "path and sha256 go together"),
        ('name = "small"\nwidth = 0', r"model.toml:\d+: .*width"),
    ],
)
def test_wrong_variants_are_refused(tmp_path: Path, change: str, said: str) -> None:
    """Each with what would be right."""
    folder = Path(shutil.copytree(MODELS / "ladder", tmp_path / "model"))
    edit(folder, 'name = "small"\nwidth = 80\nheight = 80', change)
    with pytest.raises(ConfigError, match=said):
        load(folder)


def test_variants_of_another_size_share_the_network() -> None:
    """One session, two sizes of its input, each warmed and timed."""
    full, small = load_model(ModelSettings(name="m", path=MODELS / "ladder"), 1, SystemClock()).variants
    assert (full.name, small.name) == ("full", "small")
    assert full.engine is small.engine
    assert [variant.warm_inputs["images"].shape for variant in (full, small)] == [(1, 3, 160, 160), (1, 3, 80, 80)]
    assert small.fastest_ns < full.fastest_ns


def test_a_variant_with_a_network_of_its_own_is_checked_like_a_model(tmp_path: Path) -> None:
    """Its digest, its input and its golden sample, with its own expectation where it has one."""
    folder = Path(shutil.copytree(MODELS / "tiny", tmp_path / "model"))
    shutil.copy(folder / "model.onnx", folder / "light.onnx")
    digest = hashlib.sha256((folder / "light.onnx").read_bytes()).hexdigest()
    manifest = (folder / "model.toml").read_text()
    variant = f'\n[[variants]]\nname = "light"\npath = "light.onnx"\nsha256 = "{digest}"\n'
    (folder / "model.toml").write_text(manifest + variant)
    full, light = load_model(ModelSettings(name="m", path=folder), 1, SystemClock()).variants
    assert full.engine is not light.engine
    (folder / "wrong.json").write_text('{"classes": []}')
    (folder / "model.toml").write_text(manifest + variant + 'expected = "wrong.json"\n')
    with pytest.raises(ConfigError, match=r"light.onnx does not reproduce its golden sample"):
        load(folder)
    (folder / "model.toml").write_text(manifest + variant.replace(digest, "0" * 64))
    with pytest.raises(ConfigError, match="SHA-256"):
        load(folder)


def payload_of(model: Any, pixels: Any) -> Any:
    """Take a picture through the whole path."""
    inputs, placement = model.preprocess(pixels)
    return model.decoder.decode(model.engine.run(inputs, model.engine.new_abort()), placement)


def test_nan_outputs_are_refused_frame_by_frame() -> None:
    """Dark pictures make this model divide 0 by 0; bright ones are fine before and after."""
    model = load(MODELS / "nan")

    def predict(level: int) -> str:
        inputs, placement = model.preprocess(np.full((40, 40, 3), level, np.uint8))
        outputs = model.engine.run(inputs, model.engine.new_abort())
        return model.decoder.decode(outputs, placement)["classes"][0]["label"]

    predict(200)
    with pytest.raises(PermanentError, match="NaN"):
        predict(0)
    predict(200)


def test_the_letterbox_fixture_agrees_with_numpy() -> None:
    """float32, mean, std, letterbox and raw decoding together, on a known picture."""
    model = load(MODELS / "letterbox")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    inputs, placement = model.preprocess(pixels)
    (values,) = model.decoder.decode(model.engine.run(inputs, model.engine.new_abort()), placement)["values"]
    blocks = inputs["images"][0].reshape(3, 8, 8, 8, 8).mean(axis=(2, 4))
    np.testing.assert_allclose(np.reshape(values["values"], values["shape"])[0], blocks, atol=1e-4)
