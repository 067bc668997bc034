"""Tries a network in a child process first: compiles it, and measures what it takes, within limits that end it.

A network is a program from elsewhere. It may ask for gigabytes, never end or crash ONNX Runtime; whatever it does to
the child, the running model does not notice. `trial_child` is the child's side.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from agent.child import run_child
from agent.engine.memory import MIB
from agent.engine.session import ProviderMissingError, SessionSetup
from agent.errors import ConfigError, Harm
from agent.interfaces import TensorSpec

TRIAL_LIMIT_S = 120.0
"""For creating up to six sessions and a few runs of each: a 100 MB network on a slow SD card takes a minute."""

DESCRIBE_BYTES = 1024 * MIB
"""What a network may take while it is only looked at, where nobody states a limit."""

FILE_BYTES_MAX = 2 << 30
"""Of a file that the child writes: the size of the largest network."""


EXTRAS_BYTES_MAX = 4 << 20
"""Of constants in JSON, as the child is given them: a model.toml has 1 MiB at most, and JSON makes no value more than
four times as long as it is there (1e15)."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a network takes in memory, measured where nothing else runs.

    Attributes:
        session_bytes: once it is created: weights, packed weights, kernels.
        run_bytes: in addition once it has run: activations and outputs.
        peak_bytes: the most it took on the way there.
        input_bytes: of the largest input that it was run with.
        has_memory_pattern: how it was run, and takes the least; see `SessionSetup`.
    """

    session_bytes: int
    run_bytes: int
    peak_bytes: int
    input_bytes: int
    has_memory_pattern: bool = True

    @property
    def steady_bytes(self) -> int:
        """What it takes for as long as it serves."""
        return self.session_bytes + self.run_bytes

    def __str__(self) -> str:
        return (
            f"{_mib(self.steady_bytes)} ({_mib(self.session_bytes)} of weights and kernels, {_mib(self.run_bytes)} "
            f"of activations), {_mib(self.peak_bytes)} at its peak"
        )


@dataclass(frozen=True, slots=True)
class TensorShape:
    """The input of a network that a frame becomes, as the agent gives it.

    Attributes:
        name: of the input.
        dtype: by numpy's name.
        shape: of the tensor.
        sizes: inputs beside it that are two numbers, such as a height and a width, by name.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Extras:
    """What a network takes beside the frame, whatever its shape; the rest begins as zeros, as in the agent's warm-up.

    Attributes:
        constants: values by name of the input, one for the whole tensor or as many as it holds.
        states: names of the outputs that are the next run's inputs, by the input's name.
    """

    constants: Mapping[str, tuple[bool | int | float | str, ...]] = field(default_factory=dict)
    states: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trial:
    """What is tried.

    Attributes:
        file: the network, or its compiled form.
        setup: how the agent would run it.
        inputs: each shape with which it will be run.
        external: digests of its files of weights, by name.
        is_compiled: the optimiser has nothing left to do.
        is_beside: the agent serves meanwhile, so that the child stays on one CPU and lets everything else go first.
        extras: with which it will be run.
    """

    file: Path
    setup: SessionSetup
    inputs: tuple[TensorShape, ...]
    external: Mapping[str, str] = field(default_factory=dict)
    is_compiled: bool = False
    is_beside: bool = False
    extras: Extras = field(default_factory=Extras)


def measure(trial: Trial, *, limit_bytes: int, limit_s: float = TRIAL_LIMIT_S) -> Cost:
    """Create and run a network in a child process and return what it took.

    Raises:
        ConfigError: it is refused, crashes, does not end in time or asks for more than `limit_bytes`.
        ProviderMissingError: a provider of the setup does not work here.
    """
    return _cost(_in_child(trial, "", limit_bytes, limit_s))


@dataclass(frozen=True, slots=True)
class Description:
    """What a network says of itself.

    Attributes:
        inputs: that it takes.
        outputs: that it gives.
        metadata: what its exporter wrote, unchecked.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: Mapping[str, str]


def describe(
    file: Path,
    setup: SessionSetup | None = None,
    *,
    limit_bytes: int = DESCRIBE_BYTES,
    is_beside: bool = False,
) -> Description:
    """Create a network in a child process and return what it says of itself; nothing of it is run.

    Raises:
        ConfigError: see `measure`.
    """
    looked_at = Trial(file, setup or SessionSetup(), (), is_beside=is_beside)
    reply = _in_child(looked_at, "", limit_bytes, TRIAL_LIMIT_S, is_described=True)

    def specs(given: Any) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name, np.dtype(dtype), tuple(shape)) for name, dtype, shape in given)

    return Description(specs(reply["inputs"]), specs(reply["outputs"]), reply["metadata"])


def compile_network(trial: Trial, folder: Path, *, limit_bytes: int, limit_s: float = TRIAL_LIMIT_S) -> Cost:
    """Let a child process write a network's optimised form into a folder, load that, and compare what both give.

    Returns:
        What the optimised form takes, measured in the same way.

    Raises:
        ConfigError: as `measure`.
        OSError: the network is good and its optimised form is not: not written, or it gives something else.
    """
    reply = _in_child(trial, str(folder), limit_bytes, limit_s)
    if "uncompiled" in reply:
        raise OSError(f"{trial.file}: {reply['uncompiled']}")
    return _cost(reply)


def _cost(reply: Mapping[str, Any]) -> Cost:
    return Cost(**{name: reply[name] for name in Cost.__dataclass_fields__})


def _in_child(
    trial: Trial, folder: str, limit_bytes: int, limit_s: float, *, is_described: bool = False
) -> Mapping[str, Any]:
    job = {
        **asdict(trial),
        "is_described": is_described,
        "file": str(trial.file),
        "folder": folder,
        "limit_bytes": limit_bytes,
        "file_bytes_max": FILE_BYTES_MAX,
    }
    if (size := len(json.dumps(job["extras"]))) > EXTRAS_BYTES_MAX:
        raise ConfigError(f"{trial.file}: its constants have {size} bytes in JSON, more than {EXTRAS_BYTES_MAX}")
    try:
        reply, code = run_child("agent.engine.trial_child", job, limit_s)
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"{trial.file}: loading and running it did not end within {limit_s:g} s: the network may hold an "
            "endless loop",
            "hangs",
        ) from None
    if "missing" in reply:
        raise ProviderMissingError(f"{trial.file}: {reply['error']}", reply["missing"])
    if "error" in reply:
        raise ConfigError(f"{trial.file}: {reply['error']}", harm_of(reply))
    if code != 0 or not reply:
        why, harm = ending(code)
        raise ConfigError(
            f"{trial.file}: the process that tried it {why}; it may have had {_mib(limit_bytes)} for the network",
            harm,
        )
    return reply


def harm_of(reply: Mapping[str, Any]) -> Harm | None:
    """Return what a child says that the network does; None where it says nothing that we know."""
    return next((harm for harm in get_args(Harm) if harm == reply.get("harm")), None)


def ending(code: int) -> tuple[str, Harm]:
    """Return how a child that gave no reply came to its end, for people, and what that says of its network.

    Args:
        code: its exit code, negative for the signal that ended it.
    """
    if code >= 0:
        return f"ended with {code}", "crashes"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # A real-time signal.
        name = f"signal {-code}"
    if name == "SIGKILL":
        # What it asks for is limited, so that only a device that has less than that to give ends it like this.
        return "was killed (SIGKILL), as the kernel does for want of memory", "too_big"
    if name == "SIGXCPU":
        return "had no CPU time left (SIGXCPU)", "hangs"
    return f"crashed ({name})", "crashes"


def _mib(size_bytes: float) -> str:
    return f"{size_bytes / MIB:.1f} MiB"
