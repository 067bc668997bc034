"""Text from a sequence of character scores: connectionist temporal classification, the best path (Graves, 2006)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from agent.decoders.boxes import finite
from agent.decoders.options import DecoderInput, DecoderOptions, activate
from agent.errors import ConfigError, PermanentError
from agent.frame import Tensor
from agent.interfaces import Placement
from agent.result import Payload, Text


class CtcOptions(DecoderOptions):
    """`[decoder] name = "ctc"`. The labels are the characters, without the blank."""

    output: str | None = None
    """Output with the scores; the only one when left out."""
    layout: Literal["NTC", "TNC"] = "NTC"
    """Order of its axes: batch, time, characters."""
    blank: Literal["first", "last"] = "first"
    """Where the blank is among the characters."""
    activation: Literal["softmax", "none"] = "none"
    """`softmax` for logits, `none` when the model gives probabilities itself."""
    score_threshold: float = Field(default=0.0, ge=0, lt=1)
    """Least mean probability of a line that is reported."""


class CtcDecoder:
    """See `interfaces.Decoder`."""

    def __init__(self, given: DecoderInput) -> None:
        self._options = given.parse(CtcOptions)
        self._at = given.one_output(self._options.output)
        output = given.outputs[self._at]
        if len(output.shape) != 3:
            raise ConfigError(f"{given.place}: ctc needs [1,T,characters + 1], got {output}")
        columns = output.shape[2]
        if columns is not None and given.labels is not None and columns != len(given.labels) + 1:
            raise ConfigError(
                f"{given.place}: {len(given.labels)} labels and the blank are {len(given.labels) + 1} characters, "
                f"the model has {columns}: give every character one line, without the blank"
            )
        self._labels = given.class_labels(None)

    def decode(self, outputs: list[Tensor], placement: Placement) -> Payload:
        """See `Decoder.decode`."""
        del placement
        options, output = self._options, outputs[self._at]
        scores = output[0] if options.layout == "NTC" else output[:, 0]
        if scores.ndim != 2 or scores.shape[1] != len(self._labels) + 1:
            raise PermanentError(f"model output is {list(output.shape)}, wanted {len(self._labels) + 1} characters")
        finite("scores", scores)
        scores = activate(scores, options.activation)
        path = scores.argmax(axis=1)
        blank = 0 if options.blank == "first" else len(self._labels)
        is_new = np.concatenate([[True], path[1:] != path[:-1]])[: len(path)]
        taken = np.flatnonzero(is_new & (path != blank))
        if not len(taken):
            return {"texts": []}
        score = float(scores[taken, path[taken]].mean())
        if score < options.score_threshold:
            return {"texts": []}
        shift = 1 if options.blank == "first" else 0
        text = "".join(self._labels[place - shift] for place in path[taken])
        return {"texts": [Text(text=text, score=round(min(score, 1.0), 4))]}
