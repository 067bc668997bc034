"""Which ways of running a model are worth a measurement, and which of the measured ones is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

CANDIDATES_MAX = 48
"""Of one search: 48 of them take 7 turns of half a second each, three minutes."""

BUSY_MAX = 0.8
"""Share of the time that runs may take at the frame rate; the rest is for capture, delivery and the odd slow run."""

RESERVE_MS = 2.0
"""Before its deadline a result must be handed to egress; see `EGRESS_RESERVE_NS`."""

ALIKE = 1.05
"""Differences of CPU time below 5% are the machine's noise: then the plainest candidate is taken."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a model.

    Attributes:
        variant: its name in model.toml, or of a size that was asked for.
        providers: execution providers, the preferred first.
        threads: of one inference, the calling thread included.
        spins: whether ONNX Runtime's own threads wait busily for work.
        has_arena: whether activations come from an arena that keeps its memory.
    """

    variant: str
    providers: tuple[str, ...] = ("cpu",)
    threads: int = 1
    spins: bool = False
    has_arena: bool = True

    @property
    def plainness(self) -> tuple[int, bool, bool]:
        """Order of candidates that cost the same: what takes least of the device first."""
        return (self.threads, self.spins, not self.has_arena)

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        spinning = ", spinning" if self.spins else ""
        arena = "" if self.has_arena else ", no arena"
        providers = "" if self.providers == ("cpu",) else f", {'+'.join(self.providers)}"
        return f"{self.variant}, {threads}{spinning}{arena}{providers}"


@dataclass(frozen=True, slots=True)
class Target:
    """What a model must keep up with on this device.

    Attributes:
        fps: frames a second of all its streams; 0 where that is not stated.
        deadline_ms: of the tightest of them.
    """

    fps: float
    deadline_ms: float

    def __str__(self) -> str:
        rate = f"{self.fps:g} fps " if self.fps else ""
        return f"{rate}within {self.deadline_ms:g} ms"


@dataclass(frozen=True, slots=True)
class Figures:
    """What one candidate took, frames from picture to payload.

    Attributes:
        p50_ms: median time of a frame.
        p95_ms: 95th percentile.
        cpu_ms: median CPU time of a frame with the pause behind it, all threads.
        memory_mb: of its network while it serves.
        frames: that were measured.
    """

    p50_ms: float
    p95_ms: float
    cpu_ms: float
    memory_mb: float
    frames: int


@dataclass(frozen=True, slots=True)
class Measured:
    """A candidate and what came of it.

    Attributes:
        candidate: as it was tried.
        figures: None where it could not run.
        refusal: why it could not run: golden sample, memory, ONNX Runtime; empty where it did.
    """

    candidate: Candidate
    figures: Figures | None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """What may be tried.

    Attributes:
        variants: allowed ones, the most accurate first.
        providers: lists of execution providers, the preferred list first.
        threads: numbers of threads.
        spinning: waiting, spinning or both.
        arenas: with the arena, without or both.
    """

    variants: tuple[str, ...]
    providers: tuple[tuple[str, ...], ...] = (("cpu",),)
    threads: tuple[int, ...] = (1,)
    spinning: tuple[bool, ...] = (False, True)
    arenas: tuple[bool, ...] = (True, False)


@dataclass(frozen=True, slots=True)
class Choice:
    """The candidate that is taken.

    Attributes:
        taken: None where none fits.
        why: for people, one sentence a line.
    """

    taken: Measured | None
    why: tuple[str, ...]


def thread_counts(cpus: int) -> tuple[int, ...]:
    """Return the numbers of threads that are tried: each up to 4, then doubled, and all."""
    counts = {count for count in (1, 2, 3, 4, 8, 16, 32, 64) if count <= cpus}
    return tuple(sorted(counts | {cpus}))


def candidates(options: Options) -> tuple[list[Candidate], list[str]]:
    """Return what is tried, the most accurate variant first, and what is left out to stay within `CANDIDATES_MAX`.

    A single thread has nobody who could spin; spinning and the arena are tried apart, because neither changes what
    the other costs.
    """
    notes: list[str] = []
    reduced = options
    steps = (
        ("without the arena was not tried", _without_arenas),
        ("spinning was not tried", _without_spinning),
        ("threads were tried at their ends only", _few_threads),
        ("the last variants were not tried", _first_variants),
    )
    for text, reduce in steps:
        if len(found := _grid(reduced)) <= CANDIDATES_MAX:
            break
        reduced = reduce(reduced)
        notes.append(f"{len(found)} candidates are more than {CANDIDATES_MAX}: {text}")
    return _grid(reduced)[:CANDIDATES_MAX], notes


def misfits(figures: Figures, target: Target) -> list[str]:
    """Return why a candidate does not keep up, empty when it does."""
    found = []
    if figures.p95_ms > target.deadline_ms - RESERVE_MS:
        found.append(f"p95 {figures.p95_ms:.1f} ms of a deadline of {target.deadline_ms:g}")
    if figures.p50_ms * target.fps > BUSY_MAX * 1000:
        busy = figures.p50_ms * target.fps / 10
        found.append(f"busy for {busy:.0f}% of the time at {target.fps:g} fps, {BUSY_MAX:.0%} may be")
    return found


def choose(measured: Sequence[Measured], target: Target) -> Choice:
    """Take the most accurate variant that keeps up, and of its candidates the one with the least CPU time.

    Args:
        measured: the candidates of one variant together, the most accurate variant first.
        target: what must be kept up with.
    """
    why: list[str] = []
    for variant, group in groupby(measured, key=lambda one: one.candidate.variant):
        ran = [(one, one.figures) for one in group if one.figures is not None]
        fitting = [(one, figures) for one, figures in ran if not misfits(figures, target)]
        if fitting:
            least = min(figures.cpu_ms for _, figures in fitting)
            alike = [(one, figures) for one, figures in fitting if figures.cpu_ms <= least * ALIKE]
            taken, figures = min(alike, key=lambda pair: (pair[0].candidate.plainness, pair[1].cpu_ms))
            why.append(
                f"{taken.candidate}: of {len(fitting)} candidate(s) of {variant} that keep up with {target} it takes "
                f"the least CPU, {figures.cpu_ms:.1f} ms a frame"
                + (f" ({len(alike)} are within 5% and it is the plainest)" if len(alike) > 1 else "")
            )
            return Choice(taken, tuple(why))
        why.append(f"{variant} is left: {_shortfall(ran, measured, variant, target)}")
    return Choice(None, (*why, f"none keeps up with {target}"))


def _shortfall(
    ran: Sequence[tuple[Measured, Figures]], measured: Sequence[Measured], variant: str, target: Target
) -> str:
    if not ran:
        return next(one.refusal for one in measured if one.candidate.variant == variant)
    nearest, figures = min(ran, key=lambda pair: pair[1].p95_ms)
    return f"{'; '.join(misfits(figures, target))} ({nearest.candidate})"


def _grid(options: Options) -> list[Candidate]:
    found = []
    for variant in options.variants:
        for providers in options.providers:
            for threads in options.threads:
                spinning = options.spinning if threads > 1 else tuple(sorted(options.spinning))[:1]
                plain_wait, plain_arena = spinning[0], options.arenas[0]
                pairs = dict.fromkeys(
                    [*((spins, plain_arena) for spins in spinning), *((plain_wait, has) for has in options.arenas)]
                )
                found += [Candidate(variant, providers, threads, spins and threads > 1, has) for spins, has in pairs]
    return found


def _without_arenas(options: Options) -> Options:
    return Options(options.variants, options.providers, options.threads, options.spinning, options.arenas[:1])


def _without_spinning(options: Options) -> Options:
    return Options(options.variants, options.providers, options.threads, options.spinning[:1], options.arenas)


def _few_threads(options: Options) -> Options:
    ends = tuple(dict.fromkeys((options.threads[0], options.threads[-1])))
    return Options(options.variants, options.providers, ends, options.spinning, options.arenas)


def _first_variants(options: Options) -> Options:
    each = len(options.providers) * len(options.threads)
    kept = options.variants[: max(1, CANDIDATES_MAX // each)]
    return Options(kept, options.providers, options.threads, options.spinning, options.arenas)
