"""The child's side of `tuning`: measures one model in many ways, one session at a time.

python -m agent.tuning_child: a job in JSON on standard input; on standard output a line of JSON for each step, and a
last one with what was found.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import resource
import signal
import statistics
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from agent.engine.process import give_back, prepare_process, prepare_serving

prepare_process()  # Before numpy and onnxruntime are imported.

import cv2  # noqa: E402

from agent.clock import NEVER_NS, NS_PER_MS, NS_PER_S, Clock, SystemClock  # noqa: E402
from agent.core.tuning import (  # noqa: E402
    Candidate,
    Figures,
    Measured,
    Options,
    Target,
    candidates,
    choose,
    misfits,
    thread_counts,
)
from agent.engine.budget import FRAME_BYTES, FRAMES_A_STREAM, SERVING_BYTES, Budget, Need  # noqa: E402
from agent.engine.memory import MIB, data_bytes, lower_limit, resident_bytes, trial_bytes  # noqa: E402
from agent.engine.prepare import Network, Workshop  # noqa: E402
from agent.engine.providers import NAMES  # noqa: E402
from agent.engine.session import available_providers  # noqa: E402
from agent.engine.trial import Cost  # noqa: E402
from agent.errors import ConfigError, EdgebeatError  # noqa: E402
from agent.fitting import extras_of, fed_shape  # noqa: E402
from agent.frame import Content, Frame  # noqa: E402
from agent.interfaces import Variant  # noqa: E402
from agent.loading import (  # noqa: E402
    Recipe,
    golden_contents,
    load_engine,
    load_variant,
    read_model,
)
from agent.models.manifest import FULL, Manifest, variants_of, with_size  # noqa: E402
from agent.provision import Provision  # noqa: E402
from agent.settings import Settings  # noqa: E402

ROUNDS = 7
"""Turns of each candidate. A median of 7 is not moved by three bad moments of the machine."""

ROUNDS_MIN = 3
"""Also where the time is over: below it a median means nothing."""

FRAMES = 3
"""Of a turn, after two that are not counted: 21 figures of each candidate."""

PAUSE_NS = 100 * NS_PER_MS
"""The longest pause after a frame: threads that spin have gone to sleep by then, so that all they cost is counted."""

_PR_SET_PDEATHSIG = 1  # prctl(2)

T = TypeVar("T")

Tell = Callable[[str, int, int], None]
"""Called with the stage, the steps that are done and how many there are."""


def main() -> None:
    """Do one job. Whatever goes wrong is a sentence in the reply, unless the process itself is ended."""
    job = json.loads(sys.stdin.buffer.read())
    _limit(job)
    try:
        reply = search(job, SystemClock(), lambda stage, done, steps: _say({"stage": [stage, done, steps]}))
    except ConfigError as error:
        reply = {"problems": error.problems[:10]}
    except MemoryError:
        reply = {"problems": ["it needs more memory than it may take here"]}
    _say(reply)
    os._exit(0)  # What a hostile network left behind is not unwound.


def search(job: Mapping[str, Any], clock: Clock, tell: Tell) -> dict[str, Any]:
    """Measure every candidate in turns and choose.

    Args:
        job: see `tuning.Search`.
        clock: times the runs.
        tell: hears of each step.

    Raises:
        ConfigError: the model cannot be used at all.
    """
    settings, target = Settings(**job["settings"]), Target(**job["target"])
    by_ns = clock.now_ns() + int(job["measure_s"] * NS_PER_S)
    (model,) = (one for one in settings.models if one.name == job["model"])
    provision = Provision(settings)
    if provision.cores.inference:
        os.sched_setaffinity(0, provision.cores.inference)
    own_bytes = resident_bytes()
    # A folder would be the running agent's, which does not expect another writer.
    workshop = Workshop(provision.setup, trial_bytes(provision.limit), None, 0)
    folder, manifest = read_model(model.path, workshop.describe)
    facts = provision.facts(manifest)
    for width, height in job["sizes"]:
        manifest = _sized(manifest, width, height)
    options, notes = _options(settings, provision, manifest, model.variant, job)
    wanted, left_out = candidates(options)
    cv2.setNumThreads(1)
    benches, refused = try_each(
        wanted,
        lambda one: variants_of(manifest, one.variant)[0][1].model.path,
        lambda one: _Bench(one, folder, manifest, provision, workshop, clock),
        tell,
        lambda bench: _memory_refusal(bench.cost, own_bytes, settings, provision, model.name),
    )
    prepare_serving()
    rounds = _measure(benches, target, clock, by_ns, tell)
    if 0 < rounds < ROUNDS:
        notes.append(f"only {rounds} of {ROUNDS} rounds: the time of {job['measure_s']:g} s was over")
    if manifest.golden is None:
        notes.append("the model has no [golden] sample: nothing proves that its variants find what they should")
    figures = {bench.candidate: bench.figures() for bench in benches}
    measured = [Measured(one, figures.get(one), refused.get(one, "")) for one in wanted]
    return _reply(measured, target, [*left_out, *notes], facts, manifest)


def try_each(
    wanted: Sequence[Candidate],
    network_of: Callable[[Candidate], str],
    make: Callable[[Candidate], T],
    tell: Tell,
    not_enough: Callable[[T], str],
) -> tuple[list[T], dict[Candidate, str]]:
    """Make each candidate; return those that can run and why the others cannot.

    A network without an end takes the whole time of its trial: its other candidates are refused with the same text,
    or the search would be given up before it could name what is wrong.

    Args:
        wanted: the candidates.
        network_of: tells a candidate's network.
        make: tries and loads a candidate.
        tell: hears of each step.
        not_enough: tells why what was made does not fit into the memory; empty where it does.
    """
    made: list[T] = []
    refused: dict[Candidate, str] = {}
    endless: dict[str, str] = {}
    for number, candidate in enumerate(wanted):
        tell("load", number, len(wanted))
        network = network_of(candidate)
        if network in endless:
            refused[candidate] = endless[network]
            continue
        try:
            one = make(candidate)
            if text := not_enough(one):
                refused[candidate] = text
            else:
                made.append(one)
        except EdgebeatError as error:
            refused[candidate] = str(error).replace("\n", "; ")[:300]
            if isinstance(error, ConfigError) and error.harm == "hangs":
                endless[network] = refused[candidate]
        give_back()
    return made, refused


class _Bench:
    """One candidate with its session, which is in memory during its turns only.

    One session at a time: all of them together would not fit on a small device, and the spinning threads of one
    would be charged to the next.

    Raises:
        EdgebeatError: it cannot be loaded, or does not reproduce the golden sample.
    """

    def __init__(
        self,
        candidate: Candidate,
        folder: Path,
        manifest: Manifest,
        provision: Provision,
        workshop: Workshop,
        clock: Clock,
    ) -> None:
        own = variants_of(manifest, candidate.variant)[0][1]
        setup = replace(
            provision.setup,
            threads=candidate.threads,
            spins=candidate.spins,
            has_arena=candidate.has_arena,
            providers=provision.providers_named(candidate.providers),
            uses_shared_arena=False,
        )
        file, shape = own.model, fed_shape(folder, own)
        network = Network(folder / file.path, file.sha256, (shape,), file.external_data, extras_of(own))
        prepared = workshop.prepare(network, setup)
        if prepared.missing:
            raise ConfigError(f"{', '.join(prepared.missing)} does not work for it here")
        self.candidate = candidate
        self.cost: Cost = prepared.cost
        recipe = Recipe(prepared={own.model.path: prepared})
        engine = load_engine(folder, own, candidate.threads, recipe)
        self._variant: Variant = load_variant(candidate.variant, folder, own, engine, clock)
        self._contents: Sequence[Content] = golden_contents(folder, own)
        self._clock = clock
        self._sequence = 0
        self._times_ms: list[float] = []
        self._cpu_ms: list[float] = []
        engine.release()

    def turn(self, period_ns: int) -> None:
        """Load the session, run some frames at the pace of the stream, and drop it."""
        never = threading.Event()
        for _ in range(2):
            self._frame()
        cpu_before_ms = _cpu_ms()
        for _ in range(FRAMES):
            started_ns = self._clock.now_ns()
            self._frame()
            took_ns = self._clock.now_ns() - started_ns
            self._times_ms.append(took_ns / NS_PER_MS)
            self._clock.wait(never, max(0, min(period_ns, PAUSE_NS + took_ns) - took_ns))
        self._cpu_ms.append((_cpu_ms() - cpu_before_ms) / FRAMES)
        self._variant.engine.release()
        give_back()

    def figures(self) -> Figures | None:
        """Return what it took; None where it had no turn."""
        times = sorted(self._times_ms)
        if not times:
            return None
        p95 = times[math.ceil(0.95 * len(times)) - 1]
        return Figures(
            p50_ms=round(statistics.median(times), 2),
            p95_ms=round(p95, 2),
            cpu_ms=round(statistics.median(self._cpu_ms), 2),
            memory_mb=round(self.cost.steady_bytes / MIB, 1),
            frames=len(times),
        )

    def _frame(self) -> None:
        variant = self._variant
        self._sequence += 1
        content = self._contents[self._sequence % len(self._contents)]
        frame = Frame("", self._sequence, 0, NEVER_NS, content, follows=True)
        inputs, placement = variant.preprocess(content)
        if variant.memory is not None:
            inputs |= variant.memory.recall(frame)
        outputs = variant.engine.run(inputs, variant.engine.new_abort())
        if variant.memory is not None:
            variant.memory.remember(frame, outputs)
        variant.decoder.decode(outputs, placement)


def _measure(benches: Sequence[_Bench], target: Target, clock: Clock, by_ns: int, tell: Tell) -> int:
    """Give each candidate its turns; return how many rounds there were.

    The order is another one in each round, so that none always follows the same other one.
    """
    period_ns = int(NS_PER_S / target.fps)
    for number in range(ROUNDS if benches else 0):
        if number >= ROUNDS_MIN and clock.now_ns() > by_ns:
            return number
        first = number * len(benches) // ROUNDS
        for place, bench in enumerate([*benches[first:], *benches[:first]]):
            tell("measure", number * len(benches) + place, ROUNDS * len(benches))
            bench.turn(period_ns)
    return ROUNDS if benches else 0


def _options(
    settings: Settings, provision: Provision, manifest: Manifest, variant: str | None, job: Mapping[str, Any]
) -> tuple[Options, list[str]]:
    """Return what may be tried: what the settings name is taken as it is."""
    engine, notes = settings.engine, []
    names = [name for name, _ in variants_of(manifest)]
    sizes = [_size_name(width, height) for width, height in job["sizes"]]
    if job["variants"] is not None:
        if unknown := [name for name in job["variants"] if name not in names]:
            raise ConfigError(f"{manifest.name}: has no variant {unknown[0]!r}: known are {', '.join(names)}")
        allowed = [name for name in names if name in job["variants"] or name in sizes]
    elif variant is not None:
        allowed = [variant_name for variant_name, _ in variants_of(manifest, variant)[:1]]
        notes.append(f"the settings name the variant {variant}: no other was tried")
    elif "variant" in settings.degradation.steps:
        allowed = names
    else:
        allowed = [name for name in names if name == FULL or name in sizes]
        notes.append("degradation.steps does not hold 'variant': lighter ones were not tried")
    threads = thread_counts(provision.threads)
    if engine.run_threads is not None:
        threads = (provision.setup.threads,)
        notes.append(f"engine.run_threads = {engine.run_threads}: no other number was tried")
    asked = tuple(one.name for one in provision.setup.providers)
    if "providers" in engine.model_fields_set:
        lists = tuple(asked[start:] for start in range(len(asked)))
    else:
        others = [name for name in NAMES if NAMES[name] in available_providers() and name != "cpu"]
        lists = (*((name, "cpu") for name in others), ("cpu",))
    found = Options(
        variants=tuple(allowed),
        providers=lists,
        threads=threads,
        spinning=(False, True) if engine.spinning is None else (engine.spinning,),
        arenas=(True, False) if engine.arena is None else (engine.arena,),
    )
    return found, notes


def _sized(manifest: Manifest, width: int, height: int) -> Manifest:
    name = _size_name(width, height)
    if manifest.input is None:
        raise ConfigError(f"{manifest.name}: takes a signal, which has no width and height")
    if name in {variant for variant, _ in variants_of(manifest)}:
        raise ConfigError(f"{manifest.name}: has a variant {name!r} already")
    return with_size(manifest, name, (width, height))


def _size_name(width: int, height: int) -> str:
    return f"{width}x{height}"


def _memory_refusal(cost: Cost, own_bytes: int, settings: Settings, provision: Provision, model: str) -> str:
    """Return why a candidate does not fit into the agent's memory, as its start would say; empty where it does."""
    serving = SERVING_BYTES + FRAMES_A_STREAM * FRAME_BYTES * len(settings.streams)
    refusal = Budget(provision.limit, own_bytes, serving, (Need(model, {"": cost}),)).refusal()
    return refusal[0] if refusal else ""


def _reply(
    measured: Sequence[Measured], target: Target, notes: Sequence[str], facts: Mapping[str, str], manifest: Manifest
) -> dict[str, Any]:
    choice = choose(measured, target)
    way = None
    if choice.taken is not None:
        taken = choice.taken.candidate
        own = variants_of(manifest, taken.variant)[0][1].input
        is_size = own is not None and taken.variant == _size_name(own.width, own.height)
        size = (own.width, own.height) if own is not None and is_size else (None, None)
        way = {**asdict(taken), "providers": list(taken.providers), "width": size[0], "height": size[1]}
    rows = [
        {
            **asdict(one.candidate),
            **({} if one.figures is None else asdict(one.figures)),
            "refusal": one.refusal or "; ".join([] if one.figures is None else misfits(one.figures, target)),
            "is_taken": one is choice.taken,
        }
        for one in measured
    ]
    return {"rows": rows, "way": way, "why": list(choice.why), "notes": list(notes), "facts": dict(facts)}


def _limit(job: Mapping[str, Any]) -> None:
    """Bound what this process can do to the device: it goes first when memory runs out, and with its parent."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(job["nice"])
    if job["cpus"] is not None:
        os.sched_setaffinity(0, job["cpus"])
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if job["limit_bytes"] is not None:
        lower_limit(resource.RLIMIT_DATA, data_bytes() + job["limit_bytes"])


def _cpu_ms() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return (usage.ru_utime + usage.ru_stime) * 1000


def _say(line: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
