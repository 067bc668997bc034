"""The child's side of `trial`: reads one job from standard input, writes one JSON object to standard output.

python -m agent.engine.trial_child
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.engine.process import give_back, prepare_process

prepare_process()  # Before numpy and onnxruntime are imported.

import numpy as np  # noqa: E402
import onnxruntime as ort  # noqa: E402

from agent.clock import NS_PER_S, SystemClock  # noqa: E402
from agent.engine.cache import NETWORK_NAME, WEIGHTS_NAME  # noqa: E402
from agent.engine.memory import MIB, anonymous_bytes, data_bytes, lower_limit, resident_bytes  # noqa: E402
from agent.engine.providers import Provider  # noqa: E402
from agent.engine.session import OrtEngine, ProviderMissingError, SessionSetup, session_options, share_arena  # noqa: E402
from agent.errors import ConfigError, EdgebeatError  # noqa: E402
from agent.frame import Tensor  # noqa: E402
from agent.interfaces import TensorSpec  # noqa: E402

RUNS = 3
"""As in the agent's warm-up: the first takes the activations one by one, after the second what that left goes back,
and the third is as all that follow."""

AGAIN_BELOW_NS = NS_PER_S
"""A network that is slower is run once: a start that is seconds longer is too much for the last MiB of a figure."""

LEANER_BYTES = MIB // 4
"""What running without a memory pattern must save: less is within what such figures vary by."""

BRIGHTEST = 15
"""Of 255 in the pictures that are tried: values that differ, so that two forms of a network can be compared, and
dark, as in the warm-up of the agent. The golden sample is compared later, in the agent."""

EXTERNAL_FROM_BYTES = 16 << 10
"""Smaller weights stay in the network's file: each one outside costs an open and a mapping at load."""

NICE_BESIDE = 10
"""A ninth of what the serving threads get of the CPU where both want it."""

AGREEMENT = 1e-3
"""Relative difference up to which the optimised network gives what the network gives: fused float kernels round in
another order."""

_PR_SET_PDEATHSIG = 1  # prctl(2)


def main() -> None:
    """Do one job. Whatever goes wrong is a sentence in the reply, unless the process itself is ended."""
    job = json.loads(sys.stdin.buffer.read())
    _limit(job)
    if job["setup"]["uses_shared_arena"]:
        share_arena(job["limit_bytes"])
    reply = _in_fork(_compile, job) if job["folder"] else {}
    if "ended_by" in reply:
        os.kill(os.getpid(), reply["ended_by"])  # The parent tells how it ended.
    if not reply:
        compiled = {"file": str(Path(job["folder"]) / NETWORK_NAME), "is_compiled": True} if job["folder"] else {}
        job = {**job, **compiled}
        if job["is_compiled"]:
            job["setup"]["has_memory_pattern"] = _is_leaner_with_pattern(job)
        reply = _done(_describe if job["is_described"] else _measure, job)
    sys.stdout.write(json.dumps(reply))
    sys.stdout.flush()
    os._exit(0)  # What a hostile network left behind is not unwound.


def _in_fork(body: Callable[[dict[str, Any]], dict[str, Any]], job: dict[str, Any]) -> dict[str, Any]:
    """Do something in a process of its own, so that what it takes is not measured; return its reply.

    Of one that a signal ended that is `ended_by`, the signal.

    Nothing that was imported has started a thread, so that a fork is safe here and saves a second round of imports.
    """
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        _end_with_parent()
        os.write(sending, json.dumps(_done(body, job)).encode())
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as stream:
        content = stream.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return {"ended_by": os.WTERMSIG(status)}
    reply: dict[str, Any] = json.loads(content)
    return reply


def _done(body: Callable[[dict[str, Any]], dict[str, Any]], job: dict[str, Any]) -> dict[str, Any]:
    """Return what a job gives, or the sentence that says what is wrong with the network."""
    try:
        return body(job)
    except ProviderMissingError as error:
        return {"error": str(error).removeprefix(f"{job['file']}: "), "missing": error.missing}
    except EdgebeatError as error:
        text = str(error).removeprefix(f"{job['file']}: ")
        is_memory = any(words in text for words in ("bad_alloc", "Failed to allocate", "Available memory of"))
        return _too_much(job) if is_memory else {"error": text}
    except MemoryError:
        return _too_much(job)


def _limit(job: dict[str, Any]) -> None:
    """Bound what this process can do to the device: it goes first when memory runs out, and with its parent."""
    _end_with_parent()
    if job["is_beside"]:
        # A live session of two threads took 3.4 times as long beside a load.
        os.nice(NICE_BESIDE)
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    lower_limit(resource.RLIMIT_FSIZE, job["file_bytes_max"])
    lower_limit(resource.RLIMIT_DATA, data_bytes() + job["limit_bytes"])


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _is_leaner_with_pattern(job: dict[str, Any]) -> bool:
    """Return whether a compiled network holds less memory with ONNX Runtime's memory pattern.

    Of six networks three did, by 0.2 to 3.2 MiB, and three held 0.7 to 3.2 MiB less without; the default model is as
    fast either way (docs/benchmarks.md). One that fails or is slow is left as ONNX Runtime would run it.
    """
    held: list[int] = []
    for has_pattern in (True, False):
        tried = {**job, "setup": {**job["setup"], "has_memory_pattern": has_pattern}}
        try:
            held_bytes = _in_fork(_hold, tried).get("held_bytes")
        except (OSError, ValueError):  # No process more, or it ended without a word.
            held_bytes = None
        if held_bytes is None:
            return True
        held.append(held_bytes)
    return held[0] <= held[1] + LEANER_BYTES


def _hold(job: dict[str, Any]) -> dict[str, Any]:
    """Return what a network holds with the shape that takes the most; nothing where it is slow."""
    engine = _engine(job, Path(job["file"]))
    held_bytes = 0
    for inputs in _inputs(job, engine):
        if not _run(engine, inputs, job["extras"]["states"]):
            return {}
        give_back()
        held_bytes = max(held_bytes, anonymous_bytes())
    return {"held_bytes": held_bytes}


def _run(engine: OrtEngine, inputs: dict[str, Tensor], states: Mapping[str, str]) -> bool:
    """Run a network as the agent's warm-up does; False where it was too slow for more than one time.

    Args:
        engine: the network.
        inputs: of the first run, which nothing came before.
        states: see `trial.Extras`.
    """
    clock = SystemClock()
    begun_ns = clock.now_ns()
    # The outputs themselves are not kept: they lie in the arena, and the next run would go around them.
    state = _remembered(engine, engine.run(inputs, engine.new_abort()), states)
    if clock.now_ns() - begun_ns > AGAIN_BELOW_NS:
        return False
    engine.shrink()  # At the end of the next run, which must not be the last: it holds nothing then.
    for _ in range(RUNS - 1):
        state = _remembered(engine, engine.run(inputs | state, engine.new_abort()), states)
    return True


def _remembered(engine: OrtEngine, outputs: list[Tensor], states: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the state for the next run; none where it does not fit or is no number, as the agent forgets it."""
    if not states:
        return {}
    taken = {spec.name: spec for spec in engine.inputs}
    given = {spec.name: tensor for spec, tensor in zip(engine.outputs, outputs, strict=True)}
    state = {name: given[output] for name, output in states.items() if name in taken and output in given}
    for name, tensor in state.items():
        is_finite = tensor.dtype.kind != "f" or np.isfinite(tensor).all()
        if not is_finite or tensor.size == 0 or not taken[name].fits(tensor.dtype, tensor.shape):
            return {}
    return state


def _measure(job: dict[str, Any]) -> dict[str, Any]:
    give_back()
    before = resident_bytes()
    _forget_peak()
    engine = _engine(job, Path(job["file"]))
    give_back()
    created = resident_bytes()
    input_bytes, ran = 0, created
    for inputs in _inputs(job, engine):
        _run(engine, inputs, job["extras"]["states"])
        # The next shape's runs give back what this one took.
        ran = max(ran, resident_bytes())
        input_bytes = max(input_bytes, sum(tensor.nbytes for tensor in inputs.values()))
    return {
        "session_bytes": max(0, created - before),
        "run_bytes": max(0, ran - created),
        "peak_bytes": max(0, ran - before, _peak_bytes() - before),  # The kernel notes a peak some pages late.
        "input_bytes": input_bytes,
        "has_memory_pattern": job["setup"]["has_memory_pattern"],
    }


def _describe(job: dict[str, Any]) -> dict[str, Any]:
    engine = _engine(job, Path(job["file"]))
    inputs, outputs = (
        [(spec.name, spec.dtype.str, spec.shape) for spec in specs] for specs in (engine.inputs, engine.outputs)
    )
    return {"inputs": inputs, "outputs": outputs, "metadata": engine.metadata}


def _compile(job: dict[str, Any]) -> dict[str, Any]:
    setup, folder = _setup(job), Path(job["folder"])
    options = session_options(setup, setup.threads)
    options.optimized_model_filepath = str(folder / NETWORK_NAME)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS_NAME)
    least = str(EXTERNAL_FROM_BYTES)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", least)
    engine = _engine(job, Path(job["file"]))
    try:
        ort.InferenceSession(job["file"], options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # noqa: BLE001  ONNX Runtime raises a dozen own types; the network itself has loaded.
        return {"uncompiled": f"its compiled form cannot be written: {' '.join(str(error).split())[:200]}"}
    try:
        compiled = OrtEngine(folder / NETWORK_NAME, sha256=None, setup=setup, compiled=folder / NETWORK_NAME)
    except ConfigError as error:
        # ONNX Runtime takes no notice of a full disk.
        return {"uncompiled": f"its compiled form is not whole, the disk may be full: {error}"}
    for inputs in _inputs(job, engine):
        wanted = engine.run(inputs, engine.new_abort())
        given = compiled.run(inputs, compiled.new_abort())
        if not all(_agree(one, other) for one, other in zip(wanted, given, strict=True)):
            return {"uncompiled": "its compiled form gives other results than the network itself"}
    return {}


def _setup(job: dict[str, Any]) -> SessionSetup:
    given = job["setup"]
    providers = tuple(
        Provider(one["name"], tuple((key, value) for key, value in one["options"])) for one in given["providers"]
    )
    return SessionSetup(
        given["threads"],
        (),
        providers,
        tuple(given["custom_ops"]),
        uses_shared_arena=given["uses_shared_arena"],
        spins=given["spins"],
        has_arena=given["has_arena"],
        has_memory_pattern=given["has_memory_pattern"],
    )


def _engine(job: dict[str, Any], file: Path) -> OrtEngine:
    compiled = file if job["is_compiled"] else None
    return OrtEngine(file, sha256=None, external=job["external"], setup=_setup(job), compiled=compiled)


def _inputs(job: dict[str, Any], engine: OrtEngine) -> Iterable[dict[str, Tensor]]:
    """Yield one input of each shape that the network takes: a dark picture, and what stands beside it.

    What does not fit is left out: the agent refuses it with a text that names the manifest's line.
    """
    random = np.random.default_rng(0)
    others = {spec.name: spec for spec in engine.inputs}
    for given in job["inputs"]:
        spec = others.get(given["name"])
        dtype = np.dtype(given["dtype"])
        if spec is None or not spec.fits(dtype, given["shape"]):
            continue
        values = random.integers(0, BRIGHTEST + 1, given["shape"], np.uint8)
        beside = (
            {name: (size, 2) for name, size in given["sizes"].items()}  # An open dimension holds both numbers.
            | {name: (values, 1) for name, values in job["extras"]["constants"].items()}
        )
        fed = {
            name: _beside(other, *beside.get(name, ((), 1))) for name, other in others.items() if name != spec.name
        }
        yield fed | {given["name"]: values.astype(dtype) if dtype.kind != "f" else (values / 255).astype(dtype)}


def _beside(spec: TensorSpec, values: Sequence[Any], free: int) -> Tensor:
    """Return an input that is no picture: a constant or a size of these values, see `TensorSpec.filled`.

    Without values, or with some that the agent refuses, zeros: a state begins with them, and a capture time is 0.
    """
    if values:
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            return spec.filled(values, free)
    return np.full(spec.closed(), "", object) if spec.dtype.kind == "O" else np.zeros(spec.closed(), spec.dtype)


def _agree(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    scale = float(np.abs(np.nan_to_num(one)).max(initial=0.0)) or 1.0
    return bool(np.allclose(one, other, rtol=AGREEMENT, atol=AGREEMENT * scale, equal_nan=True))


def _too_much(job: dict[str, Any]) -> dict[str, Any]:
    text = (
        f"it asks for more than the {job['limit_bytes'] / 2**20:.0f} MiB that it may have here: use a smaller "
        "network, or raise limits.memory_mb"
    )
    return {"error": text, "harm": "too_big"}


def _forget_peak() -> None:
    """Let VmHWM begin anew (proc(5), clear_refs)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), resident_bytes())


if __name__ == "__main__":
    main()
