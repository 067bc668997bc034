"""Before a network is loaded: what it costs here, and its compiled form, both made once and remembered."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.engine.cache import FORMAT, CompiledCache, cpu_flags
from agent.engine.digest import sha256_of
from agent.engine.providers import CPU, Provider
from agent.engine.session import EXTENSIONS, ProviderMissingError, SessionSetup, runtime_version, verified_sha256
from agent.engine.trial import Cost, Description, Extras, TensorShape, Trial, compile_network, describe, measure
from agent.errors import ConfigError
from agent.json_file import read_json, write_json

log = logging.getLogger(__name__)

COSTS_MAX = 64
"""Networks whose cost is remembered: four times the models that settings can name."""

FAILURES_MAX = 32
"""Of the cache, kept until somebody asks: two for each model that settings can name. The log has them all."""

REASON_CHARS_MAX = 300
"""Of why a provider is left out, for events and health; as long as ONNX Runtime's own words may be."""


@dataclass(frozen=True, slots=True)
class Network:
    """A network's file and what is known of it before it is loaded.

    Attributes:
        file: the .onnx file.
        sha256: that it must have.
        inputs: each shape with which it will be run.
        external: digests of its files of weights, by name.
        extras: with which it will be run.
    """

    file: Path
    sha256: str
    inputs: tuple[TensorShape, ...]
    external: Mapping[str, str] = field(default_factory=dict)
    extras: Extras = field(default_factory=Extras)


@dataclass(frozen=True, slots=True)
class Prepared:
    """How a network is loaded, and what that takes.

    Attributes:
        setup: for its session, without the providers that do not work for it, and in the way that takes the least.
        compiled: its compiled form; None where there is none.
        cost: measured in a child process, now or when the same was loaded before.
        missing: why each provider that was asked for and does not work for it is left out, by its name.
    """

    setup: SessionSetup
    compiled: Path | None
    cost: Cost
    missing: Mapping[str, str] = field(default_factory=dict)


class Workshop:
    """Measures and compiles networks before the agent loads them. One thread.

    Args:
        setup: how sessions are made.
        limit_bytes: the most that a network may ask for while it is tried.
        folder: in the state folder; None where nothing can be kept: then each start measures, and none compiles.
        cache_bytes: for compiled networks; 0 for none.
        carried: costs that the run before this one knew, from `export`.
    """

    def __init__(
        self,
        setup: SessionSetup,
        limit_bytes: int,
        folder: Path | None,
        cache_bytes: int,
        carried: Mapping[str, Any] | None = None,
    ) -> None:
        self._setup = setup
        self._limit_bytes = limit_bytes
        self._cache = CompiledCache(folder / "compiled", cache_bytes) if folder is not None and cache_bytes else None
        self._costs_file = None if folder is None else folder / "costs.json"
        self._costs = {**({} if self._costs_file is None else read_json(self._costs_file)), **(carried or {})}
        self.is_beside = False
        """Whether models serve while others are tried."""
        self.failures: deque[str] = deque(maxlen=FAILURES_MAX)
        """Why something could not be compiled or remembered; the agent runs without it. Whoever tells them clears."""

    def describe(self, file: Path) -> Description:
        """Return what a network says of itself; see `trial.describe`.

        Where a provider fails, the CPU looks at it: nothing is run, and `prepare` tells what does not work.
        """
        try:
            return describe(file, self._setup, limit_bytes=self._limit_bytes, is_beside=self.is_beside)
        except ConfigError:
            if self._setup.providers == (CPU,):
                raise
            setup = replace(self._setup, providers=(CPU,))
            with contextlib.suppress(ConfigError):
                return describe(file, setup, limit_bytes=self._limit_bytes, is_beside=self.is_beside)
            raise

    def prepare(self, network: Network, setup: SessionSetup | None = None) -> Prepared:
        """Return how to load a network, after trying it where that was not done before.

        A provider with which it fails in whatever way is left out, and said, where another one of the list runs it.

        Args:
            network: the network.
            setup: in the place of the workshop's own.

        Raises:
            ConfigError: it cannot be used: damaged, refused by ONNX Runtime, without an end, or larger than the
                limit.
        """
        verified_sha256(network.file, network.sha256)
        setup = setup or self._setup
        missing: dict[str, str] = {}
        while True:
            try:
                return replace(self._tried(network, setup), missing=missing)
            except ConfigError as error:
                found = self._at_fault(network, setup, error)
                left = tuple(one for one in setup.providers if one.name not in found)
                if not left or len(left) == len(setup.providers):
                    raise
                for name, why in found.items():
                    log.warning("%s: runs without %s: %s", network.file, name, why)
                missing |= found
                setup = replace(setup, providers=left)

    def keep_only(self, serving: Iterable[Prepared]) -> None:
        """Let the compiled forms of all other networks go when there is no room for another."""
        if self._cache is not None:
            self._cache.keep_only(one.compiled for one in serving if one.compiled is not None)

    def export(self) -> dict[str, Any]:
        """Return what the CPU alone took, for the run that replaces this one: it must not wait for another trial."""
        return dict(self._costs)

    def snapshot(self) -> dict[str, Any] | None:
        """Return the figures of the cache for health; None without one."""
        return None if self._cache is None else self._cache.snapshot()

    def _tried(self, network: Network, setup: SessionSetup) -> Prepared:
        compiled = self._compiled(network, setup)
        cost = self._cost(network, setup, compiled)
        return Prepared(replace(setup, has_memory_pattern=cost.has_memory_pattern), compiled, cost)

    def _at_fault(self, network: Network, setup: SessionSetup, error: ConfigError) -> dict[str, str]:
        """Return why providers are to blame for a failure, by name; empty where it is the network's own.

        The CPU must run it, or where that is not listed any other one by itself; then each of the others is tried
        beside those that work, the last first. An accelerator before the CPU is one more trial.
        """
        if isinstance(error, ProviderMissingError):
            return dict.fromkeys(error.missing, _reason(network, error))
        providers = setup.providers
        if len(providers) == 1:
            return {}

        def failure(*tried: Provider) -> ConfigError | None:
            if len(tried) == len(providers):
                return error
            try:
                self._tried(network, replace(setup, providers=tried))
            except ConfigError as found:
                return found
            return None

        bases = (CPU,) if CPU in providers else reversed(providers)
        base = next((one for one in bases if failure(one) is None), None)
        if base is None:
            return {}
        working, found = {base}, {}
        for provider in reversed(providers):
            if provider in working:
                continue
            why = failure(*(one for one in providers if one in working or one == provider))
            if why is None:
                working.add(provider)
            else:
                found[provider.name] = _reason(network, why)
        return found

    def _compiled(self, network: Network, setup: SessionSetup) -> Path | None:
        # Providers with compilers of their own keep what they made in their own way (`trt_engine_cache_path`).
        if self._cache is None or setup.providers != (CPU,):
            return None
        facts = _facts(network, setup)
        if (found := self._cache.find(facts)) is not None:
            return found
        trial = Trial(
            network.file,
            setup,
            network.inputs,
            network.external,
            is_beside=self.is_beside,
            extras=network.extras,
        )

        def build(folder: Path) -> None:
            cost = compile_network(trial, folder, limit_bytes=self._limit_bytes)
            self._costs[_cost_key(network, setup, is_compiled=True)] = {"file": network.file.name, **asdict(cost)}

        try:
            made = self._cache.add(facts, build)
        except OSError as error:
            why = f"{network.file}: is used as it is, without a compiled form: {error.strerror or error}"
            self._say(why)
            return None
        self._remember()
        log.info("%s: compiled for this device", network.file)
        return made

    def _cost(self, network: Network, setup: SessionSetup, compiled: Path | None) -> Cost:
        # An accelerator may be gone since, and what it does then may end a process: that must be a child.
        is_remembered = setup.providers == (CPU,)
        key = _cost_key(network, setup, is_compiled=compiled is not None)
        known = _cost_of(self._costs.get(key)) if is_remembered else None
        if known is not None:
            return known
        trial = Trial(
            compiled or network.file,
            setup,
            network.inputs,
            network.external,
            compiled is not None,
            self.is_beside,
            network.extras,
        )
        cost = measure(trial, limit_bytes=self._limit_bytes)
        if is_remembered:
            self._costs[key] = {"file": network.file.name, **asdict(cost)}
            self._remember()
        return cost

    def _remember(self) -> None:
        if self._costs_file is None:
            return
        self._costs = dict(list(self._costs.items())[-COSTS_MAX:])
        try:
            self._costs_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_json(self._costs_file, self._costs)
        except OSError as error:
            why = f"{self._costs_file}: cannot be written, the next start measures again: {error.strerror}"
            self._say(why)

    def _say(self, why: str) -> None:
        log.warning("%s", why)
        self.failures.append(why)


def _reason(network: Network, error: ConfigError) -> str:
    return "; ".join(error.problems).removeprefix(f"{network.file}: ")[:REASON_CHARS_MAX]


def _facts(network: Network, setup: SessionSetup) -> dict[str, str]:
    """Return what a compiled network depends on. Threads, cores and the arena are chosen anew at each load."""
    return {
        "format": FORMAT,
        "model": network.sha256.lower(),
        "external": ",".join(f"{name}={digest.lower()}" for name, digest in sorted(network.external.items())),
        "onnxruntime": runtime_version(),
        "cpu": cpu_flags(),
        "providers": ",".join(f"{provider.name}{provider.options or ''}" for provider in setup.providers),
        "custom_ops": ",".join(op if op == EXTENSIONS else sha256_of(Path(op)) for op in setup.custom_ops),
        "optimised": "all",
    }


def _cost_key(network: Network, setup: SessionSetup, *, is_compiled: bool) -> str:
    """Return the name under which a network's cost is remembered."""
    facts = {**_facts(network, setup), "threads": str(setup.threads), "compiled": str(is_compiled)}
    facts |= {} if setup.has_arena else {"arena": "none"}
    # What is empty is left out: a network that takes nothing beside the frame keeps the name that it always had.
    inputs = [{key: value for key, value in asdict(one).items() if value} for one in network.inputs]
    extras = [asdict(network.extras)] if network.extras != Extras() else []
    return hashlib.sha256(json.dumps([sorted(facts.items()), inputs, *extras]).encode()).hexdigest()


def _cost_of(value: Any) -> Cost | None:
    """Return a remembered cost; None for what is none."""
    names = Cost.__dataclass_fields__
    if not isinstance(value, dict) or not all(isinstance(value.get(name), int) for name in names):
        return None
    return Cost(**{name: value[name] for name in names})
