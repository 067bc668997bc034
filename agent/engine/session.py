"""One ONNX Runtime session that can be stopped at a deadline."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import ConfigError, InferenceAbortedError, PermanentError
from agent.frame import Tensor
from agent.interfaces import Abort, TensorSpec

# The package sends telemetry unless this stands before its first import (see engine.process, which sets it
# for the command; here it covers other users of this module).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime as ort

_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int16)": np.dtype(np.int16),
    "tensor(uint16)": np.dtype(np.uint16),
    "tensor(uint32)": np.dtype(np.uint32),
    "tensor(uint64)": np.dtype(np.uint64),
    "tensor(bool)": np.dtype(np.bool_),
    "tensor(string)": np.dtype(object),  # Python's str; an array of numpy's own bytes is read as garbage.
}

PROVIDERS = ["CPUExecutionProvider"]


class _RunAbort:
    """See `interfaces.Abort`; owns the RunOptions of one run."""

    def __init__(self) -> None:
        self.options = ort.RunOptions()
        self.is_set = False

    def set(self) -> None:
        self.is_set = True
        self.options.terminate = True


class OrtEngine:
    """See `interfaces.Engine`.

    Args:
        file: the .onnx file.
        threads: for the kernels of one run, the calling thread included.
        sha256: hex digest that the file must have; None to take it as it is.
        is_optimized: False to run the graph as it stands: a quantised network then computes in float between its
            QuantizeLinear and DequantizeLinear, which tells what its integer kernels ought to give.

    Raises:
        ConfigError: the file is missing, differs from its digest, or ONNX Runtime refuses it.
    """

    def __init__(self, file: Path, *, threads: int, sha256: str | None, is_optimized: bool = True) -> None:
        self.sha256 = file_sha256(file)
        if sha256 is not None and self.sha256 != sha256.lower():
            # A flipped bit in the weights loads without a word, so the digest is the only guard.
            raise ConfigError(
                f"{file}: SHA-256 is {self.sha256}, the manifest says {sha256}: the file is damaged or was "
                "replaced; restore it, or correct model.sha256 if the change is meant"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        if not is_optimized:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Spinning threads take 60 ms of CPU a frame where waiting ones take 13 (2 threads, 5 fps).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(file), options, providers=PROVIDERS)
        except Exception as error:
            raise ConfigError(f"{file}: ONNX Runtime {ort.__version__} refuses it: {_one_line(error)}") from error
        if self._session.get_providers() != PROVIDERS:
            raise ConfigError(f"{file}: runs on {self._session.get_providers()} where {PROVIDERS} was asked for")
        self.inputs = tuple(_spec(node, file) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node, file) for node in self._session.get_outputs())
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        """What the exporter wrote into the file, unchecked."""
        self._inputs_by_name = {spec.name: spec for spec in self.inputs}

    def new_abort(self) -> Abort:
        """See `Engine.new_abort`."""
        return _RunAbort()

    def run(self, inputs: Mapping[str, Tensor], abort: Abort) -> list[Tensor]:
        """See `Engine.run`."""
        assert isinstance(abort, _RunAbort)
        self._check(inputs)
        if abort.is_set:
            raise InferenceAbortedError
        try:
            outputs: list[Tensor] = self._session.run(None, dict(inputs), abort.options)
        except Exception as error:  # ORT raises a dozen own types and RuntimeError.
            if abort.is_set and "terminate flag" in str(error):
                raise InferenceAbortedError from error
            raise PermanentError(f"inference failed: {_one_line(error)}") from error
        return outputs

    def _check(self, inputs: Mapping[str, Tensor]) -> None:
        """Refuse what would fail inside a kernel, or be misread: ORT reads big-endian arrays as little."""
        if inputs.keys() != self._inputs_by_name.keys():
            raise PermanentError(f"model inputs are {sorted(self._inputs_by_name)}, got {sorted(inputs)}")
        for name, tensor in inputs.items():
            spec = self._inputs_by_name[name]
            fits = len(tensor.shape) == len(spec.shape) and all(
                wanted is None or wanted == size for wanted, size in zip(spec.shape, tensor.shape, strict=True)
            )
            if tensor.dtype != spec.dtype or not fits or tensor.size == 0:
                raise PermanentError(f"model input is {spec}, got {tensor.dtype}{list(tensor.shape)}")
            if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
                raise PermanentError(f"model input {name} holds NaN or infinity")


def runtime_version() -> str:
    """Return ONNX Runtime's version."""
    return str(ort.__version__)


def _spec(node: Any, file: Path) -> TensorSpec:
    if node.type not in _DTYPES:
        raise ConfigError(f"{file}: {node.name} is {node.type}: supported are {', '.join(sorted(_DTYPES))}")
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in node.shape)
    return TensorSpec(node.name, _DTYPES[node.type], shape)


def file_sha256(file: Path) -> str:
    """Return a file's SHA-256, hex.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
