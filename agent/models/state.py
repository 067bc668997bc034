"""`[state]` and `[constants]` in model.toml: a model that remembers, and inputs that never change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from agent.errors import ConfigError, PermanentError
from agent.frame import Frame, Tensor
from agent.interfaces import TensorSpec

Constants = Mapping[str, bool | int | float | list[float]]


STATE_BYTES_MAX = 64 * 1024 * 1024
"""Of one stream: a KV cache of a small speech decoder has 10 to 40 MiB, a recurrent state 1 to 100 KiB."""


class StateSpec(BaseModel):
    """Outputs that the model takes as inputs with the next frame of the same stream.

    Frames of such a model keep their order, also in live mode, where some of them wait in place of the newest only.
    """

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True)

    tensors: dict[str, str] = Field(min_length=1, max_length=64)
    """Input name = output name, such as `h = "h_out"`. The state starts as zeros."""
    on_gap: Literal["reset", "keep"] = "reset"
    """When frames or samples were lost before a frame (dropped, aborted, failed, source lost and back): `reset`
    starts from zeros, `keep` goes on with the state from before the gap. Default `reset`: what the model knows is of
    another moment."""


class StateStore:
    """See `interfaces.Memory`. The outputs of one run are the inputs of the next as they are: nothing is copied.

    Args:
        spec: names the tensors.
        inputs: of the network; free dimensions of a state are 1.
        outputs: of the network.
        place: names the manifest in errors.

    Raises:
        ConfigError: the network has no such tensors, or they do not fit each other.
    """

    def __init__(
        self, spec: StateSpec, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], place: str
    ) -> None:
        self._resets_on_gap = spec.on_gap == "reset"
        inputs_by_name = {known.name: known for known in inputs}
        outputs_by_name = {known.name: index for index, known in enumerate(outputs)}
        self._initial: dict[str, Tensor] = {}
        self._output_at: dict[str, int] = {}
        for name, output in spec.tensors.items():
            if name not in inputs_by_name or output not in outputs_by_name:
                seen = f"takes {', '.join(map(str, inputs))} and gives {', '.join(map(str, outputs))}"
                raise ConfigError(f"{place}: [state] tensors {name} = {output!r}: the model {seen}")
            taken, given = inputs_by_name[name], outputs[outputs_by_name[output]]
            fits = len(taken.shape) == len(given.shape) and all(
                None in (a, b) or a == b for a, b in zip(taken.shape, given.shape, strict=True)
            )
            if taken.dtype != given.dtype or not fits:
                raise ConfigError(f"{place}: [state] output {given} cannot be the next input {taken}")
            self._initial[name] = np.zeros([1 if size is None else size for size in taken.shape], taken.dtype)
            self._output_at[name] = outputs_by_name[output]
        self._check_size(self._initial, f"{place}: [state]", ConfigError)
        self._kept: dict[str, tuple[int, dict[str, Tensor]]] = {}
        self.resets = 0
        """Frames that started from zeros because something was lost before them, or a state was forgotten."""
        self.broken = 0
        """States that held NaN or infinity: each was forgotten."""
        self._forgotten: set[str] = set()
        """Streams whose state was thrown away."""

    @property
    def initial(self) -> Mapping[str, Tensor]:
        """The state that nothing came before."""
        return self._initial

    def recall(self, frame: Frame) -> Mapping[str, Tensor]:
        """See `Memory.recall`."""
        kept = self._kept.get(frame.stream)
        if kept is None:
            self.resets += frame.stream in self._forgotten
            return self._initial
        last, tensors = kept
        is_next = frame.follows and frame.sequence == last + 1
        if is_next or not self._resets_on_gap:
            return tensors
        self.resets += 1
        return self._initial

    def remember(self, frame: Frame, outputs: Sequence[Tensor]) -> None:
        """See `Memory.remember`; 2 us for a state of 1 KiB."""
        tensors = {name: outputs[at] for name, at in self._output_at.items()}
        self._kept.pop(frame.stream, None)
        self._forgotten.add(frame.stream)
        self._check_size(tensors, "state", PermanentError)
        # What a model makes of NaN is NaN: it would stay for ever where no gap resets it.
        if not all(tensor.dtype.kind != "f" or np.isfinite(tensor).all() for tensor in tensors.values()):
            self.broken += 1
            return
        self._forgotten.discard(frame.stream)
        self._kept[frame.stream] = frame.sequence, tensors

    @staticmethod
    def _check_size(tensors: Mapping[str, Tensor], what: str, error: type[ConfigError | PermanentError]) -> None:
        size_bytes = sum(tensor.nbytes for tensor in tensors.values())
        if size_bytes > STATE_BYTES_MAX:
            raise error(f"{what} has {size_bytes} bytes, more than {STATE_BYTES_MAX}")
