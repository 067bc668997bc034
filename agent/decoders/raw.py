"""Raw tensors: for models whose meaning is known to the receiver alone."""

from __future__ import annotations

import math

import numpy as np

from agent.core.typed_array import TAGS
from agent.decoders.options import DecoderInput, DecoderOptions
from agent.errors import ConfigError, PermanentError
from agent.frame import Tensor
from agent.interfaces import Placement
from agent.result import Numbers, Payload, TensorValues

VALUES_MAX = 10_000
"""Numbers in one result: at about 12 bytes each, 120 kB of JSON; 80 kB of CBOR at most."""


class RawOptions(DecoderOptions):
    """`[decoder] name = "raw"`."""

    outputs: tuple[str, ...] = ()
    """Outputs to publish; all of them when empty."""


class RawDecoder:
    """See `interfaces.Decoder`."""

    def __init__(self, given: DecoderInput) -> None:
        wanted = given.parse(RawOptions).outputs or tuple(spec.name for spec in given.outputs)
        self._chosen = [(name, given.output_index(name)) for name in wanted]
        least = sum(math.prod(size or 1 for size in given.outputs[at].shape) for _, at in self._chosen)
        if least > VALUES_MAX:
            raise ConfigError(
                f"{given.place}: raw would publish {least} numbers a frame, more than {VALUES_MAX}: "
                "name fewer under [decoder] outputs"
            )

    def decode(self, outputs: list[Tensor], placement: Placement) -> Payload:
        """See `Decoder.decode`."""
        del placement
        return {"values": [self._values(name, outputs[at]) for name, at in self._chosen]}

    @staticmethod
    def _values(name: str, tensor: Tensor) -> TensorValues:
        if tensor.size > VALUES_MAX:
            raise PermanentError(f"model output {name} has {tensor.size} numbers, more than {VALUES_MAX}")
        values = tensor.astype(np.float64).ravel()
        if not np.isfinite(values).all():
            raise PermanentError(f"model output {name} holds NaN or infinity")
        # Truth values and the like have no typed array of their own.
        kept = tensor if tensor.dtype.name in TAGS else tensor.astype(np.float64)
        raw = kept.astype(kept.dtype.newbyteorder("<")).tobytes()
        numbers = Numbers((round(float(v), 6) for v in values), kept.dtype.name, raw)
        return TensorValues(name=name, shape=list(tensor.shape), values=numbers)
