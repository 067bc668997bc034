"""Heads that are plain numbers: embeddings, measurements and anomaly scores."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from agent.decoders.boxes import finite
from agent.decoders.options import DecoderInput, DecoderOptions
from agent.errors import ConfigError, PermanentError
from agent.frame import Tensor
from agent.interfaces import Placement
from agent.result import Anomaly, Measurement, Payload, TensorValues

EMBEDDING_MAX = 4096
"""Numbers in an embedding: 40 kB of JSON, twice the longest that is in use."""


class EmbeddingOptions(DecoderOptions):
    """`[decoder] name = "embedding"`."""

    output: str | None = None
    """Output with the vector; the only one when left out."""
    normalize: bool = True
    """Divide by the length (L2), so that the product of two is their cosine."""


class EmbeddingDecoder:
    """See `interfaces.Decoder`."""

    def __init__(self, given: DecoderInput) -> None:
        self._options = given.parse(EmbeddingOptions)
        self._at = given.one_output(self._options.output)
        output = given.outputs[self._at]
        self._name = output.name
        if math.prod(size or 1 for size in output.shape) > EMBEDDING_MAX:
            raise ConfigError(f"{given.place}: an embedding has {EMBEDDING_MAX} numbers at most, got {output}")

    def decode(self, outputs: list[Tensor], placement: Placement) -> Payload:
        """See `Decoder.decode`."""
        del placement
        vector = outputs[self._at].astype(np.float64).ravel()
        if vector.size > EMBEDDING_MAX:
            raise PermanentError(f"model gives {vector.size} numbers, an embedding has {EMBEDDING_MAX} at most")
        finite("embeddings", vector)
        if self._options.normalize:
            length = float(np.linalg.norm(vector))
            # Zeros have no direction and stay what they are; a black warm-up picture may well give them.
            vector = vector / (length or 1.0)
        values = [round(float(v), 6) for v in vector]
        return {"embeddings": [TensorValues(name=self._name, shape=[len(values)], values=values)]}


class RegressionOptions(DecoderOptions):
    """`[decoder] name = "regression"`."""

    output: str | None = None
    """Output with the numbers; the only one when left out."""
    names: tuple[str, ...] = ("value",)
    """Names of the numbers, in the model's order."""
    units: tuple[str, ...] = ()
    """Their units; none when empty."""
    factor: float = 1.0
    """Multiplies each number."""
    offset: float = 0.0
    """Added after that."""


class RegressionDecoder:
    """See `interfaces.Decoder`."""

    def __init__(self, given: DecoderInput) -> None:
        options = self._options = given.parse(RegressionOptions)
        self._at = given.one_output(options.output)
        output = given.outputs[self._at]
        self._units = options.units or ("",) * len(options.names)
        if len(self._units) != len(options.names):
            raise ConfigError(f"{given.place}: [decoder] has {len(options.names)} names and {len(self._units)} units")
        if None not in output.shape and math.prod(size or 1 for size in output.shape) != len(options.names):
            raise ConfigError(f"{given.place}: [decoder] has {len(options.names)} names for the numbers of {output}")

    def decode(self, outputs: list[Tensor], placement: Placement) -> Payload:
        """See `Decoder.decode`."""
        del placement
        options = self._options
        values = outputs[self._at].astype(np.float64).ravel()
        if len(values) != len(options.names):
            raise PermanentError(f"model gives {len(values)} numbers, [decoder] names {len(options.names)}")
        values = values * options.factor + options.offset
        finite("values", values)
        return {
            "measurements": [
                Measurement(name=name, value=round(float(value), 6), unit=unit)
                for name, value, unit in zip(options.names, values, self._units, strict=True)
            ]
        }


class AnomalyOptions(DecoderOptions):
    """`[decoder] name = "anomaly"`."""

    output: str | None = None
    """Output with the score, or a map of them; the only one when left out."""
    reduce: Literal["max", "mean"] = "max"
    """What the score of a map is."""
    threshold: float
    """From which score a frame is an anomaly; it is the model's own and must be given."""


class AnomalyDecoder:
    """See `interfaces.Decoder`."""

    def __init__(self, given: DecoderInput) -> None:
        self._options = given.parse(AnomalyOptions)
        self._at = given.one_output(self._options.output)

    def decode(self, outputs: list[Tensor], placement: Placement) -> Payload:
        """See `Decoder.decode`."""
        del placement
        scores = outputs[self._at]
        if not scores.size:
            raise PermanentError("model gives no score")
        finite("scores", scores)
        values = scores.astype(np.float64)
        score = float(values.max() if self._options.reduce == "max" else values.mean())
        threshold = self._options.threshold
        return {"anomaly": Anomaly(score=round(score, 6), threshold=threshold, is_anomaly=score >= threshold)}
