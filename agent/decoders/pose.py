"""Keypoints of one body: from heat maps, from a score a column and a row (SimCC), or as coordinates."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from agent.decoders.boxes import Floats, finite, keypoints
from agent.decoders.options import DecoderInput, DecoderOptions, activate
from agent.errors import ConfigError, PermanentError
from agent.frame import Tensor
from agent.interfaces import Placement
from agent.result import Payload, Pose


class PoseOptions(DecoderOptions):
    """`[decoder] name = "pose"`."""

    kind: Literal["heatmap", "simcc", "coordinates"]
    """`heatmap`: [1, K, h, w], the greatest cell of each; `simcc`: [1, K, columns] and [1, K, rows]; `coordinates`:
    K times x, y and, with `values = 3`, a score."""
    output: str | None = None
    """The output, for `simcc` the one with the columns; the only one when left out."""
    output_y: str | None = None
    """For `simcc`: the output with the rows."""
    keypoints: tuple[str, ...] = Field(min_length=1, max_length=1000)
    """Names of the keypoints, in the model's order."""
    order: Literal["xy", "yx"] = "xy"
    """For `coordinates`: which comes first. MoveNet gives `yx`."""
    unit: Literal["pixels", "share"] = "pixels"
    """For `coordinates`: `pixels` of the input, or `share`, 0..1 of it."""
    values: Literal[2, 3] = 3
    """For `coordinates`: numbers a keypoint."""
    activation: Literal["none", "sigmoid"] = "none"
    """Of the scores: `none` when they are 0..1 already."""
    score_threshold: float = Field(default=0.0, ge=0, lt=1)
    """Least mean score of a body that is reported."""


class PoseDecoder:
    """See `interfaces.Decoder`."""

    def __init__(self, given: DecoderInput) -> None:
        options = self._options = given.parse(PoseOptions)
        self._at = given.one_output(options.output)
        count = len(options.keypoints)
        output = given.outputs[self._at]
        wanted = {"heatmap": 4, "simcc": 3}.get(options.kind)
        if wanted is not None and (len(output.shape) != wanted or output.shape[1] not in (count, None)):
            raise ConfigError(f"{given.place}: {options.kind} with {count} keypoints got {output}")
        self._y_at = self._at
        if options.kind == "simcc":
            if options.output_y is None:
                raise ConfigError(f"{given.place}: [decoder] output_y: is missing: simcc has one output an axis")
            self._y_at = given.output_index(options.output_y)
        elif options.kind == "coordinates":
            numbers = count * options.values
            if None not in output.shape and int(np.prod([size or 1 for size in output.shape])) != numbers:
                raise ConfigError(
                    f"{given.place}: {count} keypoints of {options.values} values are {numbers} numbers, got {output}"
                )

    def decode(self, outputs: list[Tensor], placement: Placement) -> Payload:
        """See `Decoder.decode`."""
        if self._options.kind != "coordinates":
            for at in {self._at, self._y_at}:
                shape = outputs[at].shape
                if shape[1] != len(self._options.keypoints) or 0 in shape:
                    raise PermanentError(
                        f"model output is {list(shape)}: not {len(self._options.keypoints)} keypoints"
                    )
        find = {"heatmap": self._of_heatmap, "simcc": self._of_simcc, "coordinates": self._of_coordinates}
        points, scores = find[self._options.kind](outputs, placement)
        finite("keypoints", points)
        finite("scores", scores)
        scores = np.clip(activate(scores, self._options.activation), 0, 1)
        mean = float(scores.mean())
        if mean < self._options.score_threshold:
            return {"poses": []}
        found = keypoints(points, scores, self._options.keypoints, placement)
        return {"poses": [Pose(score=round(mean, 4), keypoints=found)]}

    def _of_heatmap(self, outputs: list[Tensor], placement: Placement) -> tuple[Floats, npt.NDArray[Any]]:
        """Return points in pixels of the input: the middle of the greatest cell, moved by a quarter of one.

        Towards the greater neighbour on each axis (Newell et al., Stacked Hourglass Networks, 2016).
        """
        maps = outputs[self._at][0]
        count, rows, columns = maps.shape
        flat = maps.reshape(count, -1)
        best = flat.argmax(axis=1)
        scores = flat[np.arange(count), best]
        y, x = np.divmod(best, columns)
        # The edge repeats, so that a point on it moves inwards or not at all.
        around = np.pad(maps, ((0, 0), (1, 1), (1, 1)), mode="edge")
        each = np.arange(count)
        right, left = around[each, y + 1, x + 2], around[each, y + 1, x]
        below, above = around[each, y + 2, x + 1], around[each, y, x + 1]
        points = np.stack([x + 0.5 + 0.25 * np.sign(right - left), y + 0.5 + 0.25 * np.sign(below - above)], axis=1)
        size = np.array([placement.input_width / columns, placement.input_height / rows])
        return (points * size).astype(np.float32), scores

    def _of_simcc(self, outputs: list[Tensor], placement: Placement) -> tuple[Floats, npt.NDArray[Any]]:
        """Return points in pixels of the input (Li et al., SimCC, 2022): the score is the lesser of both axes'."""
        both = outputs[self._at][0], outputs[self._y_at][0]
        places = np.stack([(axis.argmax(axis=1) + 0.5) / axis.shape[1] for axis in both], axis=1)
        scores = np.minimum(both[0].max(axis=1), both[1].max(axis=1))
        return (places * (placement.input_width, placement.input_height)).astype(np.float32), scores

    def _of_coordinates(self, outputs: list[Tensor], placement: Placement) -> tuple[Floats, npt.NDArray[Any]]:
        options = self._options
        numbers = outputs[self._at].ravel()
        if numbers.size != len(options.keypoints) * options.values:
            raise PermanentError(f"model gives {numbers.size} numbers for {len(options.keypoints)} keypoints")
        table = numbers.reshape(-1, options.values).astype(np.float32)
        points = table[:, [1, 0]] if options.order == "yx" else table[:, :2]
        if options.unit == "share":
            points = points * np.array([placement.input_width, placement.input_height], np.float32)
        return points, table[:, 2] if options.values == 3 else np.ones(len(table), np.float32)
