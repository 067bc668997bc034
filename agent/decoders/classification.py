"""Classification: the most probable classes of a picture."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from agent.decoders.options import DecoderInput, DecoderOptions, activate
from agent.errors import ConfigError, PermanentError
from agent.frame import Tensor
from agent.interfaces import Placement
from agent.result import Classification, Payload


class ClassificationOptions(DecoderOptions):
    """`[decoder] name = "classification"`."""

    scores: str
    """Output with one number for each class, float [1, classes]."""
    activation: Literal["softmax", "sigmoid", "none", "auto"]
    """`softmax` for logits, `sigmoid` for classes that do not exclude each other, `none` when the model gives
    probabilities itself; `auto` takes numbers of 0..1 that add up to 1 as they are, and others as logits."""
    classes_max: int = Field(default=5, ge=1, le=1000)
    """The most classes in a result, by falling score."""
    score_threshold: float = Field(default=0.0, ge=0, lt=1)
    """Least score that is reported."""


class ClassificationDecoder:
    """See `interfaces.Decoder`."""

    def __init__(self, given: DecoderInput) -> None:
        self._options = given.parse(ClassificationOptions)
        self._scores_at = given.output_index(self._options.scores)
        scores = given.outputs[self._scores_at]
        # Some exports leave the axes of the last pooling: [1, classes, 1, 1].
        ones = [size for size in scores.shape[1:] if size != 1]
        if len(scores.shape) < 2 or len(ones) > 1:
            raise ConfigError(f"{given.place}: classification needs scores [1,classes], got {scores}")
        self._labels = given.class_labels(ones[0] if ones else scores.shape[1])
        self._first_id = given.first_id

    def decode(self, outputs: list[Tensor], placement: Placement) -> Payload:
        """See `Decoder.decode`."""
        del placement
        scores = outputs[self._scores_at].reshape(-1).astype(np.float64)
        if len(scores) != len(self._labels):
            raise PermanentError(f"model gives {len(scores)} scores; there are {len(self._labels)} labels")
        if not np.isfinite(scores).all():
            raise PermanentError("model output holds NaN or infinite scores")
        activation = self._options.activation
        if activation == "softmax" or (activation == "auto" and not _are_probabilities(scores)):
            scores = np.exp(scores - scores.max())
            scores /= scores.sum()
        elif activation == "sigmoid":
            scores = activate(scores, "sigmoid").astype(np.float64)
        best = np.argsort(-scores, kind="stable")[: self._options.classes_max]
        return {
            "classes": [
                Classification(
                    label=self._labels[i], class_id=int(i) + self._first_id, score=round(float(scores[i]), 4)
                )
                for i in best
                if scores[i] >= self._options.score_threshold
            ]
        }


def _are_probabilities(scores: npt.NDArray[np.float64]) -> bool:
    """Return whether numbers look like shares of a whole, to the precision of float16: logits hardly ever do."""
    return bool(scores.min() >= 0 and abs(scores.sum() - 1) < 0.005)
