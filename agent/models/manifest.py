"""`model.toml`: what a model takes, gives and must reproduce. docs/models.md describes it for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from agent.errors import ConfigError
from agent.models.signal import SignalSpec
from agent.models.state import StateSpec
from agent.toml_file import describe_error, errors_of, line_of, read_toml

MANIFEST_NAME = "model.toml"

FULL = "full"
"""Name of the variant that is the model itself."""


Constant = bool | int | float | str | tuple[bool | int | float | str, ...]


class _Section(BaseModel):
    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, allow_inf_nan=False)


FileName = Annotated[str, Field(pattern=r"^[^/\\]+$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]


class ModelFile(_Section):
    """The network itself."""

    path: str = Field(pattern=r"^[^/\\]+$")
    """File name of the .onnx in the model's folder."""
    sha256: str = Field(pattern=r"^[0-9a-fA-F]{64}$")
    """SHA-256 of that file, 64 hex digits. ONNX Runtime loads damaged weights without a word."""
    external_data: dict[FileName, Digest] = Field(default={}, max_length=64)
    """SHA-256 of each file of weights beside the .onnx, by name, where it keeps them outside itself."""


def _scale_of(given: dict[str, Any]) -> float:
    return 1.0 if str(given.get("dtype", "")).startswith("int") else 1 / 255


class InputSpec(_Section):
    """How a picture becomes the model's input."""

    name: str
    """Name of the model's input."""
    layout: Literal["NHWC", "NCHW"]
    """Order of the axes: batch, height, width, channels."""
    dtype: Literal["uint8", "float32", "float16", "float64", "int8", "int16", "int32", "int64", "bool"]
    """Element type. uint8 takes pixels as they are; the others take (pixel * scale - mean) / std: rounded and held
    within their range for whole numbers, and whether it is 0.5 or more for bool."""
    width: int = Field(ge=1, le=8192)
    """Width of the input, pixels."""
    height: int = Field(ge=1, le=8192)
    """Height of the input, pixels."""
    color: Literal["RGB", "BGR", "GRAY"] = "RGB"
    """Channel order."""
    resize: Literal["stretch", "letterbox"] = "stretch"
    """`stretch` changes the picture's proportions; `letterbox` keeps them and pads with `pad`."""
    pad: int = Field(default=114, ge=0, le=255)
    """Grey level of letterbox padding."""
    align: Literal["center", "start"] = "center"
    """Where a letterboxed picture lies: in the middle, or at the left and the top (YOLOX, text recognition)."""
    scale: float = Field(default_factory=_scale_of)
    """Factor on 0..255 pixels. Default: 1/255, and 1 where the dtype is a whole number."""
    mean: tuple[float, ...] = (0.0,)
    """Subtracted after `scale`: one value, or one a channel in the order of `color`."""
    std: tuple[float, ...] = (1.0,)
    """Divides after `mean`: one value, or one a channel."""

    @model_validator(mode="after")
    def _channels(self) -> InputSpec:
        channels = 1 if self.color == "GRAY" else 3
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise PydanticCustomError("channels", f"{name} must have 1 or {channels} values")
        if 0.0 in self.std:
            raise PydanticCustomError("channels", "std must not be 0")
        return self


class LabelsSpec(_Section):
    """Names of the classes."""

    path: str | None = Field(default=None, pattern=r"^[^/\\]+$")
    """Text file in the folder, one label a line. This or `names`."""
    names: tuple[str, ...] | None = Field(default=None, min_length=1, max_length=100_000)
    """The labels themselves."""
    first_id: int = 0
    """`class_id` of the first line: 1 for COCO category numbers."""

    @model_validator(mode="after")
    def _one_of_both(self) -> LabelsSpec:
        if (self.path is None) == (self.names is None):
            raise PydanticCustomError("labels", "give path or names, one of the two")
        return self


class GoldenSpec(_Section):
    """A picture or a recording, and what the model must make of it on this device."""

    image: str | None = Field(default=None, pattern=r"^[^/\\]+$")
    """Picture in the folder, in a lossless format."""
    recording: str | None = Field(default=None, pattern=r"^[^/\\]+$")
    """WAV or CSV file in the folder, for a model with a [signal]: its windows are run in order, and the last one's
    payload is compared."""
    expected: str = Field(pattern=r"^[^/\\]+$")
    """JSON file in the folder with the expected payload."""
    tolerance: dict[str, float] = Field(default={})
    """Largest absolute difference by field name (`score`, `box`); 0 for fields that are not named."""


class VariantSpec(_Section):
    """A lighter way to run the model, for a device that is too hot, too busy or too slow.

    Whatever is left out is the model's own: a variant with another size only needs a network of dynamic shape.
    """

    name: str = Field(min_length=1, max_length=64, pattern=r"^[^/\s]+$")
    """Name in results, health and events. `full` is the model itself."""
    path: str | None = Field(default=None, pattern=r"^[^/\\]+$")
    """File name of another .onnx in the folder, with the same inputs and outputs by name. Needs `sha256`."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    """SHA-256 of that file."""
    external_data: dict[FileName, Digest] = Field(default={}, max_length=64)
    """As in `[model]`, for that file."""
    width: int | None = Field(default=None, ge=1, le=8192)
    """Width of its input, pixels."""
    height: int | None = Field(default=None, ge=1, le=8192)
    """Height of its input, pixels."""
    expected: str | None = Field(default=None, pattern=r"^[^/\\]+$")
    """JSON file in the folder with what this variant makes of the golden picture."""
    tolerance: dict[str, float] | None = None
    """In the place of `golden.tolerance`."""

    @model_validator(mode="after")
    def _says_what_differs(self) -> VariantSpec:
        if (self.path is None) != (self.sha256 is None):
            raise PydanticCustomError("variant", "path and sha256 go together: set both or none")
        if self.path is None and self.width is None and self.height is None:
            raise PydanticCustomError("variant", "is the model itself: give another path, width or height")
        return self


class Manifest(_Section):
    """The whole of `model.toml`."""

    schema_version: Literal[1] = Field(alias="schema")
    """Version of this format."""
    name: str = Field(min_length=1, max_length=64)
    """Name of the model, for people and results."""
    version: str = Field(min_length=1, max_length=64)
    """Version of the model."""
    task: Literal[
        "detection",
        "classification",
        "segmentation",
        "keypoints",
        "text",
        "embedding",
        "regression",
        "anomaly",
        "raw",
    ]
    """What the payload holds: `detections`, `classes`, `segments`, `poses`, `texts`, `embeddings`, `measurements`,
    `anomaly` or `values`."""
    license: str
    """SPDX identifier of the model's licence."""
    description: str = ""
    """One sentence for people."""
    model: ModelFile
    input: InputSpec | None = None
    signal: SignalSpec | None = None
    state: StateSpec | None = None
    constants: dict[str, Constant] = Field(default={}, max_length=16)
    """Inputs that never change, such as `sr = 16000`, by name: one value for the whole tensor, or as many as it
    holds. Dtype and shape are the network's; an open dimension is 1."""
    sizes: dict[str, Literal["source_hw", "source_wh", "input_hw", "input_wh"]] = Field(default={}, max_length=16)
    """Inputs that are a height and a width in pixels, of the frame or of the input, by name; `wh`: width first."""
    times: dict[str, Literal["captured_ms", "captured_ns"]] = Field(default={}, max_length=16)
    """Inputs that are the frame's capture time on the device's clock since it was switched on, by name; one number in
    int64 or float64, because others cannot hold it."""
    decoder: dict[str, Any]
    """`name` of a decoder and its options; the decoder checks them."""
    labels: LabelsSpec | None = None
    golden: GoldenSpec | None = None
    variants: tuple[VariantSpec, ...] = Field(default=(), max_length=7)
    """Lighter variants, each lighter than the one before, at most 7. All of them are verified at start, and stay
    loaded where the memory is there."""

    @model_validator(mode="after")
    def _names(self) -> Manifest:
        names = [FULL, *(variant.name for variant in self.variants)]
        if len(set(names)) < len(names):
            raise PydanticCustomError(
                "variant", f"variants need names of their own, and {FULL!r} is the model itself"
            )
        return self

    @model_validator(mode="after")
    def _takes_one_thing(self) -> Manifest:
        if (self.input is None) == (self.signal is None):
            raise PydanticCustomError("input", "needs [input] for pictures or [signal] for signals, one of them")
        if self.golden is not None and (self.golden.image is None) != (self.input is None):
            raise PydanticCustomError("golden", "[golden] needs an image with [input], a recording with [signal]")
        if self.signal is not None and any(variant.path is None for variant in self.variants):
            raise PydanticCustomError("variant", "a variant of a model with [signal] needs a path of its own")
        return self

    def digests(self) -> set[str]:
        """Return the SHA-256 of every network in the folder, in lower case."""
        own = {self.model.sha256.lower()}
        return own | {variant.sha256.lower() for variant in self.variants if variant.sha256 is not None}

    def variant(self, spec: VariantSpec) -> Manifest:
        """Return the manifest that a variant would have if it were a model of its own."""
        file = (
            self.model
            if spec.path is None
            else ModelFile(path=spec.path, sha256=spec.sha256 or "", external_data=spec.external_data)
        )
        size = {key: value for key in ("width", "height") if (value := getattr(spec, key)) is not None}
        golden = self.golden
        if golden is not None:
            golden = golden.model_copy(
                update={
                    "expected": spec.expected or golden.expected,
                    "tolerance": golden.tolerance if spec.tolerance is None else spec.tolerance,
                }
            )
        own = None if self.input is None else self.input.model_copy(update=size)
        update = {"model": file, "input": own, "golden": golden, "variants": ()}
        return self.model_copy(update=update)


def variants_of(manifest: Manifest, first: str = FULL) -> list[tuple[str, Manifest]]:
    """Return name and manifest of the model itself and of each of its variants, from `first` on.

    Raises:
        ConfigError: there is no variant of that name.
    """
    every = [(FULL, manifest), *((spec.name, manifest.variant(spec)) for spec in manifest.variants)]
    names = [name for name, _ in every]
    if first not in names:
        raise ConfigError(f"{manifest.name}: has no variant {first!r}: known are {', '.join(names)}")
    return every[names.index(first) :]


def with_size(manifest: Manifest, name: str, size: tuple[int, int]) -> Manifest:
    """Return a manifest whose lightest variant is the model itself on an input of another size, in pixels."""
    width, height = size
    spec = VariantSpec(name=name, width=width, height=height)
    return manifest.model_copy(update={"variants": (*manifest.variants, spec)})


def is_bare(path: Path) -> bool:
    """Return whether a path names a network that has no manifest beside it."""
    return path.is_file() and not (path.parent / MANIFEST_NAME).exists()


def load_manifest(path: Path) -> tuple[Path, Manifest]:
    """Read the manifest of a model folder, or of the folder that holds an .onnx file.

    Returns:
        The folder and its manifest.

    Raises:
        ConfigError: nothing there, no manifest, or every error in it with its line.
    """
    if not path.exists():
        raise ConfigError(f"{path}: there is no such model folder or file (looked in {Path.cwd()})")
    folder = path if path.is_dir() else path.parent
    file = folder / MANIFEST_NAME
    if not file.is_file():
        raise ConfigError(
            f"{folder}: has no {MANIFEST_NAME}: docs/models.md tells how to write one; name the .onnx file itself to "
            "run it as what it seems to be"
        )
    values, lines = read_toml(file)
    try:
        manifest = Manifest.model_validate(values)
    except ValidationError as error:
        raise ConfigError(
            [describe_error(entry, f"{file}:{line_of(entry['loc'], lines)}", Manifest) for entry in errors_of(error)]
        ) from error
    if path.is_file() and path.name != manifest.model.path:
        raise ConfigError(f"{path}: {file} describes {manifest.model.path!r}, not this file")
    return folder, manifest


def load_labels(folder: Path, labels: LabelsSpec) -> list[str]:
    """Return the labels, one for each line.

    Raises:
        ConfigError: unreadable or with an empty line.
    """
    if labels.path is None:
        return list(labels.names or ())
    file = folder / labels.path
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: labels cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise ConfigError(f"{file}:{number}: is empty: each line names one class")
    return [line.strip() for line in lines]


def load_expected(folder: Path, golden: GoldenSpec) -> dict[str, Any]:
    """Return the golden sample's expected payload.

    Raises:
        ConfigError: unreadable or not a JSON object.
    """
    file = folder / golden.expected
    try:
        expected = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: the golden sample's payload cannot be read: {error}") from error
    if not isinstance(expected, dict):
        raise ConfigError(f"{file}: must hold one JSON object, the expected payload")
    return expected
