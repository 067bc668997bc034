"""One ONNX Runtime session that can be stopped at a deadline."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from agent.engine.digest import sha256_of
from agent.engine.external import check_external_data
from agent.engine.process import MEMORY_LOCK
from agent.engine.providers import CPU, Provider
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

EXTENSIONS = "onnxruntime_extensions"
"""The package that `engine.custom_ops` may name in the place of a library."""

_SHRINK = ("memory.enable_memory_arena_shrinkage", "cpu:0")


@dataclass(frozen=True, slots=True)
class SessionSetup:
    """How every session of the agent is made.

    Attributes:
        threads: for the kernels of one run, the calling thread included.
        cores: CPUs for ONNX Runtime's own threads; empty for wherever the process may run.
        providers: in the order in which they take operators.
        custom_ops: operator libraries, or `EXTENSIONS`.
        uses_shared_arena: whether activations come from the arena of `share_arena`.
        spins: whether ONNX Runtime's own threads wait busily for work.
        has_arena: False for activations that are allocated and freed with each run.
        has_memory_pattern: whether the activations of a run lie in one block, laid out after the first run; else each
            is taken from the arena by itself. Which of the two holds less memory differs from network to network.
    """

    threads: int = 1
    cores: tuple[int, ...] = ()
    providers: tuple[Provider, ...] = (CPU,)
    custom_ops: tuple[str, ...] = ()
    uses_shared_arena: bool = False
    spins: bool = False
    has_arena: bool = True
    has_memory_pattern: bool = True


def share_arena(max_bytes: int) -> None:
    """Make the arena from which all sessions that are made from now on take their activations and packed weights.

    A run that needs more than is left of it fails with an error, and the session stays usable. Four sessions took 231
    MB instead of 443. Sessions that are there keep the arena before, which goes with the last of them.
    """
    # Strategy 1 extends by what is asked for instead of the next power of two.
    config = ort.OrtArenaCfg({"max_mem": max_bytes, "arena_extend_strategy": 1})
    place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(place, config)


def available_providers() -> list[str]:
    """Return the execution providers of this build, by ONNX Runtime's names."""
    return list(ort.get_available_providers())


class ProviderMissingError(ConfigError):
    """ONNX Runtime runs a network without a provider that was asked for.

    Attributes:
        missing: names of the providers, as in the settings.
    """

    def __init__(self, problem: str, missing: Sequence[str]) -> None:
        self.missing = list(missing)
        super().__init__(problem)


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
        threads: in the place of `setup.threads`.
        sha256: hex digest that the file must have; None to take it as it is.
        external: digests of its files of weights, by name.
        is_optimized: False to run the graph as it stands: a quantised network then computes in float between its
            QuantizeLinear and DequantizeLinear, which tells what its integer kernels ought to give.
        setup: how the session is made.
        compiled: the same network, optimised, from the cache, which has verified both; it is loaded in the place of
            `file`, and `sha256` is believed.
        input_bytes_max: of all inputs together; a larger frame of a network with open dimensions is refused instead
            of growing the arena for good. None for no limit.

    Raises:
        ConfigError: the file is missing, differs from its digest, ONNX Runtime refuses it, or an input has a
            dimension of 0.
    """

    def __init__(
        self,
        file: Path,
        *,
        threads: int | None = None,
        sha256: str | None,
        external: Mapping[str, str] | None = None,
        is_optimized: bool = True,
        setup: SessionSetup | None = None,
        compiled: Path | None = None,
        input_bytes_max: int | None = None,
    ) -> None:
        self._file = file
        self._setup = setup or SessionSetup()
        self._threads = threads or self._setup.threads
        self._external = external or {}
        self._is_optimized = is_optimized
        self._compiled = compiled
        self._input_bytes_max = input_bytes_max
        self._shrinking: threading.Event | None = None
        self._opening = threading.Lock()
        self.sha256 = verified_sha256(file, sha256) if compiled is None or sha256 is None else sha256.lower()
        self._state = _state_of(compiled)
        session = self._open()
        self._session: ort.InferenceSession | None = session
        self._providers = tuple(session.get_providers())
        self.inputs = tuple(_input_spec(node, file) for node in session.get_inputs())
        self.outputs = tuple(_spec(node, file) for node in session.get_outputs())
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        """What the exporter wrote into the file, unchecked."""
        self._inputs_by_name = {spec.name: spec for spec in self.inputs}

    @property
    def providers(self) -> tuple[str, ...]:
        """See `Engine.providers`."""
        return self._providers

    @property
    def is_loaded(self) -> bool:
        """See `Engine.is_loaded`."""
        return self._session is not None

    def new_abort(self) -> Abort:
        """See `Engine.new_abort`."""
        return _RunAbort()

    def release(self) -> None:
        """See `Engine.release`."""
        self._session = None

    def shrink(self) -> threading.Event:
        """See `Engine.shrink`."""
        self._shrinking = threading.Event()
        return self._shrinking

    def takes(self, inputs: Mapping[str, tuple[str, Sequence[int]]]) -> bool:
        """Return whether inputs of these types and shapes, by name, fit the network."""
        return inputs.keys() == self._inputs_by_name.keys() and all(
            self._inputs_by_name[name].fits(np.dtype(dtype), shape) for name, (dtype, shape) in inputs.items()
        )

    def run(self, inputs: Mapping[str, Tensor], abort: Abort) -> list[Tensor]:
        """See `Engine.run`."""
        assert isinstance(abort, _RunAbort)
        self._check(inputs)
        session = self._session or self._load_again()
        if abort.is_set:
            raise InferenceAbortedError
        shrinking, self._shrinking = self._shrinking, None
        if shrinking is not None and self._setup.has_arena:
            abort.options.add_run_config_entry(*_SHRINK)
        try:
            outputs: list[Tensor] = session.run(None, dict(inputs), abort.options)
        except Exception as error:  # ORT raises a dozen own types and RuntimeError.
            if abort.is_set and "terminate flag" in str(error):
                raise InferenceAbortedError from error
            raise PermanentError(f"inference failed: {_one_line(error)}") from error
        finally:
            if shrinking is not None:
                shrinking.set()
        return outputs

    def _load_again(self) -> ort.InferenceSession:
        """Create the session that was released; 10 to 100 ms of the frame that needs it."""
        with self._opening:
            if self._session is None:
                if self._compiled is not None and _state_of(self._compiled) != self._state:
                    self._compiled = None
                try:
                    # Whoever replaced the file meanwhile must not have changed the model.
                    if self._compiled is None:
                        verified_sha256(self._file, self.sha256)
                    self._session = self._open()
                    MEMORY_LOCK.renew()
                except ConfigError as error:
                    raise PermanentError(f"cannot be loaded again: {error}") from error
            return self._session

    def _open(self) -> ort.InferenceSession:
        file = self._file if self._compiled is None else self._compiled
        if self._compiled is None:
            check_external_data(file, self._external)
        options = session_options(self._setup, self._threads)
        if not self._is_optimized or self._compiled is not None:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        wanted = [provider.full_name for provider in self._setup.providers]
        try:
            session = ort.InferenceSession(
                str(file),
                options,
                providers=wanted,
                provider_options=[provider.options_within(self._threads) for provider in self._setup.providers],
                # On a failure it would print to standard output and try again with the CPU, which we would report.
                enable_fallback=0,
            )
        except Exception as error:
            raise ConfigError(_refusal(file, error)) from error
        # ONNX Runtime adds the CPU behind every list; what else is missing was dropped in silence.
        in_force = session.get_providers()
        if missing := [one.name for one in self._setup.providers if one.full_name not in in_force]:
            raise ProviderMissingError(
                f"{file}: {', '.join(missing)} was asked for and ONNX Runtime runs it on {', '.join(in_force)}: the "
                "provider's libraries or its device are not there",
                missing,
            )
        working = _with_operators(session) if self._setup.providers != (CPU,) else []
        # Up to the first that works: one behind it is a fallback that was not needed.
        idle = [one.name for one in takewhile(lambda one: one.full_name not in working, self._setup.providers)]
        if idle and working:
            raise ProviderMissingError(
                f"{file}: {', '.join(idle)} was asked for and takes none of its operators: ONNX Runtime runs it on "
                f"{', '.join(working)}",
                idle,
            )
        return session

    def _check(self, inputs: Mapping[str, Tensor]) -> None:
        """Refuse what would fail inside a kernel, or be misread: ORT reads big-endian arrays as little."""
        if inputs.keys() != self._inputs_by_name.keys():
            raise PermanentError(f"model inputs are {sorted(self._inputs_by_name)}, got {sorted(inputs)}")
        for name, tensor in inputs.items():
            spec = self._inputs_by_name[name]
            if not spec.fits(tensor.dtype, tensor.shape) or tensor.size == 0:
                raise PermanentError(f"model input is {spec}, got {tensor.dtype}{list(tensor.shape)}")
            if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
                raise PermanentError(f"model input {name} holds NaN or infinity")
        given_bytes = sum(tensor.nbytes for tensor in inputs.values())
        if self._input_bytes_max is not None and given_bytes > self._input_bytes_max:
            shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in inputs.items())
            raise PermanentError(
                f"model input {shapes} has {given_bytes} bytes: activations grow with it, and limits.memory_mb "
                f"leaves room for {self._input_bytes_max}"
            )


def session_options(setup: SessionSetup, threads: int) -> ort.SessionOptions:
    """Return ONNX Runtime's options for a setup.

    Raises:
        ConfigError: an operator library cannot be loaded.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # Every error comes back as an exception; its own line would go past our log.
    # Spinning threads take 60 ms of CPU a frame where waiting ones take 13 (2 threads, 5 fps).
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(setup.spins)))
    options.enable_cpu_mem_arena = setup.has_arena
    options.enable_mem_pattern = setup.has_memory_pattern
    if setup.cores and threads > 1:
        # ONNX Runtime counts CPUs from 1; the first thread of a run is the caller's and placed by us.
        everywhere = ",".join(str(cpu + 1) for cpu in setup.cores)
        options.add_session_config_entry("session.intra_op_thread_affinities", ";".join([everywhere] * (threads - 1)))
    if CPU not in setup.providers:
        # Else ONNX Runtime would run there what the others do not take, without a word.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if setup.providers != (CPU,):
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if setup.uses_shared_arena and setup.has_arena:
        options.add_session_config_entry("session.use_env_allocators", "1")
    for library in setup.custom_ops:
        try:
            options.register_custom_ops_library(library_path(library))
        except Exception as error:
            raise ConfigError(f"engine.custom_ops: {library}: cannot be loaded: {_one_line(error)}") from error
    return options


def library_path(library: str) -> str:
    """Return the file of an operator library; of `EXTENSIONS`, what that package says, which is imported for it."""
    if library != EXTENSIONS:
        return library
    import onnxruntime_extensions  # An extra: only who names it has it.

    return str(onnxruntime_extensions.get_library_path())


def runtime_version() -> str:
    """Return ONNX Runtime's version."""
    return str(ort.__version__)


def verified_sha256(file: Path, sha256: str | None) -> str:
    """Return a file's digest after comparing it with the one that it must have.

    Raises:
        ConfigError: it cannot be read, or differs: a flipped bit in the weights loads without a word.
    """
    actual = sha256_of(file)
    if sha256 is not None and actual != sha256.lower():
        raise ConfigError(
            f"{file}: SHA-256 is {actual}, the manifest says {sha256}: the file is damaged or was "
            "replaced; restore it, or correct model.sha256 if the change is meant"
        )
    return actual


def _state_of(compiled: Path | None) -> list[tuple[str, int, int, int]]:
    """Return what tells whether an entry of the cache is still the one that was verified."""
    if compiled is None:
        return []
    try:
        states = sorted((file.name, file.stat()) for file in compiled.parent.iterdir())
    except OSError:
        return []
    return [(name, state.st_ino, state.st_size, state.st_mtime_ns) for name, state in states]


def _with_operators(session: ort.InferenceSession) -> list[str]:
    """Return the providers that run something, by ONNX Runtime's names; none where an older build does not tell."""
    noted = getattr(session, "get_provider_graph_assignment_info", None)
    return [] if noted is None else sorted({part.ep_name for part in noted()})


def _refusal(file: Path, error: Exception) -> str:
    text = _one_line(error)
    if "fallback to CPU EP has been explicitly disabled" in text:
        text += " (the providers that were asked for do not take all of it: add 'cpu' to engine.providers)"
    if "is not a registered function/op" in text:
        text += " (it uses operators that this build does not have: name their library in engine.custom_ops)"
    return f"{file}: ONNX Runtime {ort.__version__} refuses it: {text}"


def _input_spec(node: Any, file: Path) -> TensorSpec:
    spec = _spec(node, file)
    # ONNX Runtime loads it, and no input fits it. An open dimension is a name, None or -1.
    if 0 in node.shape:
        sizes = ", ".join("?" if size is None else str(size) for size in node.shape)
        raise ConfigError(f"{file}: input {node.name} is {spec.dtype}[{sizes}]: a dimension of 0 holds nothing")
    return spec


def _spec(node: Any, file: Path) -> TensorSpec:
    if node.type not in _DTYPES:
        raise ConfigError(f"{file}: {node.name} is {node.type}: supported are {', '.join(sorted(_DTYPES))}")
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in node.shape)
    return TensorSpec(node.name, _DTYPES[node.type], shape)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
