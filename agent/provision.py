"""What the models are given of this device: CPUs, memory, providers, the cache; and whether all of it fits."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.core.tuning import Target
from agent.engine.budget import FRAME_BYTES, FRAMES_A_STREAM, SERVING_BYTES, Budget
from agent.engine.cpus import effective_cpus, plan_cores
from agent.engine.custom_ops import check_custom_ops
from agent.engine.memory import MIB, memory_limit, resident_bytes, trial_bytes
from agent.engine.prepare import Workshop
from agent.engine.process import give_back
from agent.engine.providers import NAMES, Provider, device_memory, plan_providers, too_many_threads
from agent.engine.session import SessionSetup, available_providers, share_arena
from agent.engine.tuned import Tuned, TunedFile, facts_of
from agent.errors import ConfigError, DoesNotFitError
from agent.fitting import networks_of
from agent.interfaces import LoadedModel
from agent.loading import Conduct, Recipe, Surveyed, survey
from agent.models.manifest import FULL, Manifest
from agent.settings import ModelSettings, Settings, StreamSettings

log = logging.getLogger(__name__)

_GPU = frozenset({"cuda", "tensorrt"})


class Provision:
    """Decides what the models may take, before any of them is loaded. The main thread, at start.

    Args:
        settings: valid.
        loaded: the models that serve already, with how they were loaded; what comes in must fit beside them.
        carried: what the run before this one measured, from `export`.
        keeps: whether costs and compiled networks are kept in the state folder; False for a check, which may be
            another user's: what that one writes the agent could neither trust nor replace.
        sessions: models between which the CPUs are divided, where there are others than those of the settings.

    Raises:
        ConfigError: a core, a provider or an operator library cannot be used as the settings say.
    """

    def __init__(
        self,
        settings: Settings,
        loaded: Mapping[str, Surveyed] | None = None,
        carried: Mapping[str, Any] | None = None,
        *,
        keeps: bool = True,
        sessions: int | None = None,
    ) -> None:
        engine = settings.engine
        self._settings = settings
        self.limit = memory_limit(settings.limits.memory_mb)
        self.cores = plan_cores(settings.limits.inference_cores)
        self.cpus = effective_cpus(settings.limits.threads, allowed=self.cores.inference or None)
        used = {stream.model for stream in settings.streams}
        self.sessions = max(1, sessions or len(used))
        """Models between which the CPUs are divided."""
        self.threads = max(1, self.cpus // self.sessions)
        """Of one inference: all CPUs divided evenly, at least 1."""
        check_custom_ops(engine.custom_ops)
        self._providers = plan_providers(engine.providers, engine.provider_options, available_providers())
        if problems := too_many_threads(self._providers.usable, self.threads):
            raise ConfigError(problems)
        self.setup = SessionSetup(
            threads=min(engine.run_threads or self.threads, self.threads),
            cores=self.cores.inference,
            providers=self._providers.usable,
            custom_ops=engine.custom_ops,
            uses_shared_arena=True,
            spins=bool(engine.spinning),
            has_arena=engine.arena is not False,
        )
        """Of a model for which nothing was tuned."""
        self._tuned_file = TunedFile(state_folder(settings) if engine.use_tuned else None)
        self._tuned: dict[str, Tuned] = {}
        folder = state_folder(settings) if keeps else None
        self.workshop = Workshop(self.setup, trial_bytes(self.limit), folder, engine.cache_mb * MIB, carried)
        self._loaded = dict(loaded or {})
        self._surveyed: dict[str, Surveyed] = {}
        self._serving = set(self._loaded)
        """Names of the models that serve while those that are surveyed are loaded."""
        self._own_bytes = 0
        """Resident when the first models were judged, with nothing of theirs there yet."""
        self._arena_bytes = 0
        """Of each arena; what was left when the first models were loaded, with nothing of theirs resident yet."""
        self._coming_bytes = 0
        """Of frames, what the streams of a change take beyond those before it."""
        self._keeps_all = True
        self.budget: Budget | None = None
        """Of all that serves in the end, once what is new was found to fit."""
        for name in self._providers.absent:
            log.warning("engine.providers: %s is not in this build of ONNX Runtime: it is left out", name)

    def follow(self, settings: Settings, *, sessions: int | None = None) -> Provision:
        """Return what models may take by other settings, beside those that serve. The memory limit stays.

        Args:
            settings: valid.
            sessions: see the class.

        Raises:
            ConfigError: see the class.
        """
        names = {stream.model for stream in settings.streams}
        kept = {name: known for name, known in (self._loaded | self._surveyed).items() if name in names}
        before = self._settings
        is_alike = (settings.limits, settings.engine) == (before.limits, before.engine)
        if is_alike and sessions in (None, self.sessions) and names == {stream.model for stream in before.streams}:
            # What most changes leave alone, and reading it took 13 ms on a busy device.
            follower = copy.copy(self)
            follower._settings, follower._loaded, follower._surveyed = settings, kept, {}
            follower._serving = set(kept)
            follower._tuned = dict(self._tuned)
            follower._coming_bytes = _coming_bytes(before, settings)
            return follower
        follower = Provision(settings, kept, self.export(), sessions=sessions)
        follower._serving = set(self._known)
        follower._own_bytes, follower._arena_bytes = self._own_bytes, self._arena_bytes
        follower._coming_bytes = _coming_bytes(before, settings)
        follower.limit = self.limit
        follower._tuned = {name: tuned for name, tuned in self._tuned.items() if name in kept}
        return follower

    def survey(self, model: ModelSettings) -> None:
        """Try a model's networks in a child process.

        Raises:
            ConfigError: they cannot be used.
        """
        self.workshop.is_beside = bool(self._serving)
        self.workshop.keep_only(one for known in self._known.values() for one in known.prepared.values())
        self._surveyed[model.name] = survey(model, self.workshop, lambda manifest: self._conduct(model, manifest))

    def facts(self, manifest: Manifest) -> dict[str, str]:
        """Return what a tuned result of a model depends on here."""
        return facts_of(manifest.name, networks_of(manifest), self.cpus, self.limit.limit_bytes // MIB)

    def threads_of(self, model: str) -> int:
        """Return the threads of one inference of a model that was surveyed."""
        setup = self._known[model].conduct.setup
        return (setup or self.setup).threads

    def _conduct(self, model: ModelSettings, manifest: Manifest) -> Conduct:
        """Return how a model is run: as the settings say, else as it was tuned, else as always."""
        self._tuned.pop(model.name, None)
        tuned, why = self._tuned_file.find(self.facts(manifest), asked_of(model.name, self._settings.streams))
        known = {FULL, *(variant.name for variant in manifest.variants)}
        if tuned is not None and tuned.way.width is None and tuned.way.variant not in known:
            why = f"{self._tuned_file.file}: is not used: {tuned.way.variant!r} is no variant of {manifest.name}"
            tuned = None
        if why is not None:
            log.warning("%s", why)
        if model.variant not in (None, *known):
            raise ConfigError(
                f"models.{model.name}.variant: {manifest.name} has no variant {model.variant!r}: known are "
                f"{', '.join(sorted(known))}"
            )
        if tuned is None:
            return Conduct(self.setup, model.variant or FULL)
        self._tuned[model.name] = tuned
        engine, way = self._settings.engine, tuned.way
        log.info("%s: runs as it was tuned, but for what the settings name: %s", model.name, tuned.text())
        is_stated = "providers" in engine.model_fields_set
        wanted = self.setup.providers if is_stated else self.providers_named(way.providers)
        setup = replace(
            self.setup,
            threads=min(engine.run_threads or way.threads, self.threads),
            providers=wanted or self.setup.providers,
            spins=way.spins if engine.spinning is None else engine.spinning,
            has_arena=way.has_arena if engine.arena is None else engine.arena,
        )
        if model.variant is not None:
            return Conduct(setup, model.variant)
        has_size = way.width is not None and way.height is not None
        return Conduct(setup, way.variant, (way.width, way.height) if has_size else None)  # type: ignore[arg-type]

    def providers_named(self, names: Sequence[str]) -> tuple[Provider, ...]:
        """Return the providers of these names that this build has, with the options of the settings."""
        known = [name for name in names if name in NAMES and NAMES[name] in available_providers()]
        return (
            plan_providers(known, self._settings.engine.provider_options, available_providers()).usable
            if known
            else ()
        )

    def fit(self, *, must_fit: bool = True) -> None:
        """Check that what was surveyed fits, and the streams that come; give the sessions their arena.

        Args:
            must_fit: False for a run that replaces another: the same models served a moment ago, so it is only said.

        Raises:
            DoesNotFitError: with the figures and what would fit.
        """
        needs = tuple(found.need for found in self._surveyed.values())
        serving = SERVING_BYTES + sum(map(_frames_bytes, self._settings.streams))
        if self._coming_bytes:
            give_back()  # What streams that went before left behind is there for those that come.
        own = resident_bytes()
        # Where models serve already, what they and their streams take is resident.
        is_change = bool(self._serving)
        judged = Budget(self.limit, own, self._coming_bytes if is_change else serving, needs, is_change)
        if needs or self._coming_bytes:
            refusal = judged.refusal()
            if refusal and must_fit:
                raise DoesNotFitError(refusal, judged.missing_bytes)
            for line in refusal:
                log.error("%s", line)
        if needs:
            self._keeps_all = judged.holds_all
            if not self._keeps_all:
                log.warning(
                    "memory: lighter variants are loaded when they are needed: %s does not hold all", self.limit
                )
        self._own_bytes = self._own_bytes or own
        self.budget = Budget(
            self.limit, self._own_bytes, serving, tuple(known.need for known in self._known.values())
        )
        self._arena_bytes = self._arena_bytes or self.budget.arena_bytes
        self.renew_arena()

    def renew_arena(self) -> None:
        """Give the sessions that are made from now on an arena of their own, where no other model serves.

        In that of the old model, its successor's packed weights would lie between the old one's activations, and all
        of it would stay for good. Several models share one: it holds the activations of the largest alone.
        """
        if self._surveyed and self._serving <= self._surveyed.keys():
            self._share_arena()

    def leave_arena(self, models: Iterable[str]) -> None:
        """Drop the arena of models that left the memory, where no other model serves in it.

        It would keep their activations until the next one takes its place: 14 MiB of the default model in float.
        """
        if self._known.keys() <= set(models):
            self._share_arena()

    def _share_arena(self) -> None:
        if self._arena_bytes:
            share_arena(self._arena_bytes)

    def export(self) -> dict[str, Any]:
        """Return what was measured, for `handover`."""
        return self.workshop.export()

    @property
    def _known(self) -> dict[str, Surveyed]:
        """Every model that serves: those that were there, and those that came."""
        return self._loaded | self._surveyed

    def served(self) -> list[str]:
        """Return the names of the models that serve. Any thread."""
        return sorted(self._known)

    def peak_bytes(self, model: str) -> int:
        """Return the most that the largest network of a model took while it was tried. Any thread."""
        return max((cost.peak_bytes for cost in self._known[model].need.costs.values()), default=0)

    def held_bytes(self, models: Iterable[str]) -> int:
        """Return what models hold in memory, each with its own network alone. Any thread."""
        known = self._known
        return sum(known[name].need.own.steady_bytes for name in models if name in known)

    @property
    def spare_bytes(self) -> int:
        """What may still be taken now, for a model that is to be loaded beside those that serve. Any thread."""
        return self.limit.limit_bytes - resident_bytes()

    def recipe(self, model: str) -> Recipe:
        """Return how a model that was surveyed is loaded; after `fit`."""
        assert self.budget is not None
        found = self._surveyed[model]
        largest = {path: self.budget.input_bytes_max(one.cost) for path, one in found.prepared.items()}
        first = found.conduct.first
        return Recipe((found.folder, found.manifest), found.prepared, largest, self._keeps_all, first)

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """Return what the operator should hear once, of what was surveyed here; asked for when its models serve.

        That is after the start and after each change: providers that are left out, a tuned way, a cache that fails.
        """
        found: list[tuple[str, dict[str, Any]]] = []
        if came := sorted(self._surveyed.keys() - self._loaded.keys()):
            found += [_fallback(name, came, "not in this build") for name in self._providers.absent]
        for model, known in self._surveyed.items():
            found += [_fallback(name, [model], why) for name, why in _left_out(known).items()]
        found += [
            ("model_tuned", {"model": name, **self._session(name)}) for name in self._surveyed if name in self._tuned
        ]
        found += [("cache_failed", {"reason": why}) for why in self.workshop.failures]
        self.workshop.failures.clear()
        return found

    def snapshot(self, models: Mapping[str, LoadedModel], cores: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was asked for and what is in force, for health.

        Args:
            models: that are loaded.
            cores: from `place_threads`.
        """
        asked = self._settings.limits.threads
        return {
            "threads": {"asked": asked, "in_force": self.cpus, "a_session": self.threads},
            "cores": dict(cores),
            "providers": {
                "asked": list(self._providers.asked),
                "absent": self._providers.absent,
                "left_out": {name: why for name, known in self._known.items() if (why := _left_out(known))},
                "in_force": {name: _providers_of(model) for name, model in models.items()},
                "devices": device_memory() if _GPU & set(self._providers.asked) else [],
            },
            "memory": self._memory(models),
            "cache": self.workshop.snapshot(),
            "sessions": {name: self._session(name) for name in models if name in self._known},
        }

    def _session(self, model: str) -> dict[str, Any]:
        """Return how a model is run, and what of it was tuned."""
        conduct = self._known[model].conduct
        setup, tuned = conduct.setup or self.setup, self._tuned.get(model)
        return {
            "threads": setup.threads,
            "spinning": setup.spins and setup.threads > 1,
            "arena": setup.has_arena,
            "first_variant": conduct.first,
            "tuned": None if tuned is None else {"at": tuned.at, "fps": tuned.fps, "deadline_ms": tuned.deadline_ms},
        }

    def _memory(self, models: Mapping[str, LoadedModel]) -> dict[str, Any]:
        budget = self.budget
        if budget is None:
            return {}
        return {
            "limit_mb": _mb(self.limit.limit_bytes),
            "limit_source": self.limit.source,
            "own_mb": _mb(budget.own_bytes),
            "serving_mb": _mb(budget.serving_bytes),
            "networks": {
                model: {
                    name: {
                        "steady_mb": _mb(cost.steady_bytes),
                        "peak_mb": _mb(cost.peak_bytes),
                        "memory_pattern": cost.has_memory_pattern,
                    }
                    for name, cost in known.need.costs.items()
                }
                for model, known in self._known.items()
            },
            "unloaded": [
                f"{name}: {variant.name}"
                for name, model in models.items()
                for variant in model.variants
                if not variant.engine.is_loaded
            ],
        }


def state_folder(settings: Settings) -> Path | None:
    """Return where something can be kept; the default folder is the service manager's to make."""
    folder = settings.state.dir
    is_usable = "dir" in settings.state.model_fields_set or folder.is_dir()
    return folder if is_usable else None


def asked_of(model: str, streams: Sequence[StreamSettings]) -> Target | None:
    """Return what the streams ask of a model; None where they state no frame rate or have no deadline at all."""
    own = [stream for stream in streams if stream.model == model and stream.enabled]
    deadlines = [stream.budget_ms for stream in own if stream.budget_ms is not None]
    fps = sum(stream.max_fps or stream.fps or 0.0 for stream in own)
    return Target(fps, min(deadlines)) if deadlines else None


def _coming_bytes(before: Settings, after: Settings) -> int:
    """Return how much more the frames of other streams take; what goes makes room for what comes."""
    old, new = (sum(_frames_bytes(one) for one in known.streams if one.enabled) for known in (before, after))
    return max(0, new - old)


def _frames_bytes(stream: StreamSettings) -> int:
    is_known = stream.width is not None and stream.height is not None
    one = stream.width * stream.height * 3 if is_known else FRAME_BYTES  # type: ignore[operator]
    return FRAMES_A_STREAM * one


def _fallback(provider: str, models: list[str], reason: str) -> tuple[str, dict[str, Any]]:
    return "provider_fallback", {"provider": provider, "models": models, "reason": reason}


def _left_out(known: Surveyed) -> dict[str, str]:
    """Return why providers do not work for a model or one of its variants, by name."""
    return {name: why for prepared in known.prepared.values() for name, why in prepared.missing.items()}


def _providers_of(model: LoadedModel) -> Sequence[str]:
    return list(model.variants[0].engine.providers)


def _mb(size_bytes: int) -> float:
    return round(size_bytes / MIB, 1)
