"""What every decoder is built from, and the checks that they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from agent.errors import ConfigError
from agent.interfaces import TensorSpec
from agent.toml_file import describe_error


class DecoderOptions(BaseModel):
    """Base of each decoder's options in `[decoder]`."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    """Which decoder."""


OptionsT = TypeVar("OptionsT", bound=DecoderOptions)


@dataclass(frozen=True, slots=True)
class DecoderInput:
    """What a decoder is built from.

    Attributes:
        place: names the manifest in errors.
        options: the `[decoder]` section, unchecked.
        outputs: the model's outputs in order.
        labels: names of the classes; None without labels.
        first_id: `class_id` of the first label.
    """

    place: str
    options: dict[str, Any]
    outputs: tuple[TensorSpec, ...]
    labels: list[str] | None
    first_id: int

    def parse(self, model: type[OptionsT]) -> OptionsT:
        """Return the options checked.

        Raises:
            ConfigError: with every error.
        """
        try:
            return model.model_validate(self.options)
        except ValidationError as error:
            place = f"{self.place}: [decoder]"
            raise ConfigError([describe_error(entry, place, model) for entry in error.errors()]) from error

    def output_index(self, name: str) -> int:
        """Return the index of a named output.

        Raises:
            ConfigError: the model has no such output.
        """
        names = [spec.name for spec in self.outputs]
        if name not in names:
            seen = ", ".join(map(str, self.outputs))
            raise ConfigError(f"{self.place}: [decoder] names output {name!r}; the model has {seen}")
        return names.index(name)

    def class_labels(self, class_count: int | None) -> list[str]:
        """Return the labels after checking their number against the model's classes.

        Raises:
            ConfigError: missing, or another number than the model's.
        """
        if self.labels is None:
            raise ConfigError(f"{self.place}: this decoder needs a [labels] section")
        if class_count is not None and len(self.labels) != class_count:
            raise ConfigError(
                f"{self.place}: {len(self.labels)} labels for a model of {class_count} classes: "
                "they must match line by line"
            )
        return self.labels

    def one_output(self, name: str | None) -> int:
        """Return the index of the output that is named, or of the only one there is.

        Raises:
            ConfigError: the model has no such output, or several and none is named.
        """
        if name is not None:
            return self.output_index(name)
        if len(self.outputs) != 1:
            seen = ", ".join(map(str, self.outputs))
            raise ConfigError(f"{self.place}: [decoder] output: is missing: the model has {seen}: name one")
        return 0


def activate(values: npt.NDArray[Any], activation: str) -> npt.NDArray[np.float32]:
    """Return probabilities from the numbers of a layer: `sigmoid`, or `softmax` over the last axis.

    Logits are held within +-88, the range of exp in float32.
    """
    logits = values.astype(np.float32)
    if activation == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -88, 88))), np.float32)
    if activation == "softmax":
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)
    return logits
