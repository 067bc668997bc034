"""Classification: the most probable classes of a picture."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from agent.decoders.options import DecoderInput, DecoderOptions
from agent.errors import ConfigError, PermanentError
from agent.frame import Tensor
from agent.interfaces import Placement
from agent.result import Classification, Payload


class ClassificationOptions(DecoderOptions):
    """`[decoder] name = "classification"`."""

    scores: str
    """Output with one number for each class, float [1, classes]."""
    activation: Literal["softmax", "none"]
    """`softmax` for logits, `none` when the model gives probabilities itself."""
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
        if len(scores.shape) != 2:
            raise ConfigError(f"{given.place}: classification needs scores [1,classes], got {scores}")
        self._labels = given.class_labels(scores.shape[1])
        self._first_id = given.first_id

    def decode(self, outputs: list[Tensor], placement: Placement) -> Payload:
        """See `Decoder.decode`."""
        del placement
        scores = outputs[self._scores_at][0].astype(np.float64)
        if not np.isfinite(scores).all():
            raise PermanentError("model output holds NaN or infinite scores")
        if self._options.activation == "softmax":
            scores = np.exp(scores - scores.max())
            scores /= scores.sum()
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
